"""The symbolic rules: CALVIN's table where it is at hand, and what must hold of any such rules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from telic.envs.playtable.protocol import initial_states
from telic.envs.playtable.rules import (
    BLOCKS,
    TASK_RULES,
    VALUES,
    State,
    applicable,
    following,
    state_from,
    task_rules,
)

walks = st.tuples(
    st.sampled_from(initial_states()), st.lists(st.sampled_from(list(TASK_RULES)), max_size=60)
)


def walk(start: State, tasks: list[str]) -> list[tuple[State, str, State]]:
    """Return the steps of a walk that leaves out what is not possible."""
    steps = []
    for task in tasks:
        if (after := following(task, start)) is not None:
            steps.append((start, task, after))
            start = after
    return steps


def comparable(needs: Mapping[str, Any], gives: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a rule such that equal ones look equal: what it needs, what it truly changes."""
    listed = {name: v if isinstance(v, list | tuple) else [v] for name, v in needs.items()}
    changes = {name: v for name, v in gives.items() if list(listed.get(name, ())) != [v]}
    return sorted((name, sorted(v)) for name, v in listed.items()), sorted(changes.items())


def test_the_rules_are_those_of_calvin(shared: Path) -> None:
    table = yaml.safe_load((shared / "data/calvin_sequences.yaml").read_text())
    assert list(table["tasks"]) == list(TASK_RULES)
    for task, ways in table["tasks"].items():
        theirs = [comparable(way["condition"], way["effect"]) for way in ways]
        ours = [comparable(rule.needs, rule.gives) for rule in TASK_RULES[task].rules]
        assert sorted(ours) == sorted(theirs), task
    kinds = table["task_categories"]
    pairs = [(a, b) for a in kinds for b in kinds]
    assert all(
        (kinds[a] == kinds[b]) == (TASK_RULES[a].kind == TASK_RULES[b].kind) for a, b in pairs
    )


@given(walks)
def test_every_state_on_a_walk_makes_sense(start_and_tasks: tuple[State, list[str]]) -> None:
    for _, task, state in walk(*start_and_tasks):
        assert all(getattr(state, name) in values for name, values in VALUES.items())
        places = [getattr(state, block) for block in BLOCKS]
        assert places.count("grasped") == state.grasped <= 1
        assert places.count("stacked_top") == places.count("stacked_bottom") <= 1
        if task.startswith("lift"):
            assert state.grasped == 1


@given(walks)
def test_a_task_changes_what_it_is_about_alone(start_and_tasks: tuple[State, list[str]]) -> None:
    opposite = {"open": "close", "close": "open", "on": "off", "off": "on", "left": "right"}
    opposite |= {"right": "left"}
    for before, task, after in walk(*start_and_tasks):
        words = task.split("_")
        if words[0] in ("rotate", "push") and words[-1] != "drawer":
            assert after == before
        elif "block" not in words and words[0] != "place" and words[-1] != "drawer":
            undone = "_".join(opposite.get(word, word) for word in words)
            assert following(undone, after) == before != after
        elif words[-1] == "block":
            moved = dict.fromkeys((*BLOCKS, "grasped"))
            assert after._asdict() | moved == before._asdict() | moved


def test_a_stack_comes_apart_and_two_bases_are_one_too_many() -> None:
    start = State(0, 0, "right", "closed", "table", "slider_left", "table")
    held = following("lift_blue_block_slider", start)
    assert held is not None and held.blue_block == "grasped"
    assert len(applicable("stack_block", held)) == 2  # on the red one or on the pink one
    assert following("stack_block", held) is None
    one = held._replace(pink_block="slider_right")
    stacked = following("stack_block", one)
    assert stacked is not None and stacked.red_block == "stacked_bottom"
    apart = following("unstack_block", stacked)
    assert apart == one._replace(blue_block="table", grasped=0)


def test_bad_names_are_one_line() -> None:
    with pytest.raises(ValueError, match="unknown PlayTable task 'open_draw'; did you mean"):
        task_rules("open_draw")
    values = initial_states()[0]._asdict()
    with pytest.raises(ValueError, match="unknown entry 'drawers'; did you mean drawer"):
        state_from(values | {"drawers": "open"})
    with pytest.raises(ValueError, match="drawer=ajar, expected one of closed, open"):
        state_from(values | {"drawer": "ajar"})
    del values["led"]
    with pytest.raises(ValueError, match="led=None, expected one of 0, 1"):
        state_from(values)
