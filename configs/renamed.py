"""Keys of a command line that are called otherwise now: still read, with a line that says so."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Final

# key, before and now, and its values, where these are called otherwise too
KEYS: Final[Mapping[str, str]] = {
    "numbers": "precision",
    "policy.formulation.answer": "policy.formulation.prediction_type",
    "loop.seam_steps": "loop.boundary_steps",
    "act_as": "embodiment",
}
VALUES: Final[Mapping[str, Mapping[str, str]]] = {
    "numbers": {"packed": "fp32_packed"},
    "policy.formulation.answer": {"v": "v_prediction"},
}
# what stands before a key: Hydra's signs, and the stage of a recipe that it is for
_OVERRIDE: Final = re.compile(r"([+~]*(?:train\.|evaluate\.|control\.)?)([\w.]+)=(.*)", re.DOTALL)


def with_new_names(arguments: Sequence[str]) -> list[str]:
    """The command line with each old key by its new name; one warning for each."""
    return [_renamed(argument) for argument in arguments]


def _renamed(argument: str) -> str:
    override = _OVERRIDE.fullmatch(argument)
    if override is None or override.group(2) not in KEYS:
        return argument
    before, old, value = override.groups()
    new, value = KEYS[old], VALUES.get(old, {}).get(value, value)
    warnings.warn(f"{before}{old} is called {before}{new} now: {before}{new}={value}", stacklevel=2)
    return f"{before}{new}={value}"
