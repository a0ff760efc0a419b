"""What a training run says while it runs: a JSONL file, Weights & Biases, a progress line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console

from telic.progress_bar import progress_bar
from telic.replacement import Kind, Replacement
from telic.training.loss_curve import draw_log


class WandbMode(Enum):
    """Where Weights & Biases writes: a local folder, its server, nowhere."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class WandbConfig:
    """Weights & Biases. Offline runs need no login and are uploaded later with `wandb sync`."""

    mode: WandbMode = WandbMode.offline  # where Weights & Biases writes
    project: str = "telic"  # name of the project
    name: str | None = None  # name of the run; None: one that wandb makes up


class RunLog:
    """Writes records of {name: number} for a step; use it as a context.

    `log.jsonl` holds one JSON object a line. A run resumed at step n first drops what an earlier
    attempt wrote after n, so the file reads as if the run had never stopped; `loss.png` shows its
    curves. On a terminal a bar shows rate and time left; elsewhere a plain line is printed every
    `interval_s`.
    """

    def __init__(
        self,
        folder: Path,
        config: object,
        wandb: WandbConfig,
        steps: int,
        start: int = 0,
        enabled: bool = True,
        interval_s: float = 15.0,
    ) -> None:
        self._folder, self._config, self._wandb = folder, config, wandb
        self._steps, self._start, self._enabled = steps, start, enabled
        self._interval_s = interval_s
        self._console = Console(stderr=True, markup=False)
        self._run: Any = None
        self._printed_at = self._began = time.monotonic()

    def __enter__(self) -> RunLog:
        if not self._enabled:
            return self
        self._folder.mkdir(parents=True, exist_ok=True)
        log = log_of(self._folder)
        path = log.path
        kept = [
            line
            for line in (path.read_text().splitlines() if path.exists() else [])
            if _step_of(line) <= self._start
        ]
        with log.writing() as fresh:
            fresh.write_text("".join(f"{line}\n" for line in kept))
        self._file = path.open("a")
        self._progress = progress_bar("train", self._console)
        self._progress.start()
        self._task = self._progress.add_task("", total=self._steps, completed=self._start)
        if self._wandb.mode is not WandbMode.disabled:
            self._run = _start_wandb(self._folder, self._config, self._wandb)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if not self._enabled:
            return
        self._progress.stop()
        self._file.close()
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)

    def write(self, step: int, record: Mapping[str, float]) -> None:
        """Append `record` for `step` to the file and to Weights & Biases."""
        if not self._enabled:
            return
        self._file.write(json.dumps({"step": step, **record}) + "\n")
        self._file.flush()
        if self._run is not None:
            self._run.log(dict(record), step=step)

    def advance(self, step: int, note: str) -> None:
        """Show that `step` steps are done; `note` stands beside the bar."""
        if not self._enabled:
            return
        now = time.monotonic()
        rate = (step - self._start) / max(1e-9, now - self._began)
        self._progress.update(self._task, completed=step, description=f"{note} {rate:.1f} steps/s")
        last = step == self._steps
        if self._progress.disable and (last or now - self._printed_at >= self._interval_s):
            self._printed_at = now
            left = (self._steps - step) / max(1e-9, rate)
            self.say(f"step {step}/{self._steps} {note} {rate:.1f} steps/s, {left:.0f} s left")

    def draw(self) -> None:
        """Draw `loss.png` anew; where that is not possible, say so and go on."""
        if not self._enabled:
            return
        folder = self._folder
        try:
            draw_log(folder / "log.jsonl", folder / "loss.png", f"Training of {folder}")
        except (OSError, ValueError) as error:
            self.say(f"the curves are not drawn: {error}")

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        if self._enabled:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def is_log(path: Path) -> bool:
    """Return whether the log of a training stands at `path`: its first line has a step."""
    try:
        with path.open() as file:
            first = file.readline()
    except (OSError, ValueError):
        return False
    begins = '{"step": '
    return first.startswith(begins) or begins.startswith(first)  # empty, or cut off by a kill


LOG = Kind("the log of a training", is_log)


def log_of(folder: Path) -> Replacement:
    """The log of the run in `folder`, in the place of an earlier one."""
    return Replacement(folder / "log.jsonl", LOG, overwrite=True)


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line cut off by a kill
        return 1 << 62


def _start_wandb(folder: Path, config: object, wandb_config: WandbConfig) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb  # here, because it takes a second and many runs do without

    return wandb.init(
        project=wandb_config.project,
        name=wandb_config.name,
        mode=wandb_config.mode.value,
        dir=str(folder),
        config=json.loads(json.dumps(asdict(config), default=str)),  # type: ignore[call-overload]
        settings=wandb.Settings(x_disable_stats=True, console="off"),
    )
