"""Interfaces: what two of them must mean alike before a policy, a robot and a store meet."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from telic.array_spec import GRIPPER_SIGNS, ArraySpec
from telic.envs.playtable.control import ACTION_SPEC
from telic.envs.playtable.environment import playtable_interface
from telic.envs.task import StateChoice, image_specs
from telic.envs.tasks import arm7, detour, metaworld
from telic.policy.published.robots import calvin
from telic.real_robot.simulated_arm import arm_interface
from telic.spec import Interface

ARM = Interface(
    state=ArraySpec(shape=(3,), unit="m", names=("x", "y", "grip"), frame="base"),
    action=ArraySpec(
        shape=(3,),
        unit="m",
        minimum=(-1.0, -1.0, 0.0),
        maximum=(1.0,),
        names=("x", "y", "grip"),
        rotation="axis_angle",
        gripper="positive_opens",
        frame="base",
    ),
    rate_hz=20.0,
    images=image_specs(["top"], (8, 12)),
)


def told(**changes: object) -> Interface:
    return replace(ARM, action=replace(ARM.action, **changes))


def sensed(**changes: object) -> Interface:
    return replace(ARM, state=replace(ARM.state, **changes))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            told(names=("y", "x", "grip")),
            "the robot: action has entry 0 named 'y', expected 'x' by the policy; the names are "
            "the same in another order: put its entries in the order expected ([1, 0, 2]) or "
            "train on this one",
        ),
        (
            sensed(names=("x", "z", "grip")),
            "the robot: state has entry 1 named 'z', expected 'y' by the policy; rename the entry "
            "if it means the same or train on this one",
        ),
        (told(unit="mm"), "action has unit 'mm', expected 'm' by the policy; convert the numbers"),
        (told(rotation="quaternion_xyzw"), "action has rotation 'quaternion_xyzw', expected 'axis"),
        (told(gripper="positive_closes"), "turn the sign of the gripper in one of them"),
        (told(frame="tcp"), "action has frame 'tcp', expected 'base' by the policy; transform"),
        (told(dtype="float64"), "action has dtype float64, expected float32 by the policy"),
        (told(maximum=(100.0,)), r"action has entry 0 (x) with maximum 100, expected 1 by the pol"),
        (told(minimum=(-1.0, -1.0, -0.5)), "entry 2 (grip) with minimum -0.5, expected 0 by"),
        (told(maximum=(0.5,)), "with maximum 0.5, expected 1 by the policy"),
        (sensed(unit="rad"), "state has unit 'rad', expected 'm' by the policy"),
        (
            replace(ARM, images=image_specs(["top"], (12, 8))),
            "camera 'top' has shape (12, 8, 3), expected (8, 12, 3) by the policy",
        ),
        (replace(ARM, images=image_specs(["tip"], (8, 12))), "no camera 'top' (it has tip), the "),
        (replace(ARM, rate_hz=10.0), "the robot: runs at 10 Hz, expected 20 Hz by the policy; set"),
    ],
)
def test_another_meaning_is_refused_in_one_line(other: Interface, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        ARM.require(other, "the policy", "the robot")
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "other",
    [
        sensed(minimum=(-9.0,), maximum=(9.0,)),  # the range of a sensor
        told(note="for people", rate_hz=500.0),
        told(maximum=(1.0 + 1e-7,)),
        told(unit="", minimum=None, maximum=None, names=(), rotation="", gripper="", frame=""),
        replace(ARM, images=image_specs(["top", "side"], (8, 12))),
    ],
)
def test_what_may_differ_or_is_unstated_meets_both_ways(other: Interface) -> None:
    ARM.require(other, "the policy", "the robot")
    other = replace(other, images=ARM.images)
    other.require(ARM, "the robot", "the policy")


@pytest.mark.parametrize(
    "interface",
    [
        *(playtable_interface(state, (), (8, 8)) for state in StateChoice),
        *(
            Interface(state=spec, action=metaworld.ACTION_SPEC, rate_hz=80.0)
            for spec in metaworld.STATE_SPECS.values()
        ),
        arm7.INTERFACE,
        detour.INTERFACE,
        arm_interface(),
        calvin(),
        ARM,
    ],
)
def test_our_robots_meet_themselves_after_a_round_trip(interface: Interface) -> None:
    again = Interface.from_json(json.loads(json.dumps(interface.to_json())))
    assert again == interface
    interface.require(again, "the policy", "the robot")


def test_another_physics_is_warned_of_in_one_line_and_not_refused() -> None:
    old, new = told(), told(physics="table 2")
    with pytest.warns(UserWarning, match="^store a has physics table 2, store b has unstated: "):
        old.require(new, "store b", "store a")
    with pytest.warns(UserWarning) as caught:
        new.require(old, "the policy", "task table/lift")
    (line,) = (str(warning.message) for warning in caught)
    assert line.startswith("the simulator has physics unstated, the policy has table 2")
    assert "\n" not in line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new.require(new, "the policy", "the robot")
        old.require(old, "the policy", "the robot")


def test_grippers_and_frames_are_stated_by_the_environments() -> None:
    assert metaworld.ACTION_SPEC.gripper == "positive_closes"
    assert (ACTION_SPEC.gripper, ACTION_SPEC.rotation, ACTION_SPEC.frame) == (
        "positive_opens", "euler_xyz_fixed", "world",
    )  # fmt: skip
    assert metaworld.STATE_SPECS[StateChoice.full].rotation == "quaternion_xyzw"


def test_a_checkpoint_written_before_meets_its_environment(shared: Path) -> None:
    file = shared / "pretrained" / "playtable_state_b074e69" / "spec.json"
    if not file.is_file():
        pytest.skip("the pretrained checkpoint beside the checkout is absent")
    trained = Interface.from_json(json.loads(file.read_text())["interface"])
    with pytest.warns(UserWarning, match="the simulator has physics playtable 4, the policy has"):
        trained.require(playtable_interface(StateChoice.full, (), (8, 8)), "the policy", "task x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "has no shape"),
        ([3], "has no shape"),
        ({"shape": 3}, "shape=3 cannot be said"),
        ({"shape": [3.5]}, r"shape=\[3.5\] cannot be said"),
        ({"shape": [-1]}, "must hold whole numbers"),
        ({"shape": [3], "dtype": "object"}, "is not one of numbers"),
        ({"shape": [3], "dtype": "flaot32"}, "is none of numpy's"),
        ({"shape": [3], "names": "abc"}, "names='abc' cannot be said"),
        ({"shape": [3], "names": ["a"]}, "1 names do not label"),
        ({"shape": [3], "minimum": ["a"]}, "cannot be said"),
        ({"shape": [3], "minimum": [float("nan")]}, "must not be nan"),
        ({"shape": [3], "minimum": [2.0], "maximum": [1.0]}, "lies above maximum"),
        ({"shape": [3], "minimum": [2.0, 1.0]}, "2 entries does not fit"),
        ({"shape": [3], "rate_hz": 0}, "rate_hz=0 must be more than 0"),
        ({"shape": [3], "gripper": "opens"}, f"must be one of {', '.join(GRIPPER_SIGNS)}"),
        ({"shape": [3], "uint": "m"}, "'uint' is nothing that is said of an array; did you mean u"),
    ],
)
def test_a_description_that_cannot_be_is_one_line(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArraySpec.from_json(data)
