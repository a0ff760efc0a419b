"""What a store accepts: field specs at its creation, episodes when they are appended."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from telic.datasets.language import Segment
from telic.spec import Array, ArraySpec, near_misses

STAMP_TOLERANCE = 0.2  # how far the median step may be from 1 / rate_hz, of it
LARGEST_GAP = 5.0  # steps between two stamps
MAX_RATE_HZ = 1e9  # stamps are whole nanoseconds
FIELD_NAME = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")


def check_fields(path: Path, fields: Mapping[str, ArraySpec], rate_hz: float) -> None:
    """Raise ValueError unless a store can hold such fields."""
    if not fields:
        raise ValueError(f"{path}: a store needs at least one field")
    number = isinstance(rate_hz, int | float | np.number) and not isinstance(rate_hz, bool)
    if not number or not 0 < rate_hz <= MAX_RATE_HZ:
        raise ValueError(
            f"{path}: rate_hz is {rate_hz!r:.40}, expected more than 0, at most {MAX_RATE_HZ:g}"
        )
    for name, spec in fields.items():
        if not FIELD_NAME.fullmatch(name):
            raise ValueError(f"{path}: field name {name!r}; use letters, digits, _ and /")
        if any(other.startswith(f"{name}/") for other in fields):
            raise ValueError(f"{path}: field {name!r} is also a folder of other fields")
        if any(not n for n in spec.shape):
            raise ValueError(f"{path}: field {name} has shape {spec.shape}; sizes must be fixed")
        if np.dtype(spec.dtype).kind not in "biuf":
            raise ValueError(f"{path}: field {name} has dtype {spec.dtype}, expected numbers")
        if problem := unlike_picture(name, spec) or _unlike_stamps(name, spec):
            raise ValueError(f"{path}: field {problem}")


def unlike_picture(name: str, spec: ArraySpec) -> str | None:
    """Return why the field is no [h w 3] picture where its name says so, or None."""
    if not name.startswith("image/"):
        return None
    shape = tuple(int(n or 0) for n in spec.shape)
    if spec.dtype == "uint8" and len(shape) == 3 and shape[2] == 3:
        return None
    way = ""
    if len(shape) == 3 and shape[0] == 3:
        way = "; it looks like [3 h w], which pictures.transpose(0, 2, 3, 1) mends"
    elif len(shape) == 3 and shape[2] == 4:
        way = "; leave out the fourth channel (alpha or depth): pictures[..., :3]"
    elif len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        way = "; repeat a grey picture three times, or name the field without image/"
    elif spec.dtype != "uint8":
        way = "; scale it to 0..255 and make it uint8"
    return f"{name} is {spec.dtype} {shape}, expected uint8 [h w 3], RGB{way}"


def _unlike_stamps(name: str, spec: ArraySpec) -> str | None:
    """Return why the field holds no time stamps where its name says so, or None."""
    if name != "timestamp_ns" or (spec.shape == () and spec.dtype in ("int64", "uint64")):
        return None
    return f"{name} is {spec.dtype} {spec.shape}, expected int64 (), nanoseconds"


def check_episode(
    where: str,
    fields: Mapping[str, ArraySpec],
    data: Mapping[str, Array],
    segments: Sequence[Segment],
    rate_hz: float,
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
        rows = _as_array(f"{where}: {name}", data[name])
        episode[name] = _conform(f"{where}: {name}", name, spec, rows, rate_hz)
    lengths = {name: len(rows) for name, rows in episode.items()}
    length = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise ValueError(f"{where}: fields differ in their number of steps: {listed}")
    if not length:
        raise ValueError(f"{where}: has no steps")
    require_segments(where, segments, length)
    return episode


def _as_array(where: str, rows: Any) -> Array:
    """Return `rows` as an array; ValueError of lists of several lengths and of masked values."""
    if np.ma.is_masked(rows):
        step = int(np.argwhere(np.ma.getmaskarray(rows))[0][0])
        raise ValueError(f"{where} step {step} is masked; a store keeps no masks: leave it out")
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise ValueError(f"{where}: is no array of one shape; steps differ in size") from error


def require_segments(where: str, segments: Sequence[Segment], length: int) -> None:
    """Raise ValueError unless `segments` lie within an episode of `length` steps and say what."""
    whole = int | np.integer
    if not isinstance(segments, Sequence) or not all(isinstance(s, Segment) for s in segments):
        raise ValueError(f"{where}: segments are {segments!r:.60}, expected a list of Segment")
    for segment in segments:
        start, end = segment.start, segment.end
        are_whole = all(isinstance(n, whole) and not isinstance(n, bool) for n in (start, end))
        if not are_whole or not 0 <= start < end <= length:
            raise ValueError(
                f"{where}: segment from step {start} to {end}, expected whole numbers, "
                f"0 <= start < end <= {length}"
            )
        for name in ("instruction", "task"):
            text = getattr(segment, name)
            if not isinstance(text, str) or text.encode(errors="replace").decode() != text:
                raise ValueError(
                    f"{where}: the segment at step {start} has {name} {text!r:.60}, expected text"
                )
        if not segment.instruction.strip():
            raise ValueError(f"{where}: the segment at step {start} has no instruction")


def find_problems(name: str, spec: ArraySpec, rows: Array, rate_hz: float) -> list[tuple[int, str]]:
    """Return (step, what is wrong) of what a store does not accept in an episode's `rows`.

    Of each kind of problem the first is reported: a value that is not finite, an action outside its
    bounds, a timestamp that is not after the one before, or that contradicts the rate.
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
    problems = []
    for wrong, text in kinds:
        if wrong.any():
            step, *entry = (int(i) for i in np.argwhere(wrong)[0])
            place = f"entry {entry[0] if len(entry) == 1 else tuple(entry)} " if entry else ""
            problems.append((step, f"{place}is {rows[(step, *entry)]}, {text}"))
    if name == "timestamp_ns" and rows.ndim == 1:
        problems += _wrong_stamps(rows, rate_hz)
    return sorted(problems)


def _wrong_stamps(stamps: Array, rate_hz: float) -> Iterator[tuple[int, str]]:
    """Yield the first stamp that is not after the one before, the first gap, and a wrong rate.

    The rate is that of the median step, so that what is shaken a little is fine.
    """
    if len(stamps) < 2:
        return
    later = stamps[1:] > stamps[:-1]
    if not later.all():
        step = int(np.flatnonzero(~later)[0]) + 1
        yield step, f"is {stamps[step]}, not after the one before"
        return
    apart = stamps[1:].astype(np.uint64) - stamps[:-1].astype(np.uint64)  # exact where int64 wraps
    steps_s = apart.astype(np.float64) * 1e-9
    usual = float(np.median(steps_s))
    if abs(usual * rate_hz - 1) > STAMP_TOLERANCE:
        unit = _likely_unit(usual * rate_hz)
        yield (
            0,
            f"goes on by {usual:.6g} s a step, at {rate_hz:g} Hz it is {1 / rate_hz:.6g} s{unit}",
        )
        return
    gaps = np.flatnonzero(steps_s * rate_hz > LARGEST_GAP)
    if len(gaps):
        step = int(gaps[0]) + 1
        yield (
            step,
            f"is {steps_s[step - 1]:.6g} s after the one before, {steps_s[step - 1] * rate_hz:.3g} "
            "steps; end the episode before the gap",
        )


def _likely_unit(ratio: float) -> str:
    """Return what stamps probably are that are too small by `ratio`, as a hint."""
    for factor, name in ((1e-9, "s"), (1e-6, "ms"), (1e-3, "us")):
        if abs(ratio / factor - 1) < 0.5:
            return f"; they look like {name}, expected ns"
    return ""


def _listed(bound: tuple[float, ...]) -> str:
    return f"{bound[0]:g}" if len(set(bound)) == 1 else f"({', '.join(f'{b:g}' for b in bound)})"


def _conform(where: str, name: str, spec: ArraySpec, rows: Array, rate_hz: float) -> Array:
    if rows.ndim == 0 or rows.shape[1:] != spec.shape:
        raise ValueError(
            f"{where} has shape {rows.shape}, expected (steps, {', '.join(map(str, spec.shape))})"
            f"{_picture_hint(rows.shape[1:], spec)}"
        )
    if rows.dtype != np.dtype(spec.dtype):
        rows = _cast(where, rows, np.dtype(spec.dtype))
    if problems := find_problems(name, spec, rows, rate_hz):
        raise ValueError(f"{where} step {problems[0][0]} {problems[0][1]}")
    return rows


def _picture_hint(shape: tuple[int, ...], spec: ArraySpec) -> str:
    wanted = tuple(int(n or 0) for n in spec.shape)
    if len(wanted) == 3 and wanted[2] == 3 and shape == (wanted[2], *wanted[:2]):
        return "; it is [3 h w], which pictures.transpose(0, 2, 3, 1) mends"
    return ""


def _cast(where: str, rows: Array, dtype: np.dtype[Any]) -> Array:
    """Return the rows as `dtype`; ValueError if a value would become another."""
    if not np.can_cast(rows.dtype, dtype, "same_kind") and not (
        rows.dtype.kind in "iu" and dtype.kind in "iu"
    ):
        raise ValueError(f"{where} has dtype {rows.dtype}, expected {dtype}")
    with np.errstate(over="ignore"):  # what becomes infinite is reported as not finite
        cast = rows.astype(dtype)
    if dtype.kind in "iu":
        changed = cast != rows
        changed |= (cast < 0) != (rows < 0)
        if changed.any():
            step = int(np.argwhere(changed)[0][0])
            limits = np.iinfo(dtype)
            raise ValueError(
                f"{where} step {step} is {rows[changed][0]}, which {dtype} cannot hold "
                f"({limits.min} to {limits.max})"
            )
    elif dtype.kind == "f" and rows.dtype.kind in "iu":
        changed = cast.astype(rows.dtype) != rows
        if changed.any():
            step = int(np.argwhere(changed)[0][0])
            raise ValueError(
                f"{where} step {step} is {rows[changed][0]}, which {dtype} holds as "
                f"{cast[changed][0]:.0f}; make the field {rows.dtype} or float64"
            )
    return cast
