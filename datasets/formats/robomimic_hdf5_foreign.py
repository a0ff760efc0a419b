"""How robomimic HDF5 that we did not write is read: vectors become the state, pictures cameras."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from telic.datasets import hdf5
from telic.datasets.formats.converter import ImportOptions
from telic.datasets.formats.robomimic_hdf5_layout import OWN_PATHS
from telic.datasets.formats.robomimic_hdf5_libero import Libero
from telic.datasets.formats.robomimic_hdf5_plan import ReadPlan, checked_rate
from telic.datasets.language import Segment
from telic.spec import Array, ArraySpec, near_misses


@dataclass(kw_only=True, slots=True)
class Hdf5ImportOptions(ImportOptions):
    """How HDF5 that we did not write becomes a store.

    state_keys: obs keys; None: all vectors. rate_hz None: control_freq of env_args.
    """

    filter_key: str | None = None  # only the demos of /mask/<filter_key>


class _Demos:
    """The demos of anybody's file: which arrays make the state, the cameras and the rest.

    obs: those of the first demo, which all must have; paths: field -> path below a demo, but for
    the state, which is `state_keys` end to end.
    """

    def __init__(
        self, where: str, first: h5py.Group, options: Hdf5ImportOptions, libero: Libero
    ) -> None:
        """ValueError where the first demo has no state or no actions. where: file and demo."""
        self.options, self.libero = options, libero
        self.obs = {key: hdf5.array(first, f"obs/{key}", where) for key in _obs_keys(first, where)}
        self.state_keys = _state_keys(where, self.obs, options)
        cameras = [key for key, array in self.obs.items() if _is_pictures(key, array)]
        self.paths = {f"image/{_camera(key)}": f"obs/{key}" for key in cameras}
        others = set(self.obs) - set(cameras) - set(self.state_keys)
        self.paths |= {key: f"obs/{key}" for key in sorted(others)}
        self.paths |= {n: path for n, path in OWN_PATHS.items() if hdf5.has(first, path, where)}
        if "action" not in self.paths:
            raise ValueError(f"{where}: has no actions")

    def read(self, where: str, demo: h5py.Group, rate_hz: float) -> dict[str, Array]:
        """All fields of a demo, [T ...] each; ValueError where it is not like the first."""
        self._require_alike(where, demo)
        episode = {name: hdf5.rows(demo, path, where) for name, path in self.paths.items()}
        keys = self.state_keys
        if self.libero.upside_down and self.options.flip is None:
            for name in [n for n in episode if n.startswith("image/")]:
                episode[name] = episode[name][:, ::-1]
        parts = [hdf5.rows(demo, f"obs/{key}", where).astype(np.float32) for key in keys]
        if len({len(part) for part in parts}) > 1:
            raise ValueError(f"{where}: {', '.join(keys)} differ in their number of steps")
        episode["state"] = np.concatenate([part.reshape(len(part), -1) for part in parts], 1)
        if "timestamp_ns" not in episode:
            steps = np.arange(len(episode["action"]))
            episode["timestamp_ns"] = np.round(steps * 1e9 / rate_hz).astype(np.int64)
        return episode

    def _require_alike(self, where: str, demo: h5py.Group) -> None:
        paths = self.paths
        for path in [*paths.values(), *(f"obs/{key}" for key in self.state_keys)]:
            if not hdf5.has(demo, path, where):
                raise ValueError(f"{where}: has no {path}, the first demo has")
        there = {f"obs/{key}" for key in _obs_keys(demo, where)}
        there |= {path for path in OWN_PATHS.values() if hdf5.has(demo, path, where)}
        if more := sorted(there - {f"obs/{key}" for key in self.obs} - set(paths.values())):
            raise ValueError(f"{where}: has {more[0]}, the first demo has not")

    def segments(self, where: str, demo: h5py.Group) -> list[Segment]:
        """The sentence of the user, or else of the file, over the whole demo; none without."""
        sentence = self.options.instruction or self.libero.instruction
        if not sentence:
            return []
        end = len(hdf5.array(demo, "actions", where))
        task = self.options.task or self.libero.task
        return [Segment(start=0, end=end, instruction=sentence, task=task)]

    def state_spec(self) -> ArraySpec:
        """The spec of the state, its entries named after their arrays."""
        sizes = {key: math.prod(self.obs[key].shape[1:]) for key in self.state_keys}
        entries = tuple(f"{key}.{i}" for key, size in sizes.items() for i in range(size))
        return ArraySpec(shape=(len(entries),), names=entries)


def foreign_plan(
    source: Path, data: h5py.Group, demos: Mapping[str, h5py.Group], options: Hdf5ImportOptions
) -> ReadPlan:
    """The plan for anybody else's file: vectors become the state, pictures cameras."""
    name, first = next(iter(demos.items()))
    where = f"{source} {name}"
    env_args = hdf5.json_object(data, "env_args", f"{source} /data")
    rate_hz = options.rate_hz or _object(env_args.get("env_kwargs")).get("control_freq")
    if not rate_hz:
        raise ValueError(f"{source}: env_args has no control_freq; pass --rate-hz")
    rate_hz = checked_rate(f"{source}: env_args", rate_hz)
    libero = Libero.of(data, f"{source} /data")
    plan = _Demos(where, first, options, libero)
    fields = {
        field: ArraySpec(shape=rows.shape[1:], dtype=str(rows.dtype))
        for field, rows in plan.read(where, first, rate_hz).items()
    }
    fields["state"] = plan.state_spec()
    fields["action"] = _action_spec(demos, source, env_args)
    if "timestamp_ns" not in plan.paths:
        fields["timestamp_ns"] = ArraySpec(
            shape=(), dtype="int64", unit="ns", note="nominal, step / rate_hz: the source has none"
        )
    attrs = {
        "env_args": env_args,
        "task_family": env_args.get("env_name", ""),
        "source": f"{'LIBERO' if libero.instruction else 'robomimic'} HDF5 {source.name}",
    }
    return ReadPlan(
        fields=fields,
        rate_hz=rate_hz,
        attrs=attrs,
        read=lambda where, demo: plan.read(where, demo, rate_hz),
        segments=plan.segments,
    )


def _state_keys(
    where: str, obs: Mapping[str, h5py.Dataset], options: Hdf5ImportOptions
) -> list[str]:
    """The keys of the vectors that the state is made of: those asked for, else all."""
    vectors = [key for key, array in obs.items() if array.ndim <= 2]
    state_keys = list(options.state_keys or vectors)
    source = where.rpartition(" ")[0]
    for key in state_keys:
        if key not in vectors:
            raise ValueError(
                f"{source}: obs has no vector {key!r}, only {', '.join(vectors) or 'none'}"
                f"{near_misses(key, vectors)}"
            )
    if not state_keys:
        raise ValueError(f"{where}: obs has no vector to make the state of")
    return state_keys


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


def _object(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a JSON object, else an empty one: env_args are anybody's."""
    return value if isinstance(value, dict) else {}


def _obs_keys(demo: h5py.Group, where: str) -> list[str]:
    return hdf5.names(hdf5.group(demo, "obs", where), where)


def _camera(key: str) -> str:
    return key.removesuffix("_image").removesuffix("_rgb")


def _is_pictures(key: str, array: h5py.Dataset) -> bool:
    """Whether `key` holds pictures; those of another dtype than a store's are refused later."""
    named = _camera(key) != key and array.shape[-1:] == (3,)
    return bool(array.ndim == 4 and (array.dtype == np.uint8 or named))
