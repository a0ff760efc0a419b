"""The evaluation chains: CALVIN's own where they are at hand, digests and rules where not."""

import hashlib
import itertools
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from telic.envs.playtable import protocol
from telic.envs.playtable.protocol import (
    check_chain,
    draw_chains,
    evaluation_chains,
    initial_states,
)
from telic.envs.playtable.rules import TASK_RULES, State

DIGEST = "ecb0cbef0beb0e4898d3a236c26494f46b950c707defc0b6ef61ce9278143451"


def test_the_thousand_chains_are_those_of_calvin(shared: Path) -> None:
    theirs = json.loads((shared / "data/calvin_eval_sequences_1000.json").read_text())["sequences"]
    ours = [
        {"initial_state": chain.initial_state._asdict(), "tasks": list(chain.tasks)}
        for chain in evaluation_chains(1000)
    ]
    assert ours == theirs


def test_the_chains_keep_their_digest() -> None:
    chains = evaluation_chains()
    first = chains[0]
    assert first.initial_state == State(
        1, 1, "left", "open", "slider_left", "table", "slider_right"
    )
    assert first.tasks == (
        "rotate_blue_block_right",
        "move_slider_right",
        "lift_red_block_slider",
        "place_in_slider",
        "turn_off_lightbulb",
    )
    text = json.dumps([[list(chain.initial_state), list(chain.tasks)] for chain in chains])
    assert hashlib.sha256(text.encode()).hexdigest() == DIGEST
    assert evaluation_chains(7) == chains[:7]


def test_every_chain_can_be_done_and_never_repeats_a_kind() -> None:
    chains = evaluation_chains(1000)
    for chain in chains:
        assert check_chain(chain.initial_state, chain.tasks) == chain
        assert len({TASK_RULES[task].kind for task in chain.tasks}) == len(chain.tasks) == 5
    counts = Counter(task for chain in chains for task in chain.tasks)
    assert counts.keys() == TASK_RULES.keys()
    assert (counts["place_in_slider"], counts["lift_pink_block_drawer"]) == (398, 17)
    starts = Counter(chain.initial_state for chain in chains)
    assert Counter(starts.values()) == {6: 40, 5: 152}


@pytest.mark.parametrize("number", [0, 1])
def test_chains_are_drawn_as_they_were(number: int) -> None:
    state = initial_states()[number]
    kept = {chain.tasks for chain in evaluation_chains() if chain.initial_state == state}
    assert set(itertools.islice(draw_chains(state, number, 6), 3)) <= kept


@pytest.mark.slow
def test_all_chains_are_drawn_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    protocol.main()
    kept = files("telic.envs.playtable").joinpath("chains.txt").read_text()
    assert capsys.readouterr().out == kept


def test_a_chain_that_cannot_be_done_is_one_line() -> None:
    start = State(0, 0, "right", "closed", "table", "slider_left", "table")
    for tasks, says in (
        (["close_drawer"], r"task 1 \(close_drawer\) needs drawer=open, but there drawer=closed;"),
        (
            ["open_drawer", "lift_blue_block_table"],
            r"task 2 \(lift_blue_block_table\) needs blue_block=table, but there "
            r"blue_block=slider_left; possible are rotate_red_block_right, rotate_red_block_left",
        ),
        (
            ["lift_blue_block_slider", "stack_block"],
            r"task 2 \(stack_block\) can be done in 2 ways here, expected one",
        ),
        (["open_drawer", "close_drawers"], "unknown PlayTable task 'close_drawers'; did you mean"),
        ([], "chain: has no tasks"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            check_chain(start._asdict(), tasks)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="slider=middle, expected one of right, left"):
        check_chain(start._replace(slider="middle"), ["open_drawer"])
    for number in (0, 1001):
        with pytest.raises(ValueError, match=f"num_chains={number} must lie between 1 and 1000"):
            evaluation_chains(number)
