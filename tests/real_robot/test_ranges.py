"""Numbers that no run can be made of are refused in one line that names the key."""

from dataclasses import replace
from typing import Any

import pytest

from telic.configs.launch import compose
from telic.control import ControlConfig
from telic.real_robot.clock import FakeClock
from telic.real_robot.control_process import LoopConfig
from telic.real_robot.daemon import DaemonConfig
from telic.real_robot.robot import robot_config
from telic.real_robot.safety import SafetyConfig
from telic.real_robot.simulated_arm import ArmConfig, arm_interface
from telic.spec import ArraySpec

BAD = {
    "duration_s": ["0", "-1", "nan", "inf", "1e300"],
    "execute_horizon": ["0", "-3"],
    "threads": ["0", "-1"],
    "anchors": ["0"],
    "temperature": ["-1", "nan", "inf"],
    "seed": ["-1"],
    "loop.boundary_steps": ["-1"],
    "loop.stop_hold_s": ["-1", "nan", "inf", "1e300"],
    "loop.spin_us": ["-1", "nan", "inf"],
    "loop.priority": ["-1", "100"],
    "safety.max_observation_age_s": ["0", "nan", "inf", "1e300"],
    "safety.max_chunk_age_s": ["-1", "nan", "inf"],
    "safety.max_change_per_s": ["[0]", "[nan]", "[inf]", "[-1.0,1.0]"],
}


@pytest.mark.parametrize(("key", "value"), [(key, v) for key, vs in BAD.items() for v in vs])
def test_numbers_of_the_command_are_within_their_range(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key}=.* must be "):
        compose(ControlConfig, "control", ["checkpoint=c", f"{key}={value}"])


@pytest.mark.parametrize("value", ["''", "' '", "'\t'"])
@pytest.mark.parametrize("key", ["goal", "out"])
def test_what_is_blank_is_no_goal_and_no_file(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{key} is empty; give .* {key}=null"):
        compose(ControlConfig, "control", ["checkpoint=c", f"{key}={value}"])


@pytest.mark.parametrize(
    ("robot", "options", "complaint"),
    [
        *(
            ("arm", {name: value}, rf"^robot_options.{name}={value} must be at least 0.01")
            for name in ("control_hz", "rate_hz")
            for value in (0.0, -5.0, float("nan"), float("inf"), 1e-300)
        ),
        ("arm", {"seed": -1}, r"^robot_options.seed=-1 must be at least 0"),
        ("arm", {"control_hz": "fast"}, r"^robot_options.control_hz=fast must be a number"),
        ("arm", {"seed": 1.5}, r"^robot_options.seed=1.5 must be a whole number"),
        ("metaworld", {"max_steps": None}, r"^robot_options.max_steps=None must be a whole number"),
        ("metaworld", {"seed": -1}, r"^robot_options.seed=-1 must be at least 0"),
        ("telic.real_robot.ring:SharedRing", {}, "has no dataclass SharedRing with `build`"),
        (
            "telic.tests.real_robot.addressed:AddressedConfig",
            {},
            r"^robot telic.* needs robot_options.ip, which has no default: 'robot_options=\{ip: ",
        ),
    ],
)
def test_options_of_a_robot_are_within_their_range(
    robot: str, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        robot_config(robot, options)


@pytest.mark.parametrize(
    ("facts", "complaint"),
    [
        *(({"control_hz": hz}, f"control_hz is {hz}") for hz in (0, -5.0, float("nan"), "fast")),
        ({"binary_dims": (2,)}, "binary_dims entry 2 is none of its 2 entries"),
        ({"motion": "absolute"}, "motion is 'absolute', expected a Motion"),
        ({"interface": replace(arm_interface(), rate_hz=0.0)}, "interface.rate_hz is 0"),
        (
            {"interface": replace(arm_interface(), action=ArraySpec(shape=(None,)))},
            r"action has the shape \(None,\)",
        ),
    ],
)
def test_what_a_robot_says_of_itself_is_checked_before_it_is_connected(
    facts: dict[str, Any], complaint: str
) -> None:
    arm = ArmConfig().build(arm_interface(), FakeClock())
    for name, value in facts.items():
        setattr(arm, name, value)
    with pytest.raises(ValueError, match=complaint):
        LoopConfig().build(arm, SafetyConfig(), 1.0)


@pytest.mark.parametrize("name", ["start_s", "grace_s", "worker_silence_s", "control_silence_s"])
def test_the_daemon_has_patience(name: str) -> None:
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"^{name}={value} must be more than 0"):
            DaemonConfig(**{name: value})
