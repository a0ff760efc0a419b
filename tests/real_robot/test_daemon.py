"""The daemon with its real processes: a run, and every way in which a part of it can end."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from telic.real_robot.control_process import LoopConfig
from telic.real_robot.daemon import DaemonConfig, supervise
from telic.real_robot.inference_scheduler import WorkerConfig
from telic.tests.real_robot.breaking import BreakingArmConfig, OpenBreaking
from telic.tests.real_robot.reaching import OpenReaching


def daemon(duration_s: float = 30.0, silence_s: float = 5.0, **settings: Any) -> DaemonConfig:
    return DaemonConfig(
        duration_s=duration_s,
        worker_silence_s=silence_s,
        control_silence_s=silence_s,
        grace_s=1.0,
        loop=LoopConfig(stop_hold_s=0.4),
        **settings,
    )


@pytest.fixture
def arm(tmp_path: Path) -> BreakingArmConfig:
    return BreakingArmConfig(stopped_file=str(tmp_path / "stopped"))


def assert_stopped_at_rest(arm: BreakingArmConfig) -> None:
    assert float(Path(arm.stopped_file).read_text()) < 0.05


def assert_no_child_is_left() -> None:
    assert multiprocessing.active_children() == []


def test_a_run_of_two_seconds(arm: BreakingArmConfig) -> None:
    lines: list[str] = []
    summary = supervise(arm, OpenReaching(), daemon(2.0), report=lines.append)
    assert summary["ended"] == {
        "failed": False,
        "cause": "time is up",
        "reason": "time is up",
        "signal": None,
    }
    assert summary["duration_s"] == pytest.approx(2.4, abs=0.2)
    assert summary["ticks"] + summary["missed_ticks"] == pytest.approx(241, abs=5)
    assert summary["rate_hz"] > 50  # 100 where the machine has time for it
    assert summary["phase_s"]["ACTIVE"] > 1.0
    assert summary["chunks"]["used"] > 10
    assert summary["latency_ms"]["median"] >= 10
    assert summary["robot"]["stopped"] is True
    assert_stopped_at_rest(arm)
    assert lines[0].endswith("goal: bring the arm to its goal")
    assert lines[1] == f"control process: {summary['realtime']}"
    assert lines[-1].startswith("STOP: time is up")
    assert_no_child_is_left()
    json.dumps(summary)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("kill", "fault: the policy worker was killed by SIGKILL"),
        ("raise", "fault: the policy worker died with exit status 1: RuntimeError: out of thought"),
        ("hang", "fault: the policy worker gave no sign for 0.5 s"),
        ("nan", "bad action: chunk 26 step 1 entry 0 is nan"),
    ],
)
def test_when_the_policy_breaks_the_arm_is_held_and_stopped(
    arm: BreakingArmConfig, how: str, reason: str
) -> None:
    summary = supervise(arm, OpenBreaking(how), daemon(silence_s=0.5 if how == "hang" else 5.0))
    assert summary["ended"]["failed"] is True
    assert summary["ended"]["reason"].startswith(reason)
    assert [event["phase"] for event in summary["events"]][-2:] == ["HOLD", "STOP"]
    assert summary["chunks"]["used"] > 5
    assert summary["hold_s"][summary["ended"]["cause"]] == pytest.approx(0.4, abs=0.3)
    assert_stopped_at_rest(arm)
    assert_no_child_is_left()


@pytest.mark.parametrize(
    ("how", "reason", "stopped"),
    [
        ("kill", "fault: the control process was killed by SIGKILL", False),
        ("hang", "fault: the control process had no tick for 0.5 s", False),
        ("fault", "fault: joint 1 hot", True),
    ],
)
def test_when_the_robot_breaks_the_run_ends_and_nothing_is_left(
    arm: BreakingArmConfig, how: str, reason: str, stopped: bool
) -> None:
    arm.how = how
    began = time.monotonic()
    summary = supervise(arm, OpenReaching(), daemon(silence_s=0.5 if how == "hang" else 5.0))
    assert time.monotonic() - began < 10
    assert summary["ended"]["failed"] is True
    assert summary["ended"]["reason"].startswith(reason)
    assert Path(arm.stopped_file).exists() == stopped
    assert_no_child_is_left()


def raised(method: str) -> str:
    return (
        rf"the robot's {method}\(\) raised ValueError: a bug in {method} \(breaking.py line \d+\)"
    )


@pytest.mark.parametrize(
    ("raising", "reason", "held_s"),
    [
        (("read",), f"fault: {raised('read')}", 0.4),
        (("command",), f"fault: {raised('command')}", 0.4),
        (("hold",), f"(time is up; then|fault:) {raised('hold')}", None),
        (("command", "hold"), f"fault: {raised('command')}; then {raised('hold')}", 0.0),
        (("read", "stop"), f"fault: {raised('read')}; then {raised('stop')}", 0.4),
        (("stop",), f"time is up; then {raised('stop')}", None),
    ],
)
def test_what_a_driver_raises_is_a_fault_after_which_the_arm_is_held_and_stopped(
    arm: BreakingArmConfig,
    capfd: pytest.CaptureFixture[str],
    raising: tuple[str, ...],
    reason: str,
    held_s: float | None,
) -> None:
    arm.raising = raising
    # what breaks does so after half a second, or later where others have the processor
    summary = supervise(arm, OpenReaching(), daemon(2.0 if held_s is None else 8.0))
    ended = summary["ended"]
    assert (ended["failed"], ended["cause"], ended["signal"]) == (True, "fault", None)
    assert re.fullmatch(reason, ended["reason"]), ended["reason"]
    assert summary["ticks"] > 50 and summary["chunks"]["used"] > 5
    assert summary["events"][-1]["phase"] == "STOP"
    assert summary["robot"]["stopped"] is True
    if held_s is not None:
        held = summary["hold_s"].get("fault", 0.0)  # how long to the tick: test_loop's fake clock
        assert held_s - 0.15 <= held <= held_s + 0.6
    if held_s:
        assert_stopped_at_rest(arm)
    assert "Traceback" not in capfd.readouterr().err
    assert_no_child_is_left()


def test_what_cannot_begin_is_refused_in_words(arm: BreakingArmConfig) -> None:
    with pytest.raises(ValueError, match=r"^no such checkpoint$"):
        supervise(arm, OpenBreaking("refuse"), daemon())
    crashed = supervise(arm, OpenBreaking("crash"), daemon())
    assert crashed["ended"]["failed"] and crashed["ticks"] == 0
    assert crashed["ended"]["reason"].endswith("RuntimeError: the weights melted")
    with pytest.raises(ValueError, match=r"a chunk takes .* every one would come too late"):
        supervise(arm, OpenReaching(latency_s=0.4), daemon())
    with pytest.raises(ValueError, match="execute_horizon=9 must be at most the 8 actions"):
        supervise(arm, OpenReaching(), daemon(worker=WorkerConfig(execute_horizon=9)))
    arm.rate_hz = 30.0
    with pytest.raises(
        ValueError, match=r"^robot x: runs at 30 Hz, expected 20 Hz by policy y; set"
    ):
        supervise(arm, OpenReaching(), daemon(), names=("policy y", "robot x"))
    arm.rate_hz, arm.how = 20.0, "connect"
    with pytest.raises(ValueError, match=r"^no route to the arm$"):
        supervise(arm, OpenReaching(), daemon())
    assert not Path(arm.stopped_file).exists()
    assert_no_child_is_left()


RUN = """
import json, signal, sys
from telic.real_robot.daemon import DaemonConfig, supervise
from telic.tests.real_robot.breaking import BreakingArmConfig
from telic.tests.real_robot.reaching import OpenReaching

if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    summary = supervise(
        BreakingArmConfig(stopped_file=sys.argv[1]),
        OpenReaching(),
        DaemonConfig(duration_s=None),
        report=lambda line: print(line, flush=True),
    )
    print(json.dumps(summary), flush=True)
"""


def start_daemon(folder: Path, wait_for: str) -> subprocess.Popen[str]:
    """Return a daemon in a process group of its own that has just printed `wait_for`."""
    script = folder / "run.py"
    script.write_text(RUN)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder / "stopped")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    while wait_for not in (line := process.stdout.readline()):
        assert line, "the daemon ended before it got there"
    return process


def output_of(process: subprocess.Popen[str]) -> str:
    """Return what a daemon prints until its end; one that does not come to an end is killed."""
    try:
        return process.communicate(timeout=20)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def wait_for_the_group_to_end(group: int, timeout_s: float = 10.0) -> None:
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("a process of the run is left")


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGINT, True), (signal.SIGTERM, False)],  # Ctrl-C in a terminal reaches every process
)
def test_a_signal_in_the_middle_ends_in_the_safe_state(
    tmp_path: Path, number: signal.Signals, whole_group: bool
) -> None:
    process = start_daemon(tmp_path, "ACTIVE")
    time.sleep(0.3)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    out = output_of(process)
    assert process.returncode == 0
    summary = json.loads(out.splitlines()[-1])
    assert summary["ended"]["reason"] == f"ordered to stop: {number.name}"
    assert summary["ended"]["signal"] == number.name
    assert [event["phase"] for event in summary["events"]][-2:] == ["HOLD", "STOP"]
    assert float((tmp_path / "stopped").read_text()) < 0.05
    wait_for_the_group_to_end(process.pid)


def test_a_signal_while_starting_ends_the_run_before_it_began(tmp_path: Path) -> None:
    process = start_daemon(tmp_path, "policy ready")
    os.kill(process.pid, signal.SIGINT)
    out = output_of(process)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["ended"]["signal"] == "SIGINT"
    wait_for_the_group_to_end(process.pid)


def test_without_its_daemon_the_arm_is_held_and_stopped(tmp_path: Path) -> None:
    process = start_daemon(tmp_path, "ACTIVE")
    process.kill()
    process.communicate()
    wait_for_the_group_to_end(process.pid)
    assert float((tmp_path / "stopped").read_text()) < 0.05
