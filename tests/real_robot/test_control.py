"""`control-daemon` with real checkpoints: on the arm, on Meta-World, and on bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf.errors import InterpolationKeyError

from telic.configs.launch import compose, one_line
from telic.control import ControlConfig, run
from telic.envs.registry import make
from telic.policy.checkpoint import save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.inference_config import InferenceConfig, SamplingChoice
from telic.policy.policy import Policy
from telic.real_robot.goal import ControlGoal
from telic.real_robot.policy_worker import open_checkpoint, unlike_trained
from telic.real_robot.simulated_arm import arm_interface
from telic.spec import FieldStats, Interface
from telic.tests.real_robot.test_endings import children


def save_tiny(path: Path, interface: Interface, sentence: str) -> str:
    """Save a small policy with random weights that knows `sentence`; return its path."""

    def stats(size: int | None) -> FieldStats:
        zero, one = np.zeros(size or 0), np.ones(size or 0)
        return FieldStats(
            minimum=-one, maximum=one, mean=zero, std=one, q01=-one, q99=one, count=10
        )

    config = PolicyConfig(denoiser=ModeConfig(width=32, num_layers=1, num_heads=2))
    fields = {
        "state": stats(interface.state.shape[0]),
        "action": stats(interface.action.shape[0]),
    }
    policy = Policy(config, interface, fields)
    policy.set_embeddings({sentence: np.ones(384, np.float32)})
    save_checkpoint(path, policy)
    return str(path)


@pytest.fixture(scope="module")
def arm_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("arm")
    return save_tiny(folder / "checkpoint", arm_interface(), "bring the arm to its goal")


@pytest.fixture(scope="module")
def scene_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scene")
    env = make("drawer-open-v3")
    return save_tiny(folder / "checkpoint", env.interface, env.instructions[0])


def test_a_policy_runs_a_metaworld_scene(scene_checkpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "control.json"
    config = ControlConfig(
        checkpoint=scene_checkpoint,
        task="drawer-open-v3",
        robot_options={"max_steps": 60},
        duration_s=2.0,
        sampling=SamplingChoice(preset="2"),
        prefixing="guided",
        out=str(out),
    )
    summary = run(config)
    assert summary["ended"]["cause"] == "time is up"
    assert summary["control_hz"] == 80.0
    assert summary["phase_s"]["ACTIVE"] > 0.5
    assert summary["steps"]["used"] > 40
    robot = summary["robot"]
    assert robot["task"] == "metaworld/drawer-open-v3"
    assert robot["episodes"] >= 2  # the first ran out of its 60 steps
    running = robot["episodes"] - robot["successes"] - robot["timeouts"]
    assert running in (0, 1)  # none where time is up between the end of one and the next
    assert summary["resets"] == robot["episodes"] - 1
    assert json.loads(out.read_text()) == summary


def test_ctrl_c_prints_the_summary_and_gives_130(arm_checkpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "control.json"
    process = start_command(
        f"checkpoint={arm_checkpoint}", "robot=arm", "duration_s=null", "sampling=2", f"out={out}"
    )
    wait_until_active(process)
    assert [with_torch(pid) for pid in group_of(process.pid)].count(True) == 1  # the worker alone
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "ordered to stop: SIGINT" in stdout
    assert stderr.splitlines()[-1] == "control: stopped by SIGINT"
    summary = json.loads(out.read_text())
    assert summary["robot"]["stopped"] is True
    assert [event["phase"] for event in summary["events"]][-2:] == ["HOLD", "STOP"]


def test_a_killed_worker_gives_1_with_the_reason(arm_checkpoint: str, tmp_path: Path) -> None:
    arm = "telic.tests.real_robot.breaking:BreakingArmConfig"
    process = start_command(
        f"checkpoint={arm_checkpoint}",
        f"robot='{arm}'",
        f"robot_options={{stopped_file: {tmp_path / 'stopped'}}}",
        "loop.stop_hold_s=0.6",
        f"out={tmp_path / 'control.json'}",
    )
    wait_until_active(process)
    (worker,) = [pid for pid in group_of(process.pid) if with_torch(pid)]
    os.kill(worker, signal.SIGKILL)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "fault: the policy worker was killed by SIGKILL" in stdout
    assert float((tmp_path / "stopped").read_text()) < 0.05  # rad/s when it was let go of


def test_a_summary_that_cannot_be_written_is_printed_and_gives_1(
    arm_checkpoint: str, tmp_path: Path
) -> None:
    out = tmp_path / "control.json"
    process = start_command(
        f"checkpoint={arm_checkpoint}", "robot=arm", "duration_s=1", f"out={out}"
    )
    wait_until_active(process)
    out.write_text("somebody else's")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "time is up, after" in stdout
    assert f"error: the summary could not be written to {out}" in stderr
    assert out.read_text() == "somebody else's"


def test_sigterm_to_the_control_process_alone_gives_143(
    arm_checkpoint: str, tmp_path: Path
) -> None:
    process = start_command(f"checkpoint={arm_checkpoint}", "robot=arm", "out=null")
    wait_until_active(process)
    control = children(process.pid)[0]
    os.kill(control, signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "ordered to stop: SIGTERM to the control process" in stdout
    assert stderr.splitlines()[-1] == "control: stopped by SIGTERM"


def test_a_policy_for_another_robot_is_one_line_and_status_2(arm_checkpoint: str) -> None:
    process = start_command(f"checkpoint={arm_checkpoint}", "robot=metaworld", "out=null")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stdout == ""
    assert stderr == (
        "control: robot metaworld: state has shape (39,), expected (6,) by "
        f"checkpoint {arm_checkpoint}; use a robot with that state size or train on this one\n"
    )


def start_command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "telic.control", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"},
    )


def wait_until_active(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    while "ACTIVE" not in (line := process.stderr.readline()):
        assert line, "the daemon ended before it got there"
    time.sleep(0.3)


def group_of(group: int) -> list[int]:
    """Return the ids of the processes in a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[2]) == group:
                found.append(int(entry.parent.name))
    return found


def with_torch(pid: int) -> bool:
    """Return whether a process has torch loaded."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"robot": "metaword"}, r"robot=metaword is not one of .*; did you mean metaworld"),
        ({"robot": "no_such_package:Arm"}, r"no module 'no_such_package' to import; put"),
        ({"robot": "telic.spec:Interface"}, r"telic.spec has no dataclass Interface with `build`"),
        ({"task": "drawer-opn-v3"}, r"unknown task 'drawer-opn-v3'; did you mean drawer-open-v3"),
        ({"robot": "arm", "task": "reach-v3"}, r"robot arm has no option 'task'"),
        ({"execute_horizon": 0}, r"execute_horizon=0 must be at least 1"),
        ({"robot_options": {"max_step": 3}}, r"no option 'max_step'.*; did you mean max_steps"),
    ],
)
def test_what_can_be_known_at_once_is_refused_at_once(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        run(ControlConfig(checkpoint="nowhere", out=None, **settings))


@pytest.mark.parametrize("goal", ["goals/drawer.png", "Drawer.JPG", "the open drawer.npy"])
def test_a_picture_is_not_taken_for_a_sentence(goal: str) -> None:
    complaint = f"^goal={goal} is a file; .*, and a picture is goal.image=CAMERA:{goal}$"
    with pytest.raises(ValueError, match=complaint):
        compose(ControlConfig, "control", ["checkpoint=c", f"goal={goal}"])


def test_braces_are_text_and_what_stands_for_no_key_is_said() -> None:
    for goal in ("{a}", "{a} or {b", "{", "pick {the} cup, then: go"):
        assert compose(ControlConfig, "control", ["checkpoint=c", f"goal={goal}"]).goal.text == goal
    typed = compose(ControlConfig, "control", ["checkpoint=c", "goal={text: stack}"])
    assert typed.goal.text == "stack"
    with pytest.raises(InterpolationKeyError) as error:
        compose(ControlConfig, "control", ["checkpoint=c", "goal=put ${duration} there"])
    line = one_line(error.value, ControlConfig)
    assert line == (
        "${duration} stands for the key duration, which is not there; did you mean duration_s?; "
        "as text it is \\${duration}"
    )
    typed = compose(ControlConfig, "control", ["checkpoint=c", r"goal=put \${duration} there"])
    assert typed.goal.text == "put ${duration} there"
    # digits may be grouped, as in Python
    assert compose(ControlConfig, "control", ["checkpoint=c", "seed=1_000"]).seed == 1000


def test_a_file_is_not_taken_for_a_sentence_and_a_sentence_not_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "goal.yaml").touch()
    with pytest.raises(ValueError, match=r"goal.yaml is a file"):
        ControlGoal(text=str(tmp_path / "goal.yaml"))
    for goal in ("open the drawer.", "what's there?", "v1.5 of it", "pick/place"):
        assert ControlGoal(text=goal).text == goal


def test_a_sentence_unlike_any_trained_is_said(arm_checkpoint: str) -> None:
    policy = open_checkpoint(arm_checkpoint)
    assert unlike_trained(policy, "bring the arm to its goal") is None
    text = unlike_trained(policy, "sing a song")
    assert text is not None and text.startswith(
        "the policy was not trained on the sentence 'sing a song'; the nearest of 1 is "
        "'bring the arm to its goal', cosine "
    )


def test_what_the_worker_cannot_open_is_told_in_words(arm_checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sampling '3' is not one of"):
        open_checkpoint(
            arm_checkpoint, inference=InferenceConfig(sampling=SamplingChoice(preset="3"))
        )
    with pytest.raises(ValueError, match=r"sampling\.sampler=huen is not one of .* mean heun\?"):
        open_checkpoint(
            arm_checkpoint, inference=InferenceConfig(sampling=SamplingChoice(sampler="huen"))
        )
    with pytest.raises(ValueError, match="trained without prefixes; use prefixing=guided"):
        open_checkpoint(arm_checkpoint, inference=InferenceConfig(prefixing="trained"))
    with pytest.raises(ValueError, match="nowhere"):
        open_checkpoint(str(tmp_path / "nowhere"))


def test_the_command_line_makes_the_config() -> None:
    overrides = [
        "checkpoint=c",
        "loop.boundary_steps=2",
        "safety.max_change_per_s=[1,2]",
        "goal=go",
    ]
    config = compose(ControlConfig, "control", overrides)
    assert (config.checkpoint, config.loop.boundary_steps, config.goal.text) == ("c", 2, "go")
    assert config.safety.max_change_per_s == [1.0, 2.0]
    options = ["checkpoint=c", "robot_options={max_steps: 60}", "robot_options.seed=3"]
    assert compose(ControlConfig, "control", options).robot_options == {"max_steps": 60, "seed": 3}
    for bad, complaint in {
        "duration_s=0": "duration_s=0",
        "loop.priority=100": "loop.priority=100",
        "checkpoint=''": "checkpoint is missing",
    }.items():
        with pytest.raises(ValueError, match=complaint):
            compose(ControlConfig, "control", ["checkpoint=c", bad])
