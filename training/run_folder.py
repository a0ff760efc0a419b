"""The folder of a run: what it may go on from, and what may be written over."""

from __future__ import annotations

import os
from pathlib import Path

from accelerate import Accelerator

from telic.datasets.formats.lerobot_layout import LEROBOT
from telic.datasets.layout import STORE
from telic.policy.atomic import CHECKPOINT, CHECKPOINTS
from telic.policy.exported.manifest import EXPORTED
from telic.replacement import Replacement
from telic.training.config import TrainConfig
from telic.training.resume import holds_checkpoints, to_resume_from
from telic.training.run_log import log_of


def checkpoint_to_resume(config: TrainConfig) -> Path | None:
    """The checkpoint that the run goes on from; None for a run that begins.

    ValueError where another run would be written over unasked.
    """
    out = Path(config.out)
    _require_place(out)
    there = to_resume_from(out)
    if there is not None and config.resume:
        return there
    if not config.overwrite and (there is not None or holds_checkpoints(out)):
        way_out = "resume=true goes on with it"
        if there is None:
            way_out = "training cannot go on from what it holds (no train_state)"
        raise ValueError(
            f"out={out} holds a run already; {way_out}, overwrite=true starts again, or choose "
            "another out="
        )
    if config.overwrite:
        _checkpoints(config).require()
        log_of(out).require()
    return None


def _require_place(out: Path) -> None:
    """Raise ValueError where `out` is a file, or lies in what is replaced as a whole."""
    place = Path(os.path.realpath(out))
    for folder in (place, *place.parents):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"out={out}: {folder} is no folder; give another out=")
        for kind in (STORE, CHECKPOINT, EXPORTED, LEROBOT):
            if kind.recognises(folder):
                lies = "is" if folder == place else f"lies in {folder},"
                raise ValueError(f"out={out} {lies} {kind.noun}; give another out=")


def remove_checkpoints(config: TrainConfig, accelerator: Accelerator) -> None:
    """Remove the checkpoints of a run that is written over (`overwrite=true`)."""
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and config.overwrite:
        _checkpoints(config).remove()
    accelerator.wait_for_everyone()


def _checkpoints(config: TrainConfig) -> Replacement:
    """The checkpoints of a run that is written over, apart from what is read for the new one."""
    read = [*config.data.stores, *config.data.video_only]
    return Replacement(
        Path(config.out) / "checkpoints",
        CHECKPOINTS,
        overwrite=config.overwrite,
        sources=[*read, config.init_from] if config.init_from else read,
        locked_by_us=True,
    )
