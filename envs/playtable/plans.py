"""How each task is done: waypoints from what is there now, for any scene and any start.

A plan looks at the world again each time it is asked to go on, and begins anew for as long as the
task is not done. Distances in m, world frame; left is -x.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin
from typing import Final

import numpy as np

from telic.envs.playtable import layout as table
from telic.envs.playtable.experts import CLOSED, NEUTRAL_YAW, OPEN, Follower, Manner, Plan
from telic.envs.playtable.hand import (
    CLOSE_STEPS,
    FRONT_Y,
    SCATTER_NEAR_M,
    Hand,
    blocking,
    grasp,
    grasp_yaw,
    nearest,
)
from telic.envs.playtable.layout import COLOURS, OUT, UP
from telic.envs.playtable.tasks import check_task, success
from telic.envs.playtable.world import World

Attempt = Callable[["Hand"], Plan]

_ALONG_X: Final = pi / 2  # yaws: the fingers close along x, along y
_ALONG_Y: Final = 0.0
_LEAN: Final = 0.35  # into the cabinet
_TURN: Final = 1.3  # rad
_PUSHED_M: Final = 0.105  # of a block: a little more than is asked for
_STROKE_M: Final = 0.018  # of the last strokes of a push, the block sliding on by itself
_SLIDES_M: Final = (0.015, 0.025)
_BESIDE_M: Final = 0.085  # from a block's middle to that of one beside it, however they lie
_CLEAR_M: Final = 0.03  # before where it was, to which a block in the way is pulled
_DESK_M: Final = 0.42  # above it, a block lies on desk or shelf


def lift_from_table(colour: str) -> Attempt:
    def attempt(hand: Hand) -> Plan:
        yaw = grasp_yaw(hand, colour)
        if (other := blocking(hand, colour, yaw)) is not None:
            yield from pull(hand, other, hand.place(other)[1] - _CLEAR_M)
        height = hand.place(colour)[2] + 0.005
        x, y, _ = hand.place(colour)
        handle = hand.plan.slide_handle_x(hand.world.facts().joints["slide"])
        lean = 0.3 if abs(x - handle) < 0.14 and y > -0.1 else 0.0  # away from the handle
        yield from grasp(hand, colour, yaw, height, lean)
        up = hand.world.target[:3] + [0, 0, hand.rng.uniform(0.09, 0.14)]
        yield hand.at(up, yaw, CLOSED, lean=lean, stay=2)

    return attempt


def lift_from_drawer(colour: str) -> Attempt:
    def attempt(hand: Hand) -> Plan:
        yaw = grasp_yaw(hand, colour)
        yield from grasp(hand, colour, yaw, hand.place(colour)[2] + 0.012)
        x, y, _ = hand.world.target[:3]
        yield hand.at([x, y, hand.rng.uniform(0.50, 0.55)], yaw, CLOSED, stay=2)

    return attempt


def lift_from_shelf(colour: str) -> Attempt:
    def attempt(hand: Hand) -> Plan:
        low, high = hand.plan.opening(hand.world.facts().joints["slide"])
        x = hand.place(colour)[0]
        if high - low < 0.2 or not low < x < high:  # the door is before it, or leaves no room
            yield from move_slider(-1 if x < hand.plan.plank_x else 1)(hand)
            low, high = hand.plan.opening(hand.world.facts().joints["slide"])
        # the door leaves the hand no room to turn far, and none with its near side forwards:
        # closing turns the block instead
        turn = np.clip(grasp_yaw(hand, colour, _ALONG_X) - _ALONG_X, -0.25, 0.25)
        turn += hand.rng.uniform(-0.1, 0.1)
        aside = x - (low + high) / 2
        if abs(aside) > 0.025:
            turn = min(turn, 0.0) if aside > 0 else max(turn, 0.0)
        yaw = _ALONG_X + float(turn)
        inwards = np.array([cos(yaw), sin(yaw), 0.0])  # across the plane of the fingers
        middle = hand.place(colour)
        lean = float(np.clip(_LEAN + 4 * (middle[1] - 0.085), _LEAN, 0.5)) + hand.rng.uniform(
            0, 0.1
        )
        nearer = np.clip(middle[1] - 0.088, 0.0, hand.plan.length(colour) / 2 - 0.008)
        there = middle - nearer * inwards + [0, 0, 0.006]
        before = there - 0.08 * inwards + [0, 0, 0.065]
        yield from hand.above(before[0], FRONT_Y, yaw, OPEN, lean)
        yield hand.at(before, yaw, OPEN, lean=lean, speed=0.9, scatter=SCATTER_NEAR_M)
        yield hand.at(there, yaw, OPEN, lean=lean, within=0.007, speed=0.6)
        yield hand.at(there, yaw, CLOSED, lean=lean, stay=CLOSE_STEPS)
        yield hand.at(there + [0, 0, 0.05], yaw, CLOSED, lean=lean)
        yield hand.at([before[0], FRONT_Y, 0.55], yaw, CLOSED, lean=lean)

    return attempt


def rotate(colour: str, direction: int) -> Attempt:
    def attempt(hand: Hand) -> Plan:
        turn = direction * hand.rng.uniform(_TURN - 0.06, _TURN + 0.06)
        yaw = grasp_yaw(hand, colour, NEUTRAL_YAW - turn / 2)
        height = hand.place(colour)[2] + 0.006
        yield from grasp(hand, colour, yaw, height)
        raised = hand.world.target[:3] + [0, 0, 0.008]
        yield hand.at(raised, yaw, CLOSED)
        yield hand.at(raised, yaw + turn, CLOSED, stay=2)
        yield hand.at(raised, yaw + turn, OPEN, stay=6)  # it lands out of the hand, and is done so
        yield hand.at(raised + [0, 0, 0.1], yaw + turn, OPEN)

    return attempt


def push(colour: str, direction: int) -> Attempt:
    def attempt(hand: Hand) -> Plan:
        x, y, z = hand.place(colour)
        yaw_of_block, length = hand.yaw(colour), hand.plan.length(colour)
        half = (length * abs(cos(yaw_of_block)) + table.BLOCK_WIDTH * abs(sin(yaw_of_block))) / 2
        yaw = _ALONG_X + hand.manner.offset * 0.2
        behind = x - direction * (half + 0.03)
        yield from hand.above(behind, y, yaw, CLOSED)
        near = [behind - direction * 0.02, y, z + 0.05]
        yield hand.at(near, yaw, CLOSED, speed=0.9, scatter=SCATTER_NEAR_M)
        yield hand.at([behind, y, z + 0.006], yaw, CLOSED, speed=0.9)
        stride = hand.rng.uniform(0.007, 0.01)
        slides = hand.rng.uniform(*_SLIDES_M)  # out of the hand's reach, and is done so
        while (left := _PUSHED_M - direction * (hand.place(colour)[0] - x)) > slides:
            target = hand.world.target[:3]
            step = np.clip(hand.place(colour)[1] - target[1], -0.004, 0.004)
            faster = _STROKE_M if left < slides + _STROKE_M else stride
            ahead = np.array([target[0] + direction * faster, target[1] + step, z + 0.006])
            if direction * (ahead[0] - x) > _PUSHED_M:
                break
            yield hand.at(ahead, yaw, CLOSED, within=0.05)
        back = hand.world.target[:3] - [direction * 0.03, 0.0, 0.0]
        yield hand.at(back, yaw, CLOSED, within=0.05)
        yield from hand.rise()

    return attempt


def move_slider(direction: int) -> Attempt:
    """direction +1: to the left, which is the joint's way."""

    def attempt(hand: Hand) -> Plan:
        handle = hand.plan.slide_handle_x(hand.world.facts().joints["slide"])
        z = 0.53 + 0.012 * hand.manner.offset
        yield from hand.above(handle, FRONT_Y, _ALONG_X, OPEN)
        yield hand.at([handle, FRONT_Y, z], _ALONG_X, OPEN)
        yield hand.at([handle, 0.0, z], _ALONG_X, OPEN, within=0.01)
        yield hand.at([handle, 0.0, z], _ALONG_X, CLOSED, stay=6)
        end = hand.plan.slide_handle_x(hand.plan.slide_range if direction > 0 else 0.0)
        yield hand.at([end - direction * 0.02, 0.0, z], _ALONG_X, CLOSED, stay=3, patience=20)
        yield hand.at([end - direction * 0.02, 0.0, z], _ALONG_X, OPEN, stay=5)
        yield hand.at([end - direction * 0.02, FRONT_Y, z], _ALONG_X, OPEN)

    return attempt


def open_drawer(hand: Hand) -> Plan:
    """Yield the way of the drawer's handle, held, to the front."""
    pulled = hand.world.facts().joints["drawer"]
    x = hand.plan.drawer_x + 0.06 * hand.manner.offset
    y = table.DRAWER_HANDLE_YZ[0] - pulled
    yield from hand.above(x, y, _ALONG_Y, OPEN)
    yield hand.at([x, y, 0.44], _ALONG_Y, OPEN, speed=0.9)
    yield hand.at([x, y, 0.368], _ALONG_Y, OPEN, within=0.008, speed=0.7)
    yield hand.at([x, y, 0.368], _ALONG_Y, CLOSED, stay=7)
    yield hand.at([x, -0.48, 0.368], _ALONG_Y, CLOSED, stay=3)
    yield hand.at([x, -0.47, 0.368], _ALONG_Y, OPEN, stay=5)
    yield from hand.rise()


def close_drawer(hand: Hand) -> Plan:
    """Yield the way of the closed fingers that push the drawer's handle in."""
    pulled = hand.world.facts().joints["drawer"]
    x = hand.plan.drawer_x + 0.06 * hand.manner.offset
    y = table.DRAWER_HANDLE_YZ[0] - pulled - 0.065
    yaw = _ALONG_X
    yield from hand.above(x, y, yaw, CLOSED)
    yield hand.at([x, y, 0.368], yaw, CLOSED)
    yield hand.at([x, -0.255, 0.368], yaw, CLOSED, stay=2, speed=0.9)
    yield hand.at([x, -0.30, 0.40], yaw, CLOSED)
    yield from hand.rise()


def press_button(hand: Hand) -> Plan:
    """Yield the way down onto the button and up again."""
    x, y = hand.plan.button_x + 0.008 * hand.manner.offset, table.BUTTON_Y
    yaw = _ALONG_X + 0.3 * hand.manner.offset
    yield from hand.above(x, y, yaw, CLOSED)
    yield hand.at([x, y, 0.52], yaw, CLOSED, speed=0.9)
    yield hand.at([x, y, 0.452], yaw, CLOSED, within=0.02, speed=0.7)
    yield hand.at([x, y, 0.54], yaw, CLOSED)


def move_switch(direction: int) -> Attempt:
    """direction +1: up, which lights the bulb."""

    def attempt(hand: Hand) -> Plan:
        up = hand.world.facts().joints["switch"]
        middle = np.array([hand.plan.switch_x + 0.015 * hand.manner.offset, *table.SWITCH_YZ])
        handle = middle + (up + 0.0034) * UP
        out = 0.058 if direction > 0 else 0.048
        lean = 0.3  # nearer to upright the arm stays 5 cm short of a switch on its right
        start = handle - direction * 0.055 * UP + out * OUT
        far = handle + out * OUT + UP * (0.10 - up if direction > 0 else -up - 0.03)
        yield from hand.above(start[0], FRONT_Y - 0.02, _ALONG_X, CLOSED, lean)
        yield hand.at(start + 0.05 * OUT, _ALONG_X, CLOSED, lean=lean)
        yield hand.at(start, _ALONG_X, CLOSED, lean=lean, speed=0.8)
        yield hand.at(far, _ALONG_X, CLOSED, lean=lean, stay=3, speed=0.8)
        yield hand.at(far + 0.08 * OUT, _ALONG_X, CLOSED, lean=lean)

    return attempt


def place_in_slider(hand: Hand) -> Plan:
    """Yield the way of the held block onto the open part of the shelf, and back out."""
    yield from _pick_up_again(hand)
    low, high = hand.plan.opening(hand.world.facts().joints["slide"])
    middle = (low + high) / 2
    taken = [p[0] for p in map(hand.place, COLOURS) if low < p[0] < high and p[1] > 0.0]
    choices = [middle - 0.035, middle, middle + 0.035]
    x = max(choices, key=lambda c: min([abs(c - t) for t in taken], default=0.0))
    if not taken:
        x = middle + 0.02 * hand.manner.offset
    y = 0.045 if high - low < 0.2 else hand.rng.uniform(0.045, 0.07)  # deeper, the hand must fit
    z = 0.478 + (hand.world.tcp()[2] - _held_z(hand))
    yield from hand.rise()
    front = [x, FRONT_Y, 0.57]
    yield hand.at(front, _ALONG_X, CLOSED, lean=_LEAN, scatter=SCATTER_NEAR_M)
    yield hand.at([x, 0.02, z + 0.03], _ALONG_X, CLOSED, lean=_LEAN, speed=0.8)
    yield hand.at([x, y, z], _ALONG_X, CLOSED, lean=_LEAN, speed=0.7)
    yield hand.at([x, y, z - 0.012], _ALONG_X, CLOSED, lean=_LEAN)
    yield hand.at([x, y, z - 0.012], _ALONG_X, OPEN, lean=_LEAN, stay=6)
    yield hand.at([x, FRONT_Y, 0.53], _ALONG_X, OPEN, lean=_LEAN)


def place_in_drawer(hand: Hand) -> Plan:
    """Yield the way of the held block into the open drawer."""
    yield from _pick_up_again(hand)
    pulled = hand.world.facts().joints["drawer"]
    x = hand.plan.drawer_x + 0.07 * hand.manner.offset
    lying = [place[0] for place in map(hand.place, COLOURS) if place[2] < _DESK_M]
    if any(abs(x - other) < _BESIDE_M for other in lying):
        choices = hand.plan.drawer_x + np.array([-0.09, 0.0, 0.09])
        x = max(choices, key=lambda choice: min(abs(choice - other) for other in lying))
    y = -0.06 - pulled + 0.01 * hand.manner.offset
    yield from hand.above(x, y, _ALONG_X, CLOSED)
    yield hand.at([x, y, 0.41], _ALONG_X, CLOSED, speed=0.9)
    yield hand.at([x, y, 0.41], _ALONG_X, OPEN, stay=8)
    yield hand.at([x, y, 0.52], _ALONG_X, OPEN)


def _pick_up_again(hand: Hand) -> Plan:
    """Yield the grasp of the block that the hand began with, if it was lost on the way."""
    lost = hand.carried
    if lost is None or hand.holds(lost):
        return
    _, y, z = hand.place(lost)
    if z > _DESK_M:
        yield from (lift_from_shelf if y > 0.0 else lift_from_table)(lost)(hand)


def _held_z(hand: Hand) -> float:
    """Return the height of the held block; of the tool where none is held."""
    held = hand.held()
    return float(hand.world.tcp()[2] if held is None else hand.place(held)[2])


def stack(hand: Hand) -> Plan:
    """Yield the way of the held block onto another on the desk; picks one up if none is held."""
    held = hand.held()
    if held is None:
        on_desk = [c for c in COLOURS if hand.place(c)[1] < 0.0 and hand.place(c)[2] > _DESK_M]
        highest = max(on_desk or COLOURS, key=lambda c: hand.place(c)[2])
        yield from lift_from_table(highest)(hand)
        return
    others = [c for c in COLOURS if c != held]
    lower = min(others, key=lambda c: (hand.place(c)[1] > 0.0, hand.place(c)[2] < 0.42))
    goal = hand.place(lower) + [0, 0, table.BLOCK_WIDTH]
    tool_yaw = float(hand.world.tcp()[5])
    turn = nearest(hand.yaw(lower) - hand.yaw(held), pi / 2, to=0.0)
    yaw = nearest(tool_yaw + turn, pi)
    yield from hand.rise()
    over = goal + hand.world.tcp()[:3] - hand.place(held)
    above = [over[0], over[1], 0.60]
    yield hand.at(above, yaw, CLOSED, scatter=SCATTER_NEAR_M)
    over = goal + hand.world.tcp()[:3] - hand.place(held)
    yield hand.at(over + [0, 0, 0.03], yaw, CLOSED, within=0.006, patience=15)
    for height in (0.012, 0.003):
        if not hand.holds(held):
            return
        over = goal + hand.world.tcp()[:3] - hand.place(held) + [0, 0, height]
        yield hand.at(over, yaw, CLOSED, within=0.004, stay=2, speed=0.5)
    here = hand.world.target[:3].copy()
    yield hand.at(here, yaw, OPEN, stay=6)
    yield hand.at(here + [0, 0, 0.08], yaw, OPEN, speed=0.7)
    yield hand.at(here + [0, 0, 0.12], yaw, OPEN, stay=6)


def unstack(hand: Hand) -> Plan:
    """Yield the grasp of a block that lies on another, and up."""
    upper = max(COLOURS, key=lambda c: hand.place(c)[2] - 0.2 * (hand.place(c)[1] > 0.0))
    yield from lift_from_table(upper)(hand)


def pull(hand: Hand, colour: str, front: float) -> Plan:
    """Yield the way of the closed fingers behind a block, which drag it before y = `front`."""
    x, y, _ = hand.place(colour)
    yaw_of_block, length = hand.yaw(colour), hand.plan.length(colour)
    half = (length * abs(sin(yaw_of_block)) + table.BLOCK_WIDTH * abs(cos(yaw_of_block))) / 2
    behind = y + half + 0.022
    yield from hand.above(x, min(behind, FRONT_Y + 0.05), _ALONG_X, CLOSED)
    yield hand.at([x, behind, 0.467], _ALONG_X, CLOSED, within=0.008, speed=0.8)
    yield hand.at([x, front, 0.467], _ALONG_X, CLOSED, speed=0.9)
    yield from hand.rise()


def push_into_drawer(hand: Hand) -> Plan:
    """Yield the way of the closed fingers that pull a block over the edge into the drawer."""
    on_table = [c for c in COLOURS if hand.place(c)[1] < 0.0 and hand.place(c)[2] > _DESK_M]
    colour = min(on_table or COLOURS, key=lambda c: abs(hand.place(c)[0] - hand.plan.drawer_x))
    aside = abs(hand.place(colour)[0] - hand.plan.drawer_x)
    if aside > 0.12:  # it would fall beside the drawer: carry it
        yield from lift_from_table(colour)(hand)
        yield from place_in_drawer(hand)
        return
    yield from pull(hand, colour, -0.27)


def _table() -> dict[str, Attempt]:
    """Return task -> one attempt at it."""
    attempts: dict[str, Attempt] = {
        "move_slider_left": move_slider(1),
        "move_slider_right": move_slider(-1),
        "open_drawer": open_drawer,
        "close_drawer": close_drawer,
        "place_in_slider": place_in_slider,
        "place_in_drawer": place_in_drawer,
        "stack_block": stack,
        "unstack_block": unstack,
        "turn_on_lightbulb": move_switch(1),
        "turn_off_lightbulb": move_switch(-1),
        "turn_on_led": press_button,
        "turn_off_led": press_button,
        "push_into_drawer": push_into_drawer,
    }
    for colour in COLOURS:
        attempts[f"rotate_{colour}_block_right"] = rotate(colour, -1)
        attempts[f"rotate_{colour}_block_left"] = rotate(colour, 1)
        attempts[f"push_{colour}_block_right"] = push(colour, 1)
        attempts[f"push_{colour}_block_left"] = push(colour, -1)
        attempts[f"lift_{colour}_block_table"] = lift_from_table(colour)
        attempts[f"lift_{colour}_block_slider"] = lift_from_shelf(colour)
        attempts[f"lift_{colour}_block_drawer"] = lift_from_drawer(colour)
    return attempts


ATTEMPTS: Final = _table()


def expert(task: str, world: World, rng: np.random.Generator) -> Follower:
    """Return the scripted expert of `task` from what is there now; ValueError for no task."""
    check_task(task)
    manner = Manner.sample(rng)
    return Follower(world, _until_done(task, Hand(world, manner, rng)), manner, rng)


def _until_done(task: str, hand: Hand) -> Plan:
    """Yield one attempt after the other until the task is done, then stay as it is.

    Beginning anew would open the hand, and drop what was to be lifted.
    """
    start = hand.world.facts()
    while not success(task, start, hand.world.facts()):
        yield from ATTEMPTS[task](hand)
    while True:
        yield hand.here(hand.world.gripper, stay=1)
