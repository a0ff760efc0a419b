"""robomimic's HDF5 to a store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from telic.datasets import hdf5
from telic.datasets.checks import check_episode
from telic.datasets.formats.into_store import (
    EpisodeData,
    Recordings,
    require_writable,
    write_store,
)
from telic.datasets.formats.robomimic_hdf5_foreign import Hdf5ImportOptions, foreign_plan
from telic.datasets.formats.robomimic_hdf5_layout import (
    CARRIED,
    WAY_OUT,
    demo_names,
    digest_of,
)
from telic.datasets.formats.robomimic_hdf5_plan import ReadPlan, own_plan, require_intact
from telic.spec import near_misses


def import_hdf5(
    source: Path, target: Path, options: Hdf5ImportOptions, overwrite: bool = False
) -> int:
    """Write the HDF5 file at `source` to a store and return the number of episodes."""
    require_writable(source, target, overwrite)
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
        if options.filter_key is not None:
            demos = _filtered(source, file, demos, options.filter_key)
        plan = own_plan(source, own) if own else foreign_plan(source, data, demos, options)
        recordings = _recordings(source, plan, demos)
        return write_store(recordings, source, target, options, overwrite)


def _recordings(source: Path, plan: ReadPlan, demos: Mapping[str, h5py.Group]) -> Recordings:
    names = list(demos)

    def read(index: int) -> EpisodeData:
        name = names[index]
        where, demo = f"{source} {name}", demos[name]
        episode, segments = plan.read(where, demo), plan.segments(where, demo)
        if plan.digests and digest_of(episode, segments) != plan.digests[name]:
            raise ValueError(f"{where}: is not what was written; {WAY_OUT}")
        episode = check_episode(where, plan.fields, episode, segments, plan.rate_hz)
        _require_count(where, demo, len(episode["action"]))
        return episode, segments

    about = {key: plan.attrs.get(key, "") for key in CARRIED if key != "env_args"}
    return Recordings(
        fields=plan.fields,
        rate_hz=plan.rate_hz,
        num_episodes=len(names),
        read=read,
        files=[source],
        about={**about, "env_args": plan.attrs.get("env_args", {})},
    )


def _require_count(where: str, demo: h5py.Group, steps: int) -> None:
    """Raise ValueError where the demo says that it has another number of steps."""
    with hdf5.reading(f"{where}: attribute num_samples"):
        found = np.asarray(demo.attrs.get("num_samples", steps))
    if found.shape != () or found.dtype.kind not in "iuf" or found != steps:
        raise ValueError(
            f"{where}: attribute num_samples is {found.tolist()!r:.40}, its arrays have {steps} "
            "steps; is the file whole?"
        )


def _filtered(
    source: Path, file: h5py.File, demos: Mapping[str, h5py.Group], key: str
) -> dict[str, h5py.Group]:
    """The demos that /mask/<key> names, in their order."""
    known = hdf5.names(file["mask"], str(source)) if hdf5.has(file, "mask", str(source)) else []
    if key not in known:
        raise ValueError(
            f"{source}: has no /mask/{key}, only {', '.join(known) or 'none'}"
            f"{near_misses(key, known)}"
        )
    where = f"{source}: /mask/{key}"
    with hdf5.reading(where):
        listed = np.asarray(file["mask"][key][()]).reshape(-1).tolist()
    chosen = {n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in listed}
    if unknown := sorted(chosen - set(demos)):
        raise ValueError(f"{where} names {unknown[0]!r:.60}, which is not there")
    return {name: demo for name, demo in demos.items() if name in chosen}
