"""`build-anchors`: episode stores in, a file of anchors out, for `policy.anchors.file` of training.

build-anchors stores=[runs/demo/demos.zarr] count=32 action_horizon=8 out=runs/anchors.safetensors
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from telic.configs.launch import launch
from telic.datasets.store import EpisodeStore
from telic.datasets.unified import robots_of, unified_stats
from telic.datasets.windows import WindowConfig, Windows
from telic.embodiment import Space, unified_interface
from telic.policy.encoders.normalizer import NormalizerConfig
from telic.policy.objectives.anchors import AnchorSet, build_anchors, relative_columns
from telic.training.anchors import chunk_batches, describe

STDOUT = Console(soft_wrap=True, highlight=False)


@dataclass(kw_only=True, slots=True)
class BuildAnchorsConfig:
    """Which chunks are clustered, and how they are normalised: as the policy to be trained does."""

    stores: list[str] = field(default_factory=list)  # episode stores whose chunks are clustered
    count: int = 32  # anchors, K
    action_horizon: int = 8  # actions of a chunk, H: the policy's
    relative: bool = True  # entries relative to the state, where it has one of the same name
    action: NormalizerConfig = field(default_factory=NormalizerConfig)
    space: Space = Space.own  # own: the stores' one robot; unified: RDT's 128 slots, for several
    seed: int = 1  # seed of the clustering and of the chunks it reads
    out: str = "runs/anchors.safetensors"  # file of the anchors, for policy.anchors.file

    def __post_init__(self) -> None:
        if not self.stores:
            raise ValueError("stores is empty; give one: stores=[runs/demo/demos.zarr]")
        for name in ("count", "action_horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


def run(config: BuildAnchorsConfig) -> AnchorSet:
    """Return the anchors, which are also in `out`, and say how far the chunks lie from them."""
    stores = [EpisodeStore.open(path) for path in config.stores]
    interface, stats = stores[0].interface, stores[0].stats
    if config.space is Space.unified:
        interface, stats = unified_interface(robots_of(stores)), unified_stats(stores)
    shape = WindowConfig(
        action_horizon=config.action_horizon, cameras=[], space=config.space, memory_mb=64
    )
    anchors = build_anchors(
        chunk_batches(Windows(stores, shape, seed=config.seed), config.seed),
        config.count,
        config.action.build("action", interface.action, stats.get("action")),
        relative_columns(interface, config.relative),
        config.seed,
    )
    anchors.save(Path(config.out))
    STDOUT.print(describe(anchors))
    STDOUT.print(config.out)
    return anchors


def main() -> None:
    """Run the command."""
    launch(BuildAnchorsConfig, run, "build_anchors")


if __name__ == "__main__":
    main()
