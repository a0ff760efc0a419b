"""What a store accepts: field specs at its creation, episodes when they are appended."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from telic.datasets.language import Segment
from telic.spec import Array, ArraySpec, near_misses

FIELD_NAME = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")


def check_fields(path: Path, fields: Mapping[str, ArraySpec], rate_hz: float) -> None:
    """Raise ValueError unless a store can hold such fields."""
    if not fields:
        raise ValueError(f"{path}: a store needs at least one field")
    if not rate_hz > 0:
        raise ValueError(f"{path}: rate_hz is {rate_hz}, expected more than 0")
    for name, spec in fields.items():
        if not FIELD_NAME.fullmatch(name):
            raise ValueError(f"{path}: field name {name!r}; use letters, digits, _ and /")
        if any(other.startswith(f"{name}/") for other in fields):
            raise ValueError(f"{path}: field {name!r} is also a folder of other fields")
        if any(not n for n in spec.shape):
            raise ValueError(f"{path}: field {name} has shape {spec.shape}; sizes must be fixed")
        if np.dtype(spec.dtype).kind not in "biuf":
            raise ValueError(f"{path}: field {name} has dtype {spec.dtype}, expected numbers")
        if name.startswith("image/") and (spec.dtype != "uint8" or len(spec.shape) != 3):
            raise ValueError(
                f"{path}: field {name} is {spec.dtype} {spec.shape}, not uint8 [h w 3]"
            )


def check_episode(
    where: str,
    fields: Mapping[str, ArraySpec],
    data: Mapping[str, Array],
    segments: Sequence[Segment],
) -> dict[str, Array]:
    """Return the episode's arrays in the fields' dtypes; ValueError naming field and step."""
    for name in data:
        if name not in fields:
            raise ValueError(
                f"{where}: unknown field {name!r}, the store has {', '.join(fields)}"
                f"{near_misses(name, fields)}"
            )
    episode = {}
    for name, spec in fields.items():
        if name not in data:
            raise ValueError(f"{where}: field {name} is missing")
        episode[name] = _conform(f"{where}: {name}", name, spec, np.asarray(data[name]))
    lengths = {name: len(rows) for name, rows in episode.items()}
    length = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise ValueError(f"{where}: fields differ in their number of steps: {listed}")
    if not length:
        raise ValueError(f"{where}: has no steps")
    for segment in segments:
        if not 0 <= segment.start < segment.end <= length:
            raise ValueError(
                f"{where}: segment from step {segment.start} to {segment.end}, "
                f"expected 0 <= start < end <= {length}"
            )
        if not segment.instruction.strip():
            raise ValueError(f"{where}: the segment at step {segment.start} has no instruction")
    return episode


def find_problems(name: str, spec: ArraySpec, rows: Array) -> list[tuple[int, str]]:
    """Return (step, what is wrong) of what a store does not accept in an episode's `rows`.

    Of each kind of problem the first is told: a value that is not finite, an action outside its
    bounds, a timestamp that is not after the one before.
    """
    kinds = []
    if rows.dtype.kind == "f":
        kinds.append((~np.isfinite(rows), "which is not finite"))
    if name == "action" and spec.minimum is not None:
        low = np.asarray(spec.minimum, rows.dtype)
        kinds.append((rows < low, f"below its minimum {_listed(spec.minimum)}"))
    if name == "action" and spec.maximum is not None:
        high = np.asarray(spec.maximum, rows.dtype)
        kinds.append((rows > high, f"above its maximum {_listed(spec.maximum)}"))
    if name == "timestamp_ns":
        back = np.zeros(rows.shape, bool)
        back[1:] = rows[1:] <= rows[:-1]
        kinds.append((back, "not after the one before"))
    problems = []
    for wrong, text in kinds:
        if wrong.any():
            step, *entry = (int(i) for i in np.argwhere(wrong)[0])
            place = f"entry {entry[0] if len(entry) == 1 else tuple(entry)} " if entry else ""
            problems.append((step, f"{place}is {rows[(step, *entry)]}, {text}"))
    return sorted(problems)


def _listed(bound: tuple[float, ...]) -> str:
    return f"{bound[0]:g}" if len(set(bound)) == 1 else f"({', '.join(f'{b:g}' for b in bound)})"


def _conform(where: str, name: str, spec: ArraySpec, rows: Array) -> Array:
    if rows.ndim == 0 or rows.shape[1:] != spec.shape:
        raise ValueError(
            f"{where} has shape {rows.shape}, expected (steps, {', '.join(map(str, spec.shape))})"
        )
    if rows.dtype != np.dtype(spec.dtype):
        if not np.can_cast(rows.dtype, spec.dtype, "same_kind"):
            raise ValueError(f"{where} has dtype {rows.dtype}, expected {spec.dtype}")
        with np.errstate(over="ignore"):  # what becomes infinite is reported below
            rows = rows.astype(spec.dtype)
    if problems := find_problems(name, spec, rows):
        raise ValueError(f"{where} step {problems[0][0]} {problems[0][1]}")
    return rows
