"""What a user states about an array on the command line: `--action-is unit=rad frame=base`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from telic.datasets.formats.converter import ImportOptions
from telic.spec import ArraySpec, near_misses

_WORDS = ("unit", "rotation", "gripper", "frame", "note")
_BOUNDS = ("minimum", "maximum")
_KEYS = (*_WORDS, *_BOUNDS, "names")


def with_statements(
    fields: Mapping[str, ArraySpec], options: ImportOptions
) -> dict[str, ArraySpec]:
    """The fields with what the user says of state and action, which counts over the source."""
    statements_of = {"state": options.state_is, "action": options.action_is}
    result = dict(fields)
    for name, statements in statements_of.items():
        if not statements:
            continue
        if name not in fields:
            raise ValueError(f"--{name}-is: the source has no {name}")
        try:
            result[name] = dataclasses.replace(fields[name], **_parsed(statements))
        except ValueError as error:
            raise ValueError(f"--{name}-is: {error}") from error
    return result


def _parsed(statements: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for statement in statements:
        key, equals, value = statement.partition("=")
        if not equals or key not in _KEYS:
            raise ValueError(
                f"{statement!r} is not KEY=VALUE with a key of {', '.join(_KEYS)}"
                f"{near_misses(key, _KEYS)}"
            )
        if key in found:
            raise ValueError(f"{key} is stated twice")
        if key in _BOUNDS:
            found[key] = _floats(statement, value)
        else:
            found[key] = tuple(value.split(",")) if key == "names" else value
    return found


def _floats(statement: str, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in value.split(","))
    except ValueError as error:
        raise ValueError(f"{statement!r} needs one number, or one for each entry") from error
