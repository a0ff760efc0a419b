"""Formats of demonstrations that `demo-store convert` reads and writes.

A converter is one file and one entry in `CONVERTERS`. Those registered last are asked first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from telic.datasets.formats.robomimic_hdf5 import (
    Hdf5ExportOptions,
    Hdf5ImportOptions,
    export_hdf5,
    import_hdf5,
)
from telic.datasets.store import EpisodeStore, Segment
from telic.registry import Registry
from telic.spec import Array, ArraySpec


class Convert(Protocol):
    """What converts `source` to `target` and returns the number of episodes.

    options: the command line, parsed. overwrite: what is at `target` may be replaced. ValueError
    for what cannot be converted; then `target` is as it was.
    """

    def __call__(
        self, source: Path, target: Path, options: argparse.Namespace, overwrite: bool
    ) -> int:
        """Convert."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Converter:
    """title: heads its options in --help; takes: whether it is for a source that is there;
    add_options: puts its options on the command line; small: writes an example of a source with
    three episodes into a folder and returns where, for tests; suffix: of what it writes."""

    title: str
    takes: Callable[[Path], bool]
    convert: Convert
    small: Callable[[Path], Path]
    add_options: Callable[[argparse._ArgumentGroup], object] = lambda group: None
    suffix: str = ".zarr"


def converter_for(source: Path, name: str | None = None) -> Converter:
    """The converter of that name, or else the first that takes the source."""
    if name is not None:
        return CONVERTERS.require(name, "--format")
    for known in reversed(list(CONVERTERS)):
        if CONVERTERS[known].takes(source):
            return CONVERTERS[known]
    raise ValueError(f"{source}: none of the formats {', '.join(CONVERTERS)}")


def _import(source: Path, target: Path, options: argparse.Namespace, overwrite: bool) -> int:
    settings = Hdf5ImportOptions(
        state_keys=options.state_keys,
        instruction=options.instruction,
        task=options.task,
        rate_hz=options.rate_hz,
    )
    return import_hdf5(source, target, settings, overwrite)


def _import_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--state-keys", nargs="+", help="obs keys that make up the state, in order")
    group.add_argument("--instruction", default="", help="sentence for demos that have none")
    group.add_argument("--task", default="", help="task name for demos that have none")
    group.add_argument("--rate-hz", type=float, help="if the file's env_args do not say")


def _export(source: Path, target: Path, options: argparse.Namespace, overwrite: bool) -> int:
    settings = Hdf5ExportOptions(
        valid_fraction=options.valid_fraction,
        seed=options.seed,
        next_obs=not options.no_next_obs,
        goal=options.goal_embedding,
    )
    return export_hdf5(source, target, settings, overwrite)


def _export_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--valid-fraction", type=float, default=0.1, help="of demos in mask/valid")
    group.add_argument("--seed", type=int, default=0, help="of that split")
    group.add_argument(
        "--no-next-obs", action="store_true", help="halves the file; BC works without"
    )
    group.add_argument(
        "--goal-embedding",
        nargs="?",
        const="",
        metavar="ENCODER",
        help="add obs/goal: the instruction's vector cached in the store, or a one-hot task",
    )


def _small_store(folder: Path) -> Path:
    fields = {
        "state": ArraySpec(shape=(3,)),
        "action": ArraySpec(shape=(2,), minimum=(-1.0,), maximum=(1.0,)),
        "timestamp_ns": ArraySpec(shape=(), dtype="int64", unit="ns"),
    }
    store = EpisodeStore.create(folder / "small.zarr", fields, rate_hz=20.0)
    for length in (3, 4, 5):
        rng = np.random.default_rng(length)
        episode: dict[str, Array] = {
            "state": rng.normal(size=(length, 3)).astype(np.float32),
            "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
            "timestamp_ns": np.arange(length) * 50_000_000,
        }
        store.append(episode, [Segment(start=0, end=length, instruction="go on", task="go")])
    return folder / "small.zarr"


def _small_hdf5(folder: Path) -> Path:
    export_hdf5(_small_store(folder), folder / "small.hdf5", Hdf5ExportOptions())
    return folder / "small.hdf5"


CONVERTERS: Registry[Converter] = Registry(
    "format",
    {
        "from_robomimic": Converter(
            title="from robomimic HDF5",
            takes=lambda source: not source.is_dir(),
            convert=_import,
            small=_small_hdf5,
            add_options=_import_options,
        ),
        "to_robomimic": Converter(
            title="to robomimic HDF5",
            takes=lambda source: source.is_dir(),
            convert=_export,
            small=_small_store,
            add_options=_export_options,
            suffix=".hdf5",
        ),
    },
)
