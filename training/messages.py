"""What `train-policy` says of itself: what it reads, where it begins, whence a bad loss came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from telic.datasets.goals import TextGoal
from telic.datasets.store import EpisodeStore
from telic.datasets.windows import Windows
from telic.policy.policy import Policy
from telic.training.config import TrainConfig

_MAX_NAMED = 8  # episodes of a store, and tasks, that a message names


def describe(
    config: TrainConfig,
    policy: Policy,
    windows: Windows,
    accelerator: Accelerator,
    step: int,
    checkpoint: Path | None,
) -> list[str]:
    """Return two lines: what the policy reads and where it begins; how much there is to do."""
    begins = "begins anew" if checkpoint is None else f"goes on from {checkpoint} at step {step}"
    if checkpoint is None and config.init_from is not None:
        begins = f"begins from the weights of {config.init_from}"
    elif checkpoint is None and config.resume:
        begins = f"begins anew, for {config.out} holds no checkpoint to go on from"
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    parameters = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    return [
        f"{begins}; reads {'; '.join(_reads(config, policy, windows))}; {precision}",
        f"{parameters / 1e6:.2f} M trainable parameters, {len(windows)} windows, "
        f"{config.steps} steps of {config.batch_size} on {accelerator.num_processes} x "
        f"{accelerator.device.type}",
    ]


def _reads(config: TrainConfig, policy: Policy, windows: Windows) -> Iterator[str]:
    """Yield what the policy is conditioned on, and what the stores have beside it."""
    size = policy.interface.state.shape[0]
    yield f"state of {size}" if policy.config.use_state else "no state"
    cameras = policy.conditioner.cameras
    yield f"cameras {', '.join(cameras)}" if cameras else "no camera"
    yield f"goals {', '.join(policy.config.goal.modalities)}"
    reads_text = config.data.goal.text is not TextGoal.none and policy.config.goal.text
    sentences = {text for store in windows.stores for text in store.instructions if reads_text}
    yield f"{len(sentences)} sentences"
    used = {"state", "action", "timestamp_ns", *(f"image/{c}" for c in windows.cameras)}
    if config.policy.scene.on:
        used.add("scene")
    unused = {name for store in windows.stores for name in store.fields} - used
    if unused:
        yield f"not used: {', '.join(sorted(unused))}"


def where_from(batch: Mapping[str, Any], rows: Tensor, windows: Windows) -> str:
    """Return the episodes and tasks of some rows of a batch, store by store."""
    places = zip(
        *(batch[k].cpu()[rows].tolist() for k in ("store", "episode", "step")), strict=True
    )
    found: dict[int, dict[int, None]] = {}
    tasks: dict[str, None] = {}
    for number, episode, step in sorted(places):
        found.setdefault(number, {})[episode] = None
        tasks |= dict.fromkeys(_tasks(windows.stores[number], episode, step))
    listed = [
        f"episodes {_few(map(str, episodes))} of {windows.stores[number].path}"
        for number, episodes in found.items()
    ]
    return " and ".join(listed) + (f" (tasks {_few(tasks)})" if tasks else "")


def _tasks(store: EpisodeStore, episode: int, step: int) -> Iterator[str]:
    for segment in store.segments_of(episode):
        if segment.start <= step < segment.end:
            yield segment.task or segment.instruction


def _few(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")
