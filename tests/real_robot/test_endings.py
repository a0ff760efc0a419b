"""Which signal to which process ends a run how; what is refused before; what is left after."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from telic.control import ControlConfig, run
from telic.real_robot.daemon import DaemonConfig, supervise
from telic.real_robot.lease import Lease, robot_lease
from telic.real_robot.robot import identity_of
from telic.real_robot.simulated import MetaWorldConfig
from telic.real_robot.simulated_arm import ArmConfig
from telic.real_robot.summary_file import SummaryFile
from telic.tests.real_robot.addressed import AddressedConfig
from telic.tests.real_robot.breaking import BreakingArmConfig, OpenBreaking
from telic.tests.real_robot.reaching import OpenReaching
from telic.tests.real_robot.test_daemon import start_daemon, wait_for_the_group_to_end

FROM_TERMINALS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)


def children(pid: int) -> list[int]:
    """Return the processes that a daemon started: the control process, the policy worker."""
    ids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sorted(int(i) for i in ids if b"spawn_main" in Path(f"/proc/{i}/cmdline").read_bytes())


@pytest.mark.parametrize(
    ("whose", "number", "reason", "failed", "stopped"),
    [
        *(("daemon", n, f"ordered to stop: {n.name}", False, True) for n in FROM_TERMINALS),
        *(("all", n, f"ordered to stop: {n.name}", False, True) for n in FROM_TERMINALS[1:]),
        ("control", signal.SIGTERM, "ordered to stop: SIGTERM to the control", False, True),
        ("control", signal.SIGKILL, "fault: the control process was killed", True, False),
        ("worker", signal.SIGTERM, "fault: the policy worker was killed by SIGTERM", True, True),
    ],
)
def test_a_signal_ends_the_run_with_its_reason(
    tmp_path: Path, whose: str, number: signal.Signals, reason: str, failed: bool, stopped: bool
) -> None:
    process = start_daemon(tmp_path, "ACTIVE")
    control, worker = children(process.pid)
    for child in (control, worker):  # what a terminal sends is the daemon's to answer
        for ignored in FROM_TERMINALS:
            os.kill(child, ignored)
    if whose == "all":
        os.killpg(process.pid, number)
    else:
        os.kill({"daemon": process.pid, "control": control, "worker": worker}[whose], number)
    out, _ = process.communicate(timeout=20)
    ended = json.loads(out.splitlines()[-1])["ended"]
    assert ended["reason"].startswith(reason)
    assert ended["failed"] is failed
    assert ended["signal"] == (None if failed else number.name)
    assert (tmp_path / "stopped").exists() is stopped
    wait_for_the_group_to_end(process.pid)


def test_a_terminal_that_is_gone_ends_no_run(tmp_path: Path) -> None:
    def report(line: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    arm = BreakingArmConfig(stopped_file=str(tmp_path / "stopped"))
    summary = supervise(arm, OpenReaching(), DaemonConfig(duration_s=0.5), report=report)
    assert summary["ended"]["cause"] == "time is up" and summary["ticks"] > 10


def test_a_bug_of_the_daemon_is_a_fault_of_the_run_and_the_robot_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(line: str) -> None:
        if line.startswith("ACTIVE"):
            raise RuntimeError("a bug")

    arm = BreakingArmConfig(stopped_file=str(tmp_path / "stopped"))
    summary = supervise(arm, OpenReaching(), DaemonConfig(duration_s=5.0), report=report)
    assert summary["ended"]["failed"] is True
    assert summary["ended"]["reason"] == "fault: the daemon failed with RuntimeError: a bug"
    assert float((tmp_path / "stopped").read_text()) < 0.05
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "complaint"),
    [
        ("folder", r"^out=.*folder is a folder; give a file in it: out=.*folder/control.json$"),
        ("file/control.json", r"^out=.* cannot be written \(.*\); give another file, or out=null$"),
    ],
)
def test_an_out_that_cannot_be_written_is_refused_before_anything_is_started(
    tmp_path: Path, out: str, complaint: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=complaint):  # not that there is no such checkpoint
        run(ControlConfig(checkpoint="nowhere", robot="arm", out=str(tmp_path / out)))


def test_what_is_refused_leaves_neither_file_nor_folder(tmp_path: Path) -> None:
    out = tmp_path / "new" / "control.json"
    with SummaryFile(str(out)):
        pass
    assert not out.parent.exists()


def summary(ticks: int) -> dict[str, Any]:
    return {"ended": {"reason": "time is up"}, "duration_s": 1.0, "ticks": ticks, "events": []}


@pytest.mark.parametrize("text", ["before", "{}", "[1]", '{"ticks": 3}', "\x00\xff"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_is_no_summary_is_never_replaced(
    tmp_path: Path, text: str, overwrite: bool
) -> None:
    out = tmp_path / "thesis.json"
    out.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"thesis.json: is .*not the summary of a run.*give ano"):
        run(ControlConfig(checkpoint="nowhere", robot="arm", out=str(out), overwrite=overwrite))
    assert out.read_bytes() == text.encode("latin-1") and len(list(tmp_path.iterdir())) == 1


def test_a_summary_is_replaced_as_a_whole_if_that_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "control.json"
    out.touch()  # as a killed run leaves it, or mktemp makes it
    with SummaryFile(str(out)) as file:
        assert file.write(summary(3)) is None
    before = out.read_text()
    assert json.loads(before) == summary(3)
    with pytest.raises(ValueError, match=r"json: is already there; overwrite=true replaces it, or"):
        run(ControlConfig(checkpoint="nowhere", robot="arm", out=str(out)))
    with SummaryFile(str(out), overwrite=True) as file:
        assert out.read_text() == before
        assert file.write(summary(4)) is None
    assert json.loads(out.read_text()) == summary(4)
    assert [path.name for path in tmp_path.iterdir()] == ["control.json"]


def test_what_came_to_stand_there_during_the_run_stays_and_is_told(tmp_path: Path) -> None:
    out = tmp_path / "control.json"
    with SummaryFile(str(out)) as file:
        out.unlink()
        out.write_text("a thesis")
        problem = file.write(summary(1))
    assert problem is not None and problem.startswith(f"the summary could not be written to {out}")
    assert out.read_text() == "a thesis"


def test_a_folder_that_is_gone_and_a_pipe_are_written_all_the_same(tmp_path: Path) -> None:
    out, pipe = tmp_path / "new" / "control.json", tmp_path / "pipe"
    with SummaryFile(str(out)) as file:
        shutil.rmtree(out.parent)
        assert file.write(summary(1)) is None
    assert json.loads(out.read_text()) == summary(1)
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with SummaryFile(str(pipe)) as file:
        assert file.write(summary(2)) is None
    assert json.loads(os.read(reading, 65536)) == summary(2)
    os.close(reading)


HOLD = """
import sys, time
from pathlib import Path
from typing import Any
from telic.real_robot.lease import Lease
lease = Lease(Path(sys.argv[1]), "{}")
print("held", flush=True)
time.sleep(60)
"""


def test_two_runs_of_one_summary_are_one_too_many(tmp_path: Path) -> None:
    out = tmp_path / "control.json"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(
        ValueError, match=rf"^out={out} is being written by process {other.pid}, another run; give"
    ):
        run(ControlConfig(checkpoint="nowhere", robot="arm", out=str(out)))
    other.kill()
    other.communicate()
    with SummaryFile(str(out)):  # the lock went with its process
        pass


def test_two_runs_of_one_robot_are_one_too_many(tmp_path: Path) -> None:
    arm = AddressedConfig(ip=f"10.0.0.2 of {tmp_path}")
    lease = robot_lease(identity_of(arm) or "")
    config = DaemonConfig(duration_s=0.2)
    with pytest.raises(
        ValueError, match=rf"^the robot \(ip=10.0.0.2 .*\) is driven by process {os.getpid()}"
    ):
        supervise(arm, OpenBreaking("hang", 1), config)
    lease.release(remove=True)
    assert supervise(arm, OpenReaching(), config)["ended"]["cause"] == "time is up"
    assert not lease.path.exists()


def test_what_a_robot_is_locked_by() -> None:
    assert identity_of(ArmConfig()) is None and identity_of(MetaWorldConfig()) is None
    assert identity_of(AddressedConfig(ip="10.0.0.2")) == "ip=10.0.0.2"
    assert identity_of(AddressedConfig(ip="")) == "telic.tests.real_robot.addressed:AddressedConfig"


def test_a_lease_is_on_the_file_that_stands_there(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = Lease(path, "held by {}")
    path.rename(tmp_path / "aside")
    second = Lease(path, "held by {}")  # another file: whoever holds the first is no matter
    first.release(remove=True)
    assert path.exists(), "not the one that it held"
    second.release(remove=True)
    assert not path.exists()
