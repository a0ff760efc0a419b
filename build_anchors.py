"""`build-anchors`: episode stores in, a file of anchors out, for `policy.anchors.file` of training.

build-anchors stores=[runs/demo/demos.zarr] count=32 action_horizon=8 out=runs/anchors.safetensors
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from telic.configs.launch import launch
from telic.datasets.store import EpisodeStore
from telic.datasets.unified import robots_of, shared_stats, unified_stats
from telic.datasets.windows import WindowConfig, Windows
from telic.embodiment import Space, unified_interface
from telic.policy.encoders.normalizer import NormalizerConfig
from telic.policy.objectives.anchors import ANCHORS, AnchorSet, build_anchors, relative_columns
from telic.ranges import require_range
from telic.replacement import Replacement
from telic.training.anchors import chunk_batches, describe

STDOUT = Console(soft_wrap=True, highlight=False, markup=False)


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
    overwrite: bool = False  # replace the anchors at `out`

    def __post_init__(self) -> None:
        if not self.stores:
            raise ValueError("stores is empty; give one: stores=[runs/demo/demos.zarr]")
        if not self.out.strip():
            raise ValueError("out is empty; name a file, out=runs/anchors.safetensors")
        require_range(self, "count", "action_horizon", at_least=1)
        require_range(self, "seed", at_least=0)


def run(config: BuildAnchorsConfig) -> AnchorSet:
    """Return the anchors, which are also in `out`, and say how far the chunks lie from them."""
    out = Path(config.out)
    Replacement(out, ANCHORS, overwrite=config.overwrite, sources=config.stores).require()
    stores = [EpisodeStore.open(path) for path in config.stores]
    interface, stats = stores[0].interface, shared_stats(stores)
    for store in stores[1:] if config.space is Space.own else ():
        first, other = (replace(one, images={}) for one in (interface, store.interface))
        first.require(other, f"store {stores[0].path}", f"store {store.path}")
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
    anchors.save(out, config.overwrite)
    STDOUT.print(describe(anchors))
    STDOUT.print(config.out)
    return anchors


def main() -> None:
    """Run the command."""
    launch(BuildAnchorsConfig, run, "build_anchors")


if __name__ == "__main__":
    main()
