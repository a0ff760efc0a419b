"""robomimic's HDF5 demonstrations to a store and back.

    /data            attrs: total, env_args (JSON)      [telic (JSON): fields, rate_hz, robot ...]
    /data/demo_<i>   attrs: num_samples                 [segments (JSON), instruction, task]
        actions rewards dones obs/<key> next_obs/<key>  [timestamp_ns]
    /mask/<name>     demo names as bytes: train, valid

What stands in brackets is ours: robomimic passes over it, and with it a store comes back as it
was. `state` is obs/state, `image/<camera>` is obs/<camera>_image, obs/goal (if asked for) is what
lets a low-dim policy without language learn several tasks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from telic.datasets.formats.converter import Converter, small_store
from telic.datasets.formats.robomimic_hdf5_export import Hdf5ExportOptions, export_hdf5
from telic.datasets.formats.robomimic_hdf5_foreign import Hdf5ImportOptions
from telic.datasets.formats.robomimic_hdf5_import import import_hdf5
from telic.datasets.formats.robomimic_hdf5_layout import HDF5

__all__ = ["FROM", "HDF5", "TO", "Hdf5ExportOptions", "Hdf5ImportOptions", "export_hdf5"]
__all__ += ["import_hdf5"]


def _import(source: Path, target: Path, options: argparse.Namespace, overwrite: bool) -> int:
    return import_hdf5(source, target, Hdf5ImportOptions.of(options), overwrite)


def _import_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--filter-key", help="only the demos of /mask/<name>, such as train")


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


def _small_hdf5(folder: Path) -> Path:
    export_hdf5(small_store(folder), folder / "small.hdf5", Hdf5ExportOptions())
    return folder / "small.hdf5"


FROM = Converter(
    title="from robomimic or LIBERO HDF5",
    takes=lambda source: not source.is_dir(),
    convert=_import,
    small=_small_hdf5,
    add_options=_import_options,
)
TO = Converter(
    title="to robomimic HDF5",
    takes=lambda source: source.is_dir(),
    convert=_export,
    small=small_store,
    add_options=_export_options,
    suffix=".hdf5",
)
