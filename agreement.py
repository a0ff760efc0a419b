"""Whether two interfaces mean the same numbers: what differs is refused in one line.

| compared | of what |
|---|---|
| shape, dtype | state, action, every camera that is needed |
| unit, names in their order, rotation, gripper, frame | the same, where both sides state them |
| bounds | the action, where both sides state them: it is scaled by them |
| rate_hz of the interface | actions a second |

Another physics of a simulator is warned of in one line, not refused.

These may differ: the bounds of the state (a sensor's range is not what its numbers mean), `note`
(for people), the rate of a single sensor, cameras that are not needed. An action's bounds may not,
not even narrower ones: [-1, 1] and [-100, 100] are two scales of one motion; a robot is held back
by the settings of its safety envelope.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from telic.array_spec import ArraySpec, near_misses

_WAYS_OUT = {
    "shape": "use a {who} with that {field} size",
    "dtype": "convert one of them",
    "unit": "convert the numbers of one of them",
    "rotation": "convert the rotations of one of them",
    "gripper": "turn the sign of the gripper in one of them",
    "frame": "transform one of them",
}


class Agreeing(Protocol):
    """An interface, as far as it is compared."""

    @property
    def state(self) -> ArraySpec:
        """What is sensed [P]."""
        ...

    @property
    def action(self) -> ArraySpec:
        """The spec of an action [A]."""
        ...

    @property
    def rate_hz(self) -> float:
        """How many actions a second."""
        ...

    @property
    def images(self) -> Mapping[str, ArraySpec]:
        """Camera -> [h w 3]."""
        ...


@dataclass(frozen=True, slots=True)
class Difference:
    """What two specs do not agree on: an attribute, or an entry of it, and the way out."""

    what: str
    got: Any
    expected: Any
    way_out: str


def require_agreement(needs: Agreeing, offers: Agreeing, mine: str, theirs: str) -> None:
    """Raise ValueError unless `offers` has all that `needs` names, and means the same by it.

    `mine` and `theirs` say in the message where the two come from. A UserWarning where the actions
    of the two are carried out by another physics.
    """
    for field, want, got, with_bounds in _pairs(needs, offers, mine, theirs):
        if (found := next(differences(want, got, with_bounds), None)) is not None:
            way_out = found.way_out.format(who=theirs.split(" ")[0], field=field)
            raise ValueError(
                f"{theirs}: {field} has {found.what} {found.got}, expected {found.expected} by "
                f"{mine}; {way_out} or train on this one"
            )
    if offers.rate_hz != needs.rate_hz:
        raise ValueError(
            f"{theirs}: runs at {offers.rate_hz:g} Hz, expected {needs.rate_hz:g} Hz by {mine}; "
            "set its rate, or train at this one"
        )
    if line := other_physics(needs.action.physics, offers.action.physics, mine, theirs):
        warnings.warn(line, stacklevel=2)


def other_physics(want: str, got: str, mine: str, theirs: str) -> str | None:
    """Return in one line that two physics of a simulator differ, or None; "" is unstated."""
    if want == got:
        return None
    where = "the simulator" if theirs.startswith("task ") else theirs  # one line for all tasks
    return (
        f"{where} has physics {got or 'unstated'}, {mine} has {want or 'unstated'}: the same "
        "actions move things otherwise, so collect, train and evaluate anew in one of them"
    )


def _pairs(
    needs: Agreeing, offers: Agreeing, mine: str, theirs: str
) -> Iterator[tuple[str, ArraySpec, ArraySpec, bool]]:
    """Yield (field, needed, offered, whether the bounds count); ValueError for a camera missing."""
    yield "state", needs.state, offers.state, False
    yield "action", needs.action, offers.action, True
    for camera, spec in needs.images.items():
        if camera not in offers.images:
            raise ValueError(
                f"{theirs}: no camera {camera!r} (it has {', '.join(offers.images) or 'none'}), "
                f"{mine} needs it{near_misses(camera, offers.images)}"
            )
        yield f"camera {camera!r}", spec, offers.images[camera], False


def differences(want: ArraySpec, got: ArraySpec, with_bounds: bool) -> Iterator[Difference]:
    """Yield what `got` says otherwise than `want`; what one of them does not state is no word."""
    for what in ("shape", "dtype"):
        if getattr(want, what) != getattr(got, what):
            yield Difference(what, getattr(got, what), getattr(want, what), _WAYS_OUT[what])
    if want.shape != got.shape:
        return
    yield from _names(want.names, got.names)
    for what in ("unit", "rotation", "gripper", "frame"):
        mine, other = getattr(want, what), getattr(got, what)
        if mine and other and mine.split() != other.split():
            yield Difference(what, repr(other), repr(mine), _WAYS_OUT[what])
    if with_bounds:
        yield from _bounds(want, got)


def _names(want: tuple[str, ...], got: tuple[str, ...]) -> Iterator[Difference]:
    if not want or not got or want == got:
        return
    entry = next(i for i, (mine, other) in enumerate(zip(want, got, strict=True)) if mine != other)
    if sorted(want) == sorted(got):
        order = ", ".join(str(got.index(name)) for name in want) if len(want) <= 20 else ""
        way_out = "the names are the same in another order: put its entries in the order expected"
        way_out += f" ([{order}])" if order else ""
    else:
        way_out = "rename the entry if it means the same"
    yield Difference(f"entry {entry} named", repr(got[entry]), repr(want[entry]), way_out)


def _bounds(want: ArraySpec, got: ArraySpec) -> Iterator[Difference]:
    for what in ("minimum", "maximum"):
        mine, other = getattr(want, what), getattr(got, what)
        if mine is None or other is None:
            continue
        wanted, given = np.broadcast_arrays(np.atleast_1d(mine), np.atleast_1d(other))
        wrong = ~np.isclose(wanted, given, rtol=1e-5, atol=1e-8)
        if wrong.any():
            entry = int(np.argmax(wrong))
            named = f" ({got.names[entry]})" if len(got.names) > entry else ""
            yield Difference(
                f"entry {entry}{named} with {what}",
                f"{given[entry]:g}",
                f"{wanted[entry]:g}",
                "give both the same bounds where they have the same scale (a robot is held back by "
                "safety settings), scale the actions of one of them where not",
            )
