"""robomimic's HDF5 to a store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py

from telic.datasets import hdf5
from telic.datasets.checks import check_episode
from telic.datasets.formats.robomimic_hdf5_foreign import Hdf5ImportOptions, foreign_plan
from telic.datasets.formats.robomimic_hdf5_layout import WAY_OUT, demo_names, digest_of
from telic.datasets.formats.robomimic_hdf5_plan import ReadPlan, own_plan, require_intact
from telic.datasets.layout import STORE
from telic.datasets.store import EpisodeStore
from telic.replacement import Replacement


def import_hdf5(
    source: Path, target: Path, options: Hdf5ImportOptions, overwrite: bool = False
) -> int:
    """Write the HDF5 file at `source` to a store and return the number of episodes."""
    replacement = Replacement(
        target, STORE, overwrite=overwrite, by="--overwrite", sources=[source]
    )
    replacement.require()
    with hdf5.opened(source) as file:
        if not hdf5.has(file, "data", str(source)):
            raise ValueError(f"{source}: has no group /data; is it a robomimic dataset?")
        data = hdf5.group(file, "data", str(source))
        demos = {name: hdf5.group(data, name, str(source)) for name in demo_names(data, source)}
        if not demos:
            raise ValueError(f"{source}: /data holds no demo_<number>")
        own = hdf5.json_object(data, "telic", f"{source} /data")
        if own:
            require_intact(source, own, demos)
        plan = own_plan(source, own) if own else foreign_plan(source, data, demos, options)
        with replacement.writing() as path:
            _write_store(path, plan, demos, source)
    return len(demos)


def _write_store(path: Path, plan: ReadPlan, demos: Mapping[str, h5py.Group], source: Path) -> None:
    with EpisodeStore.create(
        path,
        plan.fields,
        plan.rate_hz,
        robot=str(plan.attrs.get("robot", "")),
        task_family=str(plan.attrs.get("task_family", "")),
        licence=str(plan.attrs.get("licence", "")),
        source=str(plan.attrs.get("source", "")),
        extra={"env_args": plan.attrs.get("env_args", {})},
    ) as store:
        for name, demo in demos.items():
            where = f"{source} {name}"
            episode, segments = plan.read(where, demo), plan.segments(where, demo)
            if plan.digests and digest_of(episode, segments) != plan.digests[name]:
                raise ValueError(f"{where}: is not what was written; {WAY_OUT}")
            store.append(
                check_episode(where, plan.fields, episode, segments, plan.rate_hz), segments
            )
