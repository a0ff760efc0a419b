"""`run-recipe`: collect, train, evaluate, control, one command after the other, and a summary.

Every stage is one of the project's own commands, printed as it is run, so that any of them can be
run again by hand. A recipe interrupted goes on where it stopped when it is run again.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from telic.configs.launch import CONFIGS, launch
from telic.spec import near_misses

STDOUT = Console(soft_wrap=True)


@dataclass(kw_only=True, slots=True)
class RecipeConfig:
    """Which recipe, into which folder, and how it is evaluated."""

    experiment: str = "metaworld_mt10"  # of collect-demos, train-policy and evaluate-policy
    out: str | None = None  # None: runs/<experiment>
    samplings: list[str] = field(default_factory=lambda: ["10", "2"])  # denoising steps
    control_task: str | None = "drawer-open-v3"  # None: no control run
    control_sampling: str = "2"
    control_s: float = 10.0

    def __post_init__(self) -> None:
        known = sorted(path.stem for path in (CONFIGS / "train" / "experiment").glob("*.yaml"))
        if self.experiment not in known:
            raise ValueError(
                f"experiment={self.experiment} is not one of {', '.join(known)}"
                f"{near_misses(self.experiment, known)}"
            )


def run(config: RecipeConfig) -> dict[str, Any]:
    """Run the stages that are not done yet; return and write `out`/summary.json."""
    out = Path(config.out or f"runs/{config.experiment}")
    out.mkdir(parents=True, exist_ok=True)
    experiment = f"experiment={config.experiment}"
    checkpoint = out / "checkpoints" / "best"
    seconds = {
        "collect": _stage("collect", experiment, f"out={out / 'demos.zarr'}", "resume=true"),
        "train": _stage(
            "train",
            experiment,
            f"out={out}",
            f"data.stores=[{out / 'demos.zarr'}]",
            "resume=true",
        ),
    }
    evaluated = {name: out / f"eval_{name}" for name in config.samplings}
    for name, folder in evaluated.items():
        seconds[f"evaluate_{name}"] = _stage(
            "evaluate", experiment, f"checkpoint={checkpoint}", f"sampling={name}", f"out={folder}"
        )
    control_json = out / "control.json"
    if config.control_task is not None:
        seconds["control"] = _stage(
            "control",
            f"checkpoint={checkpoint}",
            f"task={config.control_task}",
            f"sampling={config.control_sampling}",
            f"duration_s={config.control_s}",
            f"out={control_json}",
        )
    results: dict[str, dict[str, Any]] = {
        name: json.loads((folder / "results.json").read_text())
        for name, folder in evaluated.items()
    }
    control = json.loads(control_json.read_text()) if config.control_task is not None else None
    summary = summarize(results, control) | {"seconds": seconds}
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    _show(summary, out, evaluated)
    return summary


def summarize(results: dict[str, dict[str, Any]], control: dict[str, Any] | None) -> dict[str, Any]:
    """Return what one looks at first: success by denoising steps, latency, the control run."""
    return {
        "success": {name: result["overall"]["success"] for name, result in results.items()},
        "intervals": {name: result["overall"]["interval"] for name, result in results.items()},
        "episodes": {name: result["overall"]["episodes"] for name, result in results.items()},
        "crashed": {name: result["overall"]["crashed"] for name, result in results.items()},
        "per_task": {
            name: {task: row["success"] for task, row in result["per_task"].items()}
            for name, result in results.items()
        },
        "chunk_latency_ms": {name: result["chunk_latency_ms"] for name, result in results.items()},
        "control": control,
    }


def _stage(name: str, *arguments: str) -> float:
    """Run one command to its end; return its seconds. A failure ends this process alike."""
    command = [sys.executable, "-m", f"telic.{name}", *arguments]
    STDOUT.rule(f"[bold]{name}", align="left")
    STDOUT.print(f"$ {shlex.join([_SCRIPTS[name], *arguments])}", highlight=False, markup=False)
    began = time.monotonic()
    with subprocess.Popen(command) as process:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:  # the stage got the signal too and is leaving cleanly
                continue
    if code:
        sys.exit(code if code > 0 else 128 - code)
    return round(time.monotonic() - began, 1)


_SCRIPTS = {
    "collect": "collect-demos",
    "train": "train-policy",
    "evaluate": "evaluate-policy",
    "control": "control-daemon",
}


def _show(summary: dict[str, Any], out: Path, evaluated: dict[str, Path]) -> None:
    names = list(summary["success"])
    table = Table("task", *(f"{name} denoising steps" for name in names))
    for task in summary["per_task"][names[0]]:
        table.add_row(task, *(f"{summary['per_task'][name][task]:.2f}" for name in names))
    table.add_section()
    means = []
    for name in names:
        low, high = summary["intervals"][name]
        means.append(f"{summary['success'][name]:.3f} [{low:.3f}, {high:.3f}]")
    table.add_row("all (Wilson 95 %)", *means)
    table.add_row(
        "chunk latency, median ms",
        *(f"{summary['chunk_latency_ms'][name]['median']:.1f}" for name in names),
    )
    STDOUT.rule(f"[bold]{out}", align="left")
    STDOUT.print(table)
    for name, folder in evaluated.items():
        STDOUT.print(f"report, {name} steps: {folder / 'report.md'}, videos: {folder / 'videos'}")
    STDOUT.print(f"summary: {out / 'summary.json'}")


def main() -> None:
    """Entry point of `run-recipe`."""
    launch(RecipeConfig, run, "recipe")


if __name__ == "__main__":
    main()
