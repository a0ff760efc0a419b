"""Dataclasses of JSON data, read back: what the file cannot have been written with is refused."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")


def read_record(kind: type[Record], data: Any) -> Record:
    """Return the `kind` whose `asdict` is `data`; ValueError naming the entry that cannot be.

    An entry with a default may be absent: an older file has not got it.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{data!r:.40} is no {kind.__name__}")
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for name in data:
        if name not in known:
            raise ValueError(f"{name!r} is no entry of {kind.__name__}")
    given = {}
    for name, entry in known.items():
        if name not in data:
            if entry.default is MISSING and entry.default_factory is MISSING:
                raise ValueError(f"{kind.__name__} needs {name!r}")
            continue
        if not _fits(data[name], hints[name]):
            raise ValueError(f"{name}={data[name]!r:.40} cannot be in {kind.__name__}")
        given[name] = data[name]
    return kind(**given)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a JSON value is what a type hint stands for."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return any(_fits(value, option) for option in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(entry, inner[0]) for entry in value)
    if hint is dict or origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
    if hint is int:
        return type(value) is int
    if hint is Any:
        return True
    return isinstance(value, str if hint is Path else hint)
