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

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from telic.datasets import hdf5, layout
from telic.datasets.checks import check_episode
from telic.datasets.layout import STORE
from telic.datasets.store import Episode, EpisodeStore, Segment
from telic.datasets.windows import split_episodes
from telic.replacement import Kind, Replacement
from telic.spec import Array, ArraySpec, near_misses

OWN_PATHS = {
    "action": "actions",
    "reward": "rewards",
    "done": "dones",
    "states": "states",  # robosuite's simulator states
    "timestamp_ns": "timestamp_ns",
}
WAY_OUT = (
    "restore the file, or, if it was edited on purpose, delete the attribute telic of /data and "
    "import it as robomimic's"
)
CARRIED = ("robot", "task_family", "licence", "source", "env_args")


def is_robomimic(path: Path) -> bool:
    """Return whether an HDF5 file of demonstrations stands at `path`."""
    try:
        with h5py.File(path, "r") as file:
            return file.get("data", getclass=True) is h5py.Group
    except (OSError, RuntimeError):
        return False


HDF5 = Kind("a robomimic HDF5 file", is_robomimic)


@dataclass(kw_only=True, slots=True)
class Hdf5ExportOptions:
    """How a store becomes HDF5."""

    valid_fraction: float = 0.1  # of the demos, in mask/valid
    seed: int = 0  # of that split
    next_obs: bool = True  # as large as obs; BC trains without (train.hdf5_load_next_obs=False)
    goal: str | None = None  # obs/goal: an encoder whose vectors are cached; "" any, or the task


@dataclass(kw_only=True, slots=True)
class Hdf5ImportOptions:
    """How HDF5 that we did not write becomes a store."""

    state_keys: Sequence[str] | None = None  # obs keys joined to `state`; None: all vectors
    instruction: str = ""
    task: str = ""
    rate_hz: float | None = None  # None: control_freq of env_args


def export_hdf5(
    source: Path, target: Path, options: Hdf5ExportOptions, overwrite: bool = False
) -> int:
    """Write the store at `source` to an HDF5 file and return the number of demos."""
    store = EpisodeStore.open(source)
    if not store.num_episodes:
        raise ValueError(f"{source}: has no episodes to export")
    replacement = Replacement(target, HDF5, overwrite=overwrite, by="--overwrite", sources=[source])
    replacement.require()
    paths = {name: _hdf5_path(name) for name in store.fields}
    if len(set(paths.values())) < len(paths) or (options.goal is not None and "goal" in paths):
        raise ValueError(f"{source}: fields {', '.join(paths)} do not fit into one HDF5 group")
    goal, goal_note = _goal_key(store, options.goal)
    train, valid = split_episodes(store, options.valid_fraction, options.seed)
    with replacement.writing() as path, h5py.File(path, "w") as file:
        data = file.create_group("data")
        digests = {}
        for episode in store:
            _write_demo(data, episode, paths, goal, options.next_obs)
            digests[f"demo_{episode.index}"] = _digest(episode.data, episode.segments)
        data.attrs["total"] = store.num_steps
        env_args = {"env_name": store.attrs.get("task_family", ""), "type": 2, "env_kwargs": {}}
        data.attrs["env_args"] = json.dumps(store.attrs.get("env_args", env_args))
        ours = {key: store.attrs[key] for key in CARRIED if key in store.attrs}
        ours |= {"rate_hz": store.rate_hz, "paths": paths, "goal": goal_note, "digests": digests}
        ours["fields"] = {name: spec.to_json() for name, spec in store.fields.items()}
        data.attrs["telic"] = json.dumps(ours | {"digest": _digest_of_text(json.dumps(ours))})
        for name, episodes in (("train", train), ("valid", valid)):
            file[f"mask/{name}"] = np.array([f"demo_{i}" for i in episodes], dtype="S")
    return store.num_episodes


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
        demos = {name: hdf5.group(data, name, str(source)) for name in _demo_names(data, source)}
        if not demos:
            raise ValueError(f"{source}: /data holds no demo_<number>")
        own = hdf5.json_object(data, "telic", f"{source} /data")
        if own:
            _require_intact(source, own, demos)
        plan = _own_plan(source, own) if own else _foreign_plan(source, data, demos, options)
        with replacement.writing() as path:
            _write_store(path, plan, demos, source)
    return len(demos)


def _write_store(path: Path, plan: _Plan, demos: Mapping[str, h5py.Group], source: Path) -> None:
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
            if plan.digests and _digest(episode, segments) != plan.digests[name]:
                raise ValueError(f"{where}: is not what was written; {WAY_OUT}")
            store.append(
                check_episode(where, plan.fields, episode, segments, plan.rate_hz), segments
            )


@dataclass(kw_only=True, slots=True)
class _Plan:
    """How the demos of one file are read."""

    fields: Mapping[str, ArraySpec]
    rate_hz: float
    attrs: Mapping[str, Any]
    read: Callable[[str, h5py.Group], dict[str, Array]]
    segments: Callable[[str, h5py.Group], list[Segment]]
    digests: Mapping[str, str] = field(default_factory=dict)  # of the demos of a file of ours


def _own_plan(source: Path, own: Mapping[str, Any]) -> _Plan:
    """Return the plan for a file that `export_hdf5` wrote: everything as it was."""
    where = f"{source}: attribute telic of /data"
    paths, fields = own.get("paths"), own.get("fields")
    if not isinstance(fields, dict) or not isinstance(paths, dict) or set(paths) != set(fields):
        raise ValueError(f"{where}: fields and paths do not fit each other")
    if any(not isinstance(path, str) for path in paths.values()):
        raise ValueError(f"{where}: paths are {paths!r:.60}, expected texts")
    return _Plan(
        fields=layout.read_specs(where, fields),
        rate_hz=_rate(where, own.get("rate_hz")),
        attrs=own,
        read=lambda where, demo: {n: hdf5.rows(demo, path, where) for n, path in paths.items()},
        segments=_own_segments,
        digests=own.get("digests", {}),
    )


def _require_intact(source: Path, own: Mapping[str, Any], demos: Collection[str]) -> None:
    """Raise ValueError unless a file of ours says what was written of the same demos.

    One that was written before there were digests is taken as it is.
    """
    if "digest" not in own and "digests" not in own:
        return
    told = {key: value for key, value in own.items() if key != "digest"}
    if own.get("digest") != _digest_of_text(json.dumps(told)):
        raise ValueError(f"{source}: attribute telic of /data is not what was written; {WAY_OUT}")
    if set(own["digests"]) != set(demos):
        other = sorted(set(own["digests"]) ^ set(demos))
        raise ValueError(f"{source}: {other[0]} was added or is missing; {WAY_OUT}")


def _digest(episode: Mapping[str, Array], segments: Sequence[Segment]) -> str:
    """SHA-256 of an episode as it comes back: floats are float32."""
    digest = hashlib.sha256()
    for name in sorted(episode):
        rows = episode[name]
        rows = rows.astype(np.float32) if rows.dtype.kind == "f" else rows
        digest.update(f"{name} {rows.dtype.str} {rows.shape} ".encode())
        digest.update(np.ascontiguousarray(rows).tobytes())
    said = [(s.start, s.end, s.instruction, s.task) for s in segments]
    return _digest_of_text(digest.hexdigest() + json.dumps(said))


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _own_segments(where: str, demo: h5py.Group) -> list[Segment]:
    told = hdf5.json_value(demo, "segments", where, [])
    kinds = {"start": int, "end": int, "instruction": str, "task": str}
    for segment in told if isinstance(told, list) else [told]:
        if not isinstance(segment, dict) or {k: type(v) for k, v in segment.items()} != kinds:
            raise ValueError(f"{where}: attribute segments holds {segment!r:.80}")
    return [Segment(**segment) for segment in told]


def _foreign_plan(
    source: Path, data: h5py.Group, demos: Mapping[str, h5py.Group], options: Hdf5ImportOptions
) -> _Plan:
    """Return the plan for anybody else's file: vectors become the state, pictures cameras."""
    name, first = next(iter(demos.items()))
    where = f"{source} {name}"
    env_args = hdf5.json_object(data, "env_args", f"{source} /data")
    rate_hz = options.rate_hz or _object(env_args.get("env_kwargs")).get("control_freq")
    if not rate_hz:
        raise ValueError(f"{source}: env_args has no control_freq; pass --rate-hz")
    rate_hz = _rate(f"{source}: env_args", rate_hz)
    obs = {key: hdf5.array(first, f"obs/{key}", where) for key in _obs_keys(first, where)}
    vectors = [key for key, array in obs.items() if array.ndim <= 2]
    cameras = [key for key, array in obs.items() if _is_pictures(array)]
    state_keys = list(options.state_keys or vectors)
    for key in state_keys:
        if key not in vectors:
            raise ValueError(
                f"{source}: obs has no vector {key!r}, only {', '.join(vectors) or 'none'}"
                f"{near_misses(key, vectors)}"
            )
    if not state_keys:
        raise ValueError(f"{where}: obs has no vector to make the state of")
    paths = {f"image/{key.removesuffix('_image')}": f"obs/{key}" for key in cameras}
    others = set(obs) - set(cameras) - set(state_keys)
    paths |= {key: f"obs/{key}" for key in sorted(others)}
    paths |= {n: path for n, path in OWN_PATHS.items() if hdf5.has(first, path, where)}
    if "action" not in paths:
        raise ValueError(f"{where}: has no actions")

    def read(where: str, demo: h5py.Group) -> dict[str, Array]:
        for path in [*paths.values(), *(f"obs/{key}" for key in state_keys)]:
            if not hdf5.has(demo, path, where):
                raise ValueError(f"{where}: has no {path}, the first demo has")
        there = {f"obs/{key}" for key in _obs_keys(demo, where)}
        there |= {path for path in OWN_PATHS.values() if hdf5.has(demo, path, where)}
        if more := sorted(there - {f"obs/{key}" for key in obs} - set(paths.values())):
            raise ValueError(f"{where}: has {more[0]}, the first demo has not")
        episode = {name: hdf5.rows(demo, path, where) for name, path in paths.items()}
        parts = [hdf5.rows(demo, f"obs/{key}", where).astype(np.float32) for key in state_keys]
        if len({len(part) for part in parts}) > 1:
            raise ValueError(f"{where}: {', '.join(state_keys)} differ in their number of steps")
        episode["state"] = np.concatenate([part.reshape(len(part), -1) for part in parts], 1)
        if "timestamp_ns" not in episode:
            steps = np.arange(len(episode["action"]))
            episode["timestamp_ns"] = np.round(steps * 1e9 / rate_hz).astype(np.int64)
        return episode

    def segments(where: str, demo: h5py.Group) -> list[Segment]:
        if not options.instruction:
            return []
        end = len(hdf5.array(demo, "actions", where))
        return [Segment(start=0, end=end, instruction=options.instruction, task=options.task)]

    one = read(where, first)
    fields = {
        name: ArraySpec(shape=rows.shape[1:], dtype=str(rows.dtype)) for name, rows in one.items()
    }
    entries = [f"{key}.{i}" for key in state_keys for i in range(math.prod(obs[key].shape[1:]))]
    fields["state"] = ArraySpec(shape=(len(entries),), names=tuple(entries))
    fields["action"] = _action_spec(demos, source, env_args)
    if "timestamp_ns" not in paths:
        fields["timestamp_ns"] = ArraySpec(
            shape=(), dtype="int64", unit="ns", note="nominal, step / rate_hz: the source has none"
        )
    attrs = {
        "env_args": env_args,
        "task_family": env_args.get("env_name", ""),
        "source": f"robomimic HDF5 {source.name}",
    }
    return _Plan(fields=fields, rate_hz=rate_hz, attrs=attrs, read=read, segments=segments)


def _action_spec(
    demos: Mapping[str, h5py.Group], source: Path, env_args: Mapping[str, Any]
) -> ArraySpec:
    """Return the spec of the actions: [-1, 1] if all lie there, and what robosuite means by 7."""
    inside, sizes = True, {}
    for name, demo in demos.items():
        actions = hdf5.rows(demo, "actions", f"{source} {name}")
        if actions.ndim != 2 or actions.dtype.kind not in "iuf":
            raise ValueError(
                f"{source} {name}: actions are {actions.dtype} {actions.shape}, expected numbers "
                "(steps, A)"
            )
        sizes[actions.shape[1]] = name
        inside = inside and bool(np.abs(actions.astype(np.float32)).max(initial=0.0) <= 1)
    if len(sizes) > 1:
        listed = ", ".join(f"{size} in {name}" for size, name in sizes.items())
        raise ValueError(f"{source}: actions differ in size: {listed}")
    (size,) = sizes
    controller = _object(_object(env_args.get("env_kwargs")).get("controller_configs"))
    note = rotation = gripper = ""
    entries: tuple[str, ...] = ()
    if env_args.get("type") == 1 and controller.get("type") == "OSC_POSE" and size == 7:
        entries = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
        rotation, gripper = "axis_angle", "positive_closes"
        note = "robosuite OSC_POSE, scaled"
    bound = (1.0,) if inside else None
    return ArraySpec(
        shape=(size,),
        minimum=(-1.0,) if inside else None,
        maximum=bound,
        names=entries,
        rotation=rotation,
        gripper=gripper,
        note=note,
    )


def _rate(where: str, rate_hz: Any) -> float:
    if isinstance(rate_hz, bool) or not isinstance(rate_hz, int | float):
        raise ValueError(f"{where}: control rate is {rate_hz!r:.40}, expected Hz; pass --rate-hz")
    if not 0 < rate_hz < math.inf:
        raise ValueError(f"{where}: control rate is {rate_hz} Hz, expected more than 0")
    return float(rate_hz)


def _object(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a JSON object, else an empty one: env_args are anybody's."""
    return value if isinstance(value, dict) else {}


def _obs_keys(demo: h5py.Group, where: str) -> list[str]:
    return hdf5.names(hdf5.group(demo, "obs", where), where)


def _write_demo(
    data: h5py.Group,
    episode: Episode,
    paths: Mapping[str, str],
    goal: Callable[[Episode], Array] | None,
    next_obs: bool,
) -> None:
    demo = data.create_group(f"demo_{episode.index}")
    arrays = {path: episode[name] for name, path in paths.items()}
    if goal is not None:
        arrays["obs/goal"] = goal(episode)
    last = np.zeros(len(episode), np.float32)
    arrays.setdefault("rewards", last)
    arrays.setdefault("dones", np.append(last[1:], np.float32(1)))
    for path, rows in arrays.items():
        demo[path] = rows
        if next_obs and path.startswith("obs/"):
            demo[f"next_{path}"] = np.concatenate([rows[1:], rows[-1:]])
    demo.attrs["num_samples"] = len(episode)
    told = [
        {"start": s.start, "end": s.end, "instruction": s.instruction, "task": s.task}
        for s in episode.segments
    ]
    demo.attrs["segments"] = json.dumps(told)
    if told:
        for key in ("instruction", "task"):  # of HDF5, whose texts end at a null character
            demo.attrs[key] = str(told[0][key]).replace("\0", " ")


def _goal_key(
    store: EpisodeStore, encoder: str | None
) -> tuple[Callable[[Episode], Array] | None, dict[str, Any]]:
    """Return (episode -> obs/goal f32 [T, D], what its numbers mean).

    A step in several segments has the goal of the first; one in none has zeros.
    """
    if encoder is None:
        return None, {}
    if encoder or store.encoders:
        encoder = encoder or store.encoders[0]
        vectors = store.read_embeddings(encoder)
        if missing := [s for s in store.instructions if s not in vectors]:
            raise ValueError(f"{store.path}: {encoder} has no vector of {missing[0]!r}")
        note: dict[str, Any] = {"kind": "embedding", "encoder": encoder}
        by_segment = {s: vectors[s] for s in store.instructions}
    else:
        by_segment = dict(
            zip(store.tasks, np.eye(len(store.tasks), dtype=np.float32), strict=False)
        )
        note = {"kind": "task", "tasks": store.tasks}
    if not by_segment:
        raise ValueError(f"{store.path}: no instruction and no task to make obs/goal of")
    size = len(next(iter(by_segment.values())))

    def goal(episode: Episode) -> Array:
        rows = np.zeros((len(episode), size), np.float32)
        for segment in reversed(episode.segments):
            key = segment.task if note["kind"] == "task" else segment.instruction
            rows[segment.start : segment.end] = by_segment[key]
        return rows

    return goal, note


def _hdf5_path(field: str) -> str:
    if field.startswith("image/"):
        return f"obs/{field[6:].replace('/', '_')}_image"
    return OWN_PATHS.get(field, f"obs/{field.replace('/', '_')}")


def _demo_names(data: h5py.Group, source: Path) -> list[str]:
    """Return the demos in the order of their numbers, as robomimic does."""
    found = [name for name in hdf5.names(data, str(source)) if re.fullmatch(r"demo_\d{1,9}", name)]
    return sorted(found, key=lambda name: int(name[5:]))


def _is_pictures(array: h5py.Dataset) -> bool:
    return bool(array.ndim == 4 and array.dtype == np.uint8)
