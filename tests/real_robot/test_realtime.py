"""The control process takes real-time scheduling and locked memory where it may, and says what."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

CHILD = """
import json, os, resource, sys
from pathlib import Path
from telic.real_robot.realtime import make_prompt

priority, rights = json.loads(sys.argv[1]), sys.argv[2]
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # whatever this one's parent has
if rights == "none":
    for limit in (resource.RLIMIT_RTPRIO, resource.RLIMIT_MEMLOCK):
        resource.setrlimit(limit, (0, 0))
    if os.getuid() == 0:
        os.setuid(65534)
try:
    said = make_prompt(priority)
except ValueError as error:
    said = f"refused: {error}"
started = os.fork()
if not started:
    os._exit(os.sched_getscheduler(0))
_, status = os.waitpid(started, 0)
locked = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmLck")]
print(json.dumps({
    "said": said,
    "fifo": os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO,
    "child_is_usual": os.waitstatus_to_exitcode(status) == os.SCHED_OTHER,
    "priority": os.sched_getparam(0).sched_priority,
    "locked": int(locked[0].split()[1]) > 0,
    "grows": bytes(50_000_000) is not None,
}))
"""


def prompt(priority: int | None, rights: str = "own") -> dict[str, Any]:
    """Return what a process of its own got, with the rights of this one or with none."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(priority), rights],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("priority", [None, 0])
def test_what_is_said_is_what_the_process_has(priority: int | None) -> None:
    got = prompt(priority)
    assert ("real-time scheduling (SCHED_FIFO 50)" in got["said"]) == got["fifo"]
    assert got["priority"] == (50 if got["fifo"] else 0)
    assert got["said"].endswith(", memory locked") == got["locked"]
    assert got["child_is_usual"]
    if priority == 0:
        assert not got["fifo"] and got["said"].startswith("no real-time scheduling (loop.priority")


def test_without_the_rights_a_run_goes_on_and_says_what_it_lacks() -> None:
    got = prompt(None, rights="none")
    assert not got["fifo"] and not got["locked"]
    assert got["said"].startswith("no real-time scheduling (needs the right to it: ulimit -r, or")
    assert ", memory not locked (" in got["said"] and "ulimit -l" in got["said"]


def test_real_time_that_is_asked_for_without_the_right_is_refused() -> None:
    got = prompt(20, rights="none")
    assert got["said"].startswith("refused: loop.priority=20: real-time scheduling needs the right")
    assert "use loop.priority=0 without it" in got["said"]
