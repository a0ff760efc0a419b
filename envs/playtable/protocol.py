"""The 1000 evaluation chains of CALVIN's LH-MTLC: five tasks in a row from a symbolic state.

They are drawn from the rules alone, as CALVIN draws them. That takes seven million draws and
most of a minute, so what came of it lies beside this file:
`python -m telic.envs.playtable.protocol > envs/playtable/chains.txt` draws it anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Final

import numpy as np

from telic.envs.playtable.rules import (
    BLOCKS,
    SHELF,
    TASK_RULES,
    VALUES,
    State,
    Value,
    applicable,
    following,
    state_from,
    task_rules,
)

NUM_CHAINS: Final = 1000
CHAIN_LENGTH: Final = 5
_TASKS: Final = tuple(TASK_RULES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """Tasks to be done one after the other, without a reset between them."""

    initial_state: State
    tasks: tuple[str, ...]


def evaluation_chains(num_chains: int = NUM_CHAINS) -> list[Chain]:
    """Return the first `num_chains` of the 1000 evaluation chains, in CALVIN's order.

    ValueError unless 1 <= num_chains <= 1000.
    """
    if not 1 <= num_chains <= NUM_CHAINS:
        raise ValueError(f"num_chains={num_chains} must lie between 1 and {NUM_CHAINS}")
    return list(_evaluation_chains()[:num_chains])


@cache
def _evaluation_chains() -> tuple[Chain, ...]:
    lines = files("telic.envs.playtable").joinpath("chains.txt").read_text().splitlines()
    states = [state for state, count in _shares() for _ in range(count)]
    chains = [
        Chain(initial_state=state, tasks=tuple(_TASKS[int(number)] for number in line.split()))
        for state, line in zip(states, lines, strict=True)
    ]
    order = list(range(NUM_CHAINS))
    np.random.RandomState(0).shuffle(order)
    return tuple(chains[index] for index in order)


def initial_states() -> list[State]:
    """Return the 192 states in which chains begin.

    Every combination of lights, door and drawer, with one or two blocks on the table and at most
    one at each side of the shelf.
    """
    free = [VALUES[name] for name in ("led", "lightbulb", "slider", "drawer")]
    places = [("table", *SHELF)] * len(BLOCKS)
    return [
        State(*combination)  # type: ignore[arg-type]  # drawn from VALUES
        for combination in product(*free, *places)
        if combination.count("table") in (1, 2)
        and all(combination.count(side) < 2 for side in SHELF)
    ]


def _shares() -> Iterator[tuple[State, int]]:
    """Yield each initial state and how many chains begin in it: the thousand, shared out evenly."""
    states = initial_states()
    least, left = divmod(NUM_CHAINS, len(states))
    for index, state in enumerate(states):
        yield state, least + (index < left)


def draw_chains(state: State, seed: int, count: int) -> Iterator[tuple[str, ...]]:
    """Yield `count` random chains from `state`, as CALVIN draws them.

    Five different tasks at random, until each is possible in exactly one way after those before
    it and no two are of one kind.
    """
    rng = np.random.RandomState(seed)
    while count:
        tasks = [_TASKS[index] for index in rng.permutation(len(_TASKS))[:CHAIN_LENGTH].tolist()]
        at: State | None = state
        for task in tasks:
            at = following(task, at) if at is not None else None
        if at is not None and len({TASK_RULES[task].kind for task in tasks}) == CHAIN_LENGTH:
            yield tuple(tasks)
            count -= 1


def check_chain(initial_state: State | Mapping[str, Value], tasks: Sequence[str]) -> Chain:
    """Return the chain if every task is possible, in exactly one way, after those before it.

    ValueError for an empty chain, an unknown task, a wrong state, and a task that is not possible:
    what it needs, what is there, and tasks that could stand in its place.
    """
    state = initial_state if isinstance(initial_state, State) else state_from(initial_state)
    at = state_from(state._asdict())
    if not tasks:
        raise ValueError("chain: has no tasks, expected at least one")
    for number, task in enumerate(tasks, start=1):
        after = following(task, at)
        if after is None:
            raise ValueError(f"chain: task {number} ({task}) {_problem(task, at)}")
        at = after
    return Chain(initial_state=state, tasks=tuple(tasks))


def _problem(task: str, at: State) -> str:
    """Return why `task` has not exactly one rule at `at`, and what could be done instead."""
    possible = ", ".join([other for other in _TASKS if following(other, at) is not None][:3])
    if rules := applicable(task, at):
        return f"can be done in {len(rules)} ways here, expected one; possible are {possible}, ..."
    closest = min(task_rules(task).rules, key=lambda rule: len(rule.unmet(at)))
    unmet = closest.unmet(at)
    needs = ", ".join(f"{name}={'|'.join(map(str, closest.needs[name]))}" for name in unmet)
    found = ", ".join(f"{name}={getattr(at, name)}" for name in unmet)
    return f"needs {needs}, but there {found}; possible are {possible}, ..."


def main() -> None:
    """Print the chains, unshuffled, as the numbers of their tasks."""
    for seed, (state, count) in enumerate(_shares()):
        for tasks in draw_chains(state, seed, count):
            print(*(_TASKS.index(task) for task in tasks))


if __name__ == "__main__":
    main()
