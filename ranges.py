"""What configuration values may be: any other is refused in one line that names the key."""

from __future__ import annotations

import math
import numbers
from enum import Enum
from typing import Any, Final, TypeVar

from telic.array_spec import near_misses

Choice = TypeVar("Choice", bound=Enum)
_FINITE: Final = "a finite number"
LAST_SEED: Final = 2**31 - 1  # simulators take no larger one


def require_range(
    config: object,
    *names: str,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    prefix: str = "",
) -> None:
    """Raise ValueError unless the fields `names` of `config` are finite and within the range.

    A field that is None is left alone. `prefix` completes the key as a user types it
    (`prefix="loop."`).
    """
    for name in names:
        value: Any = getattr(config, name)
        if value is None:
            continue
        wanted, finite = _wanted(at_least, above, at_most), _finite(value)
        outside = (
            not finite
            or (at_least is not None and value < at_least)
            or (above is not None and value <= above)
            or (at_most is not None and value > at_most)
        )
        if at_most is None and wanted != _FINITE and not finite:
            wanted += " and finite"
        if outside:
            raise ValueError(f"{prefix}{name}={value!r} must be {wanted}")


def require_text(config: object, *names: str, prefix: str = "") -> None:
    """Raise ValueError where one of the fields `names` of `config` is blank; None is left alone."""
    for name in names:
        value: Any = getattr(config, name)
        if value is not None and not value.strip():
            raise ValueError(f"{prefix}{name}={value!r} is blank; give it a value, or leave it out")


def require_choice(choices: type[Choice], name: str, key: str) -> Choice:
    """The member of `choices` whose value is `name`, that of `key`; ValueError offers near ones."""
    names = [choice.value for choice in choices]
    if name not in names:
        raise ValueError(
            f"{key}={name!r} is not one of {', '.join(names)}{near_misses(name, names)}"
        )
    return choices(name)


def _finite(value: object) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _wanted(at_least: float | None, above: float | None, at_most: float | None) -> str:
    parts = []
    if at_least is not None:
        parts.append(f"at least {at_least:g}")
    if above is not None:
        parts.append(f"more than {above:g}")
    if at_most is not None:
        parts.append(f"at most {at_most:g}")
    return " and ".join(parts) or _FINITE
