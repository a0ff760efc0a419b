"""The 34 tasks in symbols: what each needs of the table and what it leaves behind.

CALVIN (Mees et al., RA-L 2022) draws its evaluation chains from such rules alone, without a
simulator. A task may have several rules; it is possible where at least one applies, and what
follows is known where exactly one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Final, NamedTuple

from telic.spec import near_misses

COLOURS: Final = ("red", "blue", "pink")
BLOCKS: Final = tuple(f"{colour}_block" for colour in COLOURS)
SIDES: Final = ("right", "left")
SHELF: Final = ("slider_right", "slider_left")
Value = str | int


class State(NamedTuple):
    """The table in symbols, its entries in the order in which CALVIN hashes them.

    A block is on the "table", behind the sliding door at "slider_right" or "slider_left", in the
    "drawer", "grasped", "stacked_top" or "stacked_bottom"; `grasped` is 1 while any block is held.
    """

    led: int
    lightbulb: int
    slider: str
    drawer: str
    red_block: str
    blue_block: str
    pink_block: str
    grasped: int = 0


_PLACES: Final = ("table", *SHELF, "drawer", "grasped", "stacked_top", "stacked_bottom")
VALUES: Final[Mapping[str, tuple[Value, ...]]] = {
    "led": (0, 1),
    "lightbulb": (0, 1),
    "slider": SIDES,
    "drawer": ("closed", "open"),
    **dict.fromkeys(BLOCKS, _PLACES),
    "grasped": (0, 1),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One way to do a task. needs: entry -> the values allowed; gives: entry -> its new value."""

    needs: Mapping[str, tuple[Value, ...]]
    gives: Mapping[str, Value]

    def unmet(self, state: State) -> list[str]:
        """Return the entries of `state` that this rule does not allow."""
        return [name for name, allowed in self.needs.items() if getattr(state, name) not in allowed]

    def after(self, state: State) -> State:
        """Return the state that the rule makes of `state`."""
        return state._replace(**self.gives)  # type: ignore[arg-type]  # values fit by VALUES


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRules:
    """A task's rules. kind: no chain has two tasks of one kind."""

    kind: str
    rules: tuple[Rule, ...]


Conditions = dict[str, Value | tuple[Value, ...]]


def _rule(needs: Conditions, gives: dict[str, Value], held: int = 0) -> Rule:
    """Return a rule for a hand that holds `held` blocks; a single value stands for itself alone."""
    allowed = {name: v if isinstance(v, tuple) else (v,) for name, v in needs.items()}
    return Rule(needs=allowed | {"grasped": (held,)}, gives=gives)


def _turn(entry: str, before: Value, after: Value) -> tuple[Rule, ...]:
    return (_rule({entry: before}, {entry: after}),)


def _lift(block: str, needs: Conditions) -> Rule:
    return _rule(needs, {block: "grasped", "grasped": 1})


def _put(block: str, place: str, needs: Conditions) -> Rule:
    return _rule({block: "grasped", **needs}, {block: place, "grasped": 0}, held=1)


def _push_into_drawer(block: str) -> Rule:
    needs: Conditions = dict.fromkeys(BLOCKS, SHELF)
    return _rule(needs | {block: "table", "drawer": "open"}, {block: "drawer"})


def _stack(top: str, bottom: str) -> Rule:
    gives: dict[str, Value] = {top: "stacked_top", bottom: "stacked_bottom", "grasped": 0}
    return _rule({top: "grasped", bottom: "table"}, gives, held=1)


def _unstack(top: str, bottom: str) -> Rule:
    return _rule({top: "stacked_top", bottom: "stacked_bottom"}, {top: "table", bottom: "table"})


def _table() -> Iterator[tuple[str, str, tuple[Rule, ...]]]:
    """Yield (task, kind, rules) in the order of the tasks' official numbers.

    Where a placed block is said to lie behind the door is CALVIN's quirk: the side that the door
    stands at, though the opening is at the other. No task's success depends on it.
    """
    pairs = list(permutations(BLOCKS, 2))
    for verb in ("rotate", "push"):
        for block in BLOCKS:
            for side in SIDES:
                yield f"{verb}_{block}_{side}", "move a block", _turn(block, "table", "table")
    yield "move_slider_left", "slider", _turn("slider", "right", "left")
    yield "move_slider_right", "slider", _turn("slider", "left", "right")
    yield "open_drawer", "drawer", _turn("drawer", "closed", "open")
    yield "close_drawer", "drawer", _turn("drawer", "open", "closed")
    uncovered = (("slider_left", "right"), ("slider_right", "left"))
    for block in BLOCKS:
        shelf = tuple(_lift(block, {block: side, "slider": door}) for side, door in uncovered)
        drawer = _lift(block, {block: "drawer", "drawer": "open"})
        yield f"lift_{block}_table", "lift from table", (_lift(block, {block: "table"}),)
        yield f"lift_{block}_slider", "lift from shelf", shelf
        yield f"lift_{block}_drawer", "lift from drawer", (drawer,)
    behind = [_put(b, f"slider_{side}", {"slider": side}) for b in BLOCKS for side in SIDES]
    yield "place_in_slider", "place", tuple(behind)
    inside = tuple(_put(block, "drawer", {"drawer": "open"}) for block in BLOCKS)
    yield "place_in_drawer", "place", inside
    yield "stack_block", "stack", tuple(_stack(*pair) for pair in pairs)
    yield "unstack_block", "unstack", tuple(_unstack(*pair) for pair in pairs)
    for light in ("lightbulb", "led"):
        yield f"turn_on_{light}", "light", _turn(light, 0, 1)
        yield f"turn_off_{light}", "light", _turn(light, 1, 0)
    yield "push_into_drawer", "push into drawer", tuple(map(_push_into_drawer, BLOCKS))


TASK_RULES: Final = {task: TaskRules(kind=kind, rules=rules) for task, kind, rules in _table()}


def task_rules(task: str) -> TaskRules:
    """Return the rules of a task; ValueError with near misses for an unknown one."""
    if task not in TASK_RULES:
        hint = (
            near_misses(task, TASK_RULES) or f"; expected one of {len(TASK_RULES)} PlayTable tasks"
        )
        raise ValueError(f"unknown PlayTable task {task!r}{hint}")
    return TASK_RULES[task]


def applicable(task: str, state: State) -> list[Rule]:
    """Return the rules of `task` that apply in `state`; ValueError for an unknown task."""
    return [rule for rule in task_rules(task).rules if not rule.unmet(state)]


@cache
def following(task: str, state: State) -> State | None:
    """Return what follows on `task` in `state`, or None unless exactly one rule applies."""
    rules = applicable(task, state)
    return rules[0].after(state) if len(rules) == 1 else None


def state_from(values: Mapping[str, Value]) -> State:
    """Return the state with these entries; ValueError for an unknown, missing or wrong one."""
    for name in values:
        if name not in VALUES:
            raise ValueError(f"initial state: unknown entry {name!r}{near_misses(name, VALUES)}")
    for name, value in (dict.fromkeys(VALUES) | State._field_defaults | dict(values)).items():
        if value not in VALUES[name]:
            expected = ", ".join(map(str, VALUES[name]))
            raise ValueError(f"initial state: {name}={value}, expected one of {expected}")
    return State(**values)  # type: ignore[arg-type]  # checked above
