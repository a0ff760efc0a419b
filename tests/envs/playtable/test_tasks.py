"""PlayTable's 34 predicates on states made by hand, at both sides of each threshold."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from telic.envs.playtable.facts import BASE, DRAWER, PLANK, ROBOT, BlockFacts, Facts, block
from telic.envs.playtable.layout import COLOURS
from telic.envs.playtable.rotations import matrix
from telic.envs.playtable.tasks import TASKS, success
from telic.spec import Array

PLACES = {"red": [0.05, -0.1, 0.46], "blue": [0.2, -0.1, 0.46], "pink": [-0.2, 0.09, 0.46]}


def lying() -> Facts:
    """Return red and blue on the desk, pink on the shelf, everything at rest, shut and dark."""
    return Facts(
        joints=dict.fromkeys(("slide", "drawer", "button", "switch"), 0.1),
        lightbulb=False,
        led=False,
        blocks={
            colour: BlockFacts(
                position=np.array(PLACES[colour]),
                rotation=matrix(np.array([0, 0, 0.3])),
                speed=np.zeros(6),
                touches=frozenset([PLANK if colour == "pink" else BASE]),
            )
            for colour in COLOURS
        },
        robot_touches=frozenset(),
    )


def changed(facts: Facts, colour: str, **values: Any) -> Facts:
    """Return the facts with something else about one block; `by` moves it."""
    known = facts.blocks[colour]
    if "by" in values:
        values["position"] = known.position + values.pop("by")
    if "touches" in values:
        values["touches"] = frozenset(values["touches"])
    return replace(facts, blocks={**facts.blocks, colour: replace(known, **values)})


def held(facts: Facts, colour: str) -> Facts:
    """Return the facts with a block in the gripper and clear of everything else."""
    facts = replace(facts, robot_touches=frozenset([block(colour)]))
    return changed(facts, colour, by=[0, 0, 0.1], touches=[ROBOT])


def turned(facts: Facts, colour: str, degrees: Iterable[float]) -> Facts:
    rotation = matrix(np.deg2rad(np.array(list(degrees)))) @ facts.blocks[colour].rotation
    return changed(facts, colour, rotation=rotation)


def done(start: Facts, now: Facts) -> set[str]:
    return {task for task in TASKS if success(task, start, now)}


def test_nothing_is_done_where_nothing_happened() -> None:
    for facts in (lying(), held(lying(), "red"), replace(lying(), lightbulb=True, led=True)):
        assert done(facts, facts) == set()


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("side", "sign"), [("left", 1), ("right", -1)])
def test_rotate(colour: str, side: str, sign: int) -> None:
    start, task = lying(), f"rotate_{colour}_block_{side}"
    after = turned(start, colour, (0, 0, sign * 61))
    assert done(start, after) == {task}
    assert done(start, turned(start, colour, (0, 0, sign * 59))) == set()
    assert done(start, turned(start, colour, (31, 0, sign * 61))) == set()
    assert done(start, turned(start, colour, (0, -31, sign * 61))) == set()
    assert done(start, turned(start, colour, (29, 0, sign * 61))) == {task}
    assert done(start, changed(after, colour, by=[0, 0.101, 0])) == set()
    assert done(start, changed(after, colour, by=[0, 0.099, 0])) == {task}
    assert done(start, changed(after, colour, touches=[ROBOT])) == set()
    assert done(start, changed(after, colour, touches=[ROBOT, BASE])) == {task}
    # three turns of 70 degrees are one of 150 the other way
    other = "right" if side == "left" else "left"
    expected = {f"rotate_{colour}_block_{other}"}
    assert done(start, turned(start, colour, (0, 0, sign * 210))) == expected


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("side", "sign"), [("left", -1), ("right", 1)])
def test_push(colour: str, side: str, sign: int) -> None:
    start, task = lying(), f"push_{colour}_block_{side}"
    lies_on = start.blocks[colour].touches
    after = changed(start, colour, by=[sign * 0.101, 0.2, 0])
    assert done(start, after) == {task}
    assert done(start, changed(start, colour, by=[sign * 0.099, 0, 0])) == set()
    assert done(start, changed(after, colour, touches=[])) == set()
    assert done(start, changed(after, colour, touches=lies_on | {ROBOT, "button"})) == {task}
    in_the_air = changed(start, colour, touches=[ROBOT])
    assert done(in_the_air, after) == set()
    beside = changed(start, colour, touches=lies_on | {"slide"})
    assert done(beside, after) == set(), "it no longer touches all that it touched"


@pytest.mark.parametrize(
    ("joint", "task", "change"),
    [
        ("slide", "move_slider_left", 0.15),
        ("slide", "move_slider_right", -0.15),
        ("drawer", "open_drawer", 0.12),
        ("drawer", "close_drawer", -0.12),
    ],
)
def test_door_and_drawer(joint: str, task: str, change: float) -> None:
    start = lying()
    for share, expected in ((1.01, {task}), (0.99, set())):
        value = start.joints[joint] + share * change
        assert done(start, replace(start, joints={**start.joints, joint: value})) == expected


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    ("place", "surface", "rise"),
    [("table", BASE, 0.05), ("slider", PLANK, 0.03), ("drawer", DRAWER, 0.05)],
)
def test_lift(colour: str, place: str, surface: str, rise: float) -> None:
    start = changed(lying(), colour, touches=[surface, "slide"])
    task = f"lift_{colour}_block_{place}"
    assert done(start, changed(start, colour, by=[0, 0, rise + 1e-3], touches=[ROBOT])) == {task}
    assert done(start, changed(start, colour, by=[0, 0, rise - 1e-3], touches=[ROBOT])) == set()
    for touches in ([], [ROBOT, surface], [surface]):
        assert done(start, changed(start, colour, by=[0, 0, 0.1], touches=touches)) == set()


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    ("task", "surface"), [("place_in_slider", PLANK), ("place_in_drawer", DRAWER)]
)
def test_place(colour: str, task: str, surface: str) -> None:
    start = held(lying(), colour)
    after = changed(lying(), colour, touches=[surface])
    assert done(start, after) == {task}
    assert done(start, changed(after, colour, touches=[surface, ROBOT])) == set()
    assert done(start, changed(after, colour, touches=[BASE])) == set()
    both = replace(start, robot_touches=start.robot_touches | {"slide"})
    assert done(both, after) == set(), "the robot touched more than the block"
    resting = changed(start, colour, touches=[ROBOT, BASE])
    assert task not in done(resting, after), "the block was not in the air"


@pytest.mark.parametrize("colour", COLOURS)
def test_push_into_drawer(colour: str) -> None:
    start = changed(lying(), colour, touches=[BASE])
    after = changed(start, colour, touches=[DRAWER, "block_red"])
    assert done(start, after) == {"push_into_drawer"}
    assert done(start, changed(after, colour, touches=[DRAWER, ROBOT])) == set()
    for touches in ([BASE, ROBOT], [BASE, "button"], [PLANK]):
        before = changed(start, colour, touches=touches)
        assert "push_into_drawer" not in done(before, after)


def test_stack_and_unstack() -> None:
    apart = lying()
    piled = changed(apart, "red", touches=[block("blue")])
    piled = changed(piled, "blue", touches=[BASE, block("red")])
    assert done(apart, piled) == {"stack_block"}
    assert done(piled, apart) == {"unstack_block"}
    assert done(held(apart, "red"), piled) == {"stack_block"}
    assert done(piled, held(apart, "red")) == {"unstack_block"}
    assert done(piled, piled) == set()
    falling = changed(piled, "red", speed=np.array([0, 0, 0, 0, 0, 1.1]))
    assert done(apart, falling) == set()
    assert done(falling, apart) == set()
    leaning = changed(piled, "red", touches=[block("blue"), BASE])
    assert done(apart, leaning) == set()
    assert done(leaning, apart) == set()
    in_hand = changed(piled, "red", touches=[block("blue"), ROBOT])
    assert done(apart, in_hand) == set()
    assert done(in_hand, apart) == set()


@pytest.mark.parametrize("light", ["lightbulb", "led"])
def test_lights(light: str) -> None:
    dark, lit = lying(), replace(lying(), **{light: True})
    assert done(dark, lit) == {f"turn_on_{light}"}
    assert done(lit, dark) == {f"turn_off_{light}"}


def test_names_order_and_thresholds_are_calvins(shared: Path) -> None:
    known = yaml.safe_load((shared / "data" / "calvin_tasks.yaml").read_text())["tasks"]
    assert list(TASKS) == sorted(known, key=lambda task: known[task]["id"])
    links = {"base_link": BASE, "plank_link": PLANK, "drawer_link": DRAWER}
    for task, facts in known.items():
        given = facts["args"]
        if facts["fn"] == "lift_object":
            colour = given["obj_name"].removeprefix("block_")
            start = changed(lying(), colour, touches=[links[given["surface_link"]]])
            for extra, expected in ((1e-6, True), (-1e-6, False)):
                rise: Array = np.array([0, 0, given["z_direction"] + extra])
                now = changed(start, colour, by=rise, touches=[ROBOT])
                assert success(task, start, now) is expected
        elif facts["fn"] == "move_door_rel":
            joint = given["joint_name"].removeprefix("base__")
            value = lying().joints[joint] + given["threshold"] * 1.001
            now = replace(lying(), joints={**lying().joints, joint: value})
            assert success(task, lying(), now)


def test_an_unknown_task_offers_the_near_ones() -> None:
    message = "PlayTable has no task 'open_drawr'; did you mean open_drawer"
    with pytest.raises(ValueError, match=message):
        success("open_drawr", lying(), lying())
