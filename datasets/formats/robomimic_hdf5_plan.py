"""How the demos of a file that `export_hdf5` wrote are read, and that it is what was written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from telic.datasets import hdf5, layout
from telic.datasets.formats.robomimic_hdf5_layout import WAY_OUT, digest_of_text
from telic.datasets.language import Segment
from telic.spec import Array, ArraySpec


@dataclass(kw_only=True, slots=True)
class ReadPlan:
    """How the demos of one file are read."""

    fields: Mapping[str, ArraySpec]
    rate_hz: float
    attrs: Mapping[str, Any]
    read: Callable[[str, h5py.Group], dict[str, Array]]
    segments: Callable[[str, h5py.Group], list[Segment]]
    digests: Mapping[str, str] = field(default_factory=dict)  # of the demos of a file of ours


def own_plan(source: Path, own: Mapping[str, Any]) -> ReadPlan:
    """Return the plan for a file that `export_hdf5` wrote: everything as it was."""
    where = f"{source}: attribute telic of /data"
    paths, fields = own.get("paths"), own.get("fields")
    if not isinstance(fields, dict) or not isinstance(paths, dict) or set(paths) != set(fields):
        raise ValueError(f"{where}: fields and paths do not fit each other")
    if any(not isinstance(path, str) for path in paths.values()):
        raise ValueError(f"{where}: paths are {paths!r:.60}, expected texts")
    return ReadPlan(
        fields=layout.read_specs(where, fields),
        rate_hz=checked_rate(where, own.get("rate_hz")),
        attrs=own,
        read=lambda where, demo: {n: hdf5.rows(demo, path, where) for n, path in paths.items()},
        segments=_own_segments,
        digests=own.get("digests", {}),
    )


def require_intact(source: Path, own: Mapping[str, Any], demos: Collection[str]) -> None:
    """Raise ValueError unless a file of ours says what was written of the same demos.

    One that was written before there were digests is taken as it is.
    """
    if "digest" not in own and "digests" not in own:
        return
    digested = {key: value for key, value in own.items() if key != "digest"}
    if own.get("digest") != digest_of_text(json.dumps(digested)):
        raise ValueError(f"{source}: attribute telic of /data is not what was written; {WAY_OUT}")
    if set(own["digests"]) != set(demos):
        other = sorted(set(own["digests"]) ^ set(demos))
        raise ValueError(f"{source}: {other[0]} was added or is missing; {WAY_OUT}")


def _own_segments(where: str, demo: h5py.Group) -> list[Segment]:
    found = hdf5.json_value(demo, "segments", where, [])
    kinds = {"start": int, "end": int, "instruction": str, "task": str}
    for segment in found if isinstance(found, list) else [found]:
        if not isinstance(segment, dict) or {k: type(v) for k, v in segment.items()} != kinds:
            raise ValueError(f"{where}: attribute segments holds {segment!r:.80}")
    return [Segment(**segment) for segment in found]


def checked_rate(where: str, rate_hz: Any) -> float:
    """The control rate in Hz; ValueError unless it is a finite number above 0."""
    if isinstance(rate_hz, bool) or not isinstance(rate_hz, int | float):
        raise ValueError(f"{where}: control rate is {rate_hz!r:.40}, expected Hz; pass --rate-hz")
    if not 0 < rate_hz < math.inf:
        raise ValueError(f"{where}: control rate is {rate_hz} Hz, expected more than 0")
    return float(rate_hz)
