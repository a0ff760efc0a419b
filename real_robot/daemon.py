"""Supervision of a run: starts control process and policy worker, watches them, ends them.

start    both load; the robot must offer what the policy needs; the policy warms up
run      heartbeats are watched; Ctrl-C, SIGTERM and each death become a stop request to the control
         process, which holds the robot, lets go of it and sums up the run
end      no process is left, and the shared memory is gone with the last of them
"""

from __future__ import annotations

import math
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from telic.ranges import require_range
from telic.real_robot.child import Child, ChildDiedError, RefusedError
from telic.real_robot.clock import NS
from telic.real_robot.control_process import LoopConfig, control_main
from telic.real_robot.goal import in_words, require_goal
from telic.real_robot.inference_scheduler import WorkerConfig
from telic.real_robot.ipc import Ipc, StopKind, decode_text, encode_text
from telic.real_robot.loop import Cause, Phase
from telic.real_robot.policy_worker import worker_main
from telic.real_robot.ring import SharedRing
from telic.real_robot.robot import RobotConfig
from telic.real_robot.safety import SafetyConfig
from telic.spec import Array, ChunkPolicy, Interface

_WATCH_S = 0.02
_REPORT_NS = 500_000_000  # between two lines about changes of phase
_SPARE_OBSERVATIONS = 16


@dataclass(kw_only=True, slots=True)
class DaemonConfig:
    """A run on a robot: which parts, and how patient the daemon is with them."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    duration_s: float | None = 10.0  # None: until stopped
    start_s: float = 120.0  # to load, to connect, to warm up: each
    control_silence_s: float = 1.0  # without a tick: the control process hangs
    worker_silence_s: float = 5.0  # without a sign of life: the policy worker hangs
    grace_s: float = 3.0  # to end when told to

    def __post_init__(self) -> None:
        require_range(self, "duration_s", above=0, at_most=1e9)
        require_range(
            self,
            "start_s",
            "control_silence_s",
            "worker_silence_s",
            "grace_s",
            above=0,
            at_most=1e6,
        )


def supervise(
    robot: RobotConfig,
    open_policy: Callable[[], ChunkPolicy],
    config: DaemonConfig,
    names: tuple[str, str] = ("the policy", "the robot"),
    goal: str | None = None,
    report: Callable[[str], None] = lambda line: None,
    goal_images: Mapping[str, Array] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run `robot` by the policy that `open_policy()` gives in its own process; return the summary.

    `goal` is the sentence that conditions the policy, `goal_images` are pictures of it (camera ->
    u8 [h w 3]); without either it is the robot's own sentence. `names` say in
    error messages what policy and robot are. `report` gets a line for every change of phase.
    Raises ValueError if an input is at fault. What goes wrong later is in the summary under
    "ended": {"failed", "cause", "reason", "signal"}.
    """
    summary = None
    report = _harmless(report)
    with _signals() as caught:
        try:
            with ExitStack() as ending:
                control = Child(
                    "the control process",
                    control_main,
                    robot,
                    config.loop,
                    config.safety,
                    config.duration_s,
                )
                ending.callback(control.end, config.grace_s + config.loop.stop_hold_s)
                about = (open_policy, config.worker, dict(goal_images))
                worker = Child("the policy worker", worker_main, *about)
                ending.callback(worker.end, config.grace_s)
                start = _Startup(control, worker, config.start_s, caught, report)
                ipc = start.run(ending, names, goal, goal_images)
                if ipc is not None:
                    summary = _watched(_Watch(control, worker, ipc, config, caught, report))
        except ChildDiedError as death:
            summary = _without_a_run(Cause.FAULT, str(death), failed=True)
        if summary is None:
            summary = _without_a_run(Cause.ORDERED, "before the run began", failed=False)
        of_its_own = summary["ended"].get("signal")  # to the control process alone
        summary["ended"]["signal"] = caught[0].name if caught else of_its_own
        return summary


def _watched(watch: _Watch) -> dict[str, Any]:
    """Return the summary of a run that is under way; what fails here is a fault of that run."""
    try:
        return watch.run()
    except (RefusedError, ChildDiedError):
        raise
    except Exception as error:
        traceback.print_exc()
        text = f"the daemon failed with {type(error).__name__}: {error}"
        return _without_a_run(Cause.FAULT, text, failed=True)


def _harmless(report: Callable[[str], None]) -> Callable[[str], None]:
    """Return `report` without what it raises: a closed terminal ends no run."""

    def say(line: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: a closed file
            report(line)

    return say


@dataclass(slots=True)
class _Startup:
    """Brings both processes up to the first tick."""

    control: Child
    worker: Child
    patience_s: float
    caught: list[signal.Signals]
    report: Callable[[str], None]

    def run(
        self,
        ending: ExitStack,
        names: tuple[str, str],
        goal: str | None,
        goal_images: Mapping[str, Array],
    ) -> Ipc | None:
        """Return the rings that the processes now run with, or None after a signal.

        Raises ValueError if an input is at fault, ChildDiedError if a process dies.
        """
        policy = self._hear(self.worker, self.control)
        if policy is None:
            return None
        require_goal(policy, names[0], goal, goal_images)
        self.control.send({"needs": policy["interface"]})
        robot = self._hear(self.control)
        if robot is None:
            return None
        needs, offers = (Interface.from_json(x["interface"]) for x in (policy, robot))
        needs.require(offers, names[0], names[1])
        text = goal or (None if goal_images else robot["instruction"])
        if text is None and not goal_images:
            raise ValueError(f"{names[1]} has no instruction of its own; give one: goal='...'")
        readings_a_step = max(1.0, robot["control_hz"] / needs.rate_hz)
        ipc = Ipc.create(
            offers,
            policy["action_horizon"],
            2 * math.ceil(policy["obs_horizon"] * readings_a_step) + _SPARE_OBSERVATIONS,
        )
        ending.callback(_release, ipc)
        self.worker.send({"goal": text}, ipc.descriptors())
        ready = self._hear(self.worker)
        if ready is None:
            return None
        self.report(
            f"policy ready, {ready['ready']:.1f} ms a chunk; goal: {in_words(text, goal_images)}"
        )
        if (note := ready.get("note")) is not None:
            self.report(note)
        for warning in ready["warnings"]:
            self.report(f"warning: {warning}")
        self.control.send({}, ipc.descriptors())
        return ipc

    def _hear(self, child: Child, other: Child | None = None) -> dict[str, Any] | None:
        """Return the next message of `child`, None after a signal.

        Raises at once what ends `other`, which has nothing to say yet.
        """

        def interrupted() -> bool:
            if other is not None:
                other.message(0.0)
            return bool(self.caught)

        return child.expect(self.patience_s, interrupted)


@dataclass(slots=True)
class _Watch:
    """Watches over both processes while they run."""

    control: Child
    worker: Child
    ipc: Ipc
    config: DaemonConfig
    caught: list[signal.Signals]
    report: Callable[[str], None]
    began_ns: int = field(default_factory=time.monotonic_ns)
    stop_requested: bool = False
    changes: int = 0  # of phase, reported so far
    reported_ns: int = 0  # when

    def run(self) -> dict[str, Any]:
        """Return the summary that the control process sends at the end.

        Raises RefusedError if the robot cannot be connected, ChildDiedError if the control process
        dies or hangs.
        """
        while True:
            message = self.control.message(_WATCH_S)
            self._report_changes()
            if message is not None and "summary" in message:
                return message["summary"]
            if message is not None:
                self.report(f"control process: {message['connected']}")
            self._require_ticks()
            if self.stop_requested:
                continue
            if self.caught:
                self._tell(StopKind.STOP, self.caught[0].name)
            elif not self.worker.alive:
                self._tell(StopKind.FAULT, self._why_dead())
            elif self._silence_s(self.ipc.heartbeat) > self.config.worker_silence_s:
                silence_s = self.config.worker_silence_s
                self._tell(StopKind.FAULT, f"{self.worker.name} gave no sign for {silence_s:g} s")

    def _why_dead(self) -> str:
        try:
            self.worker.message(0.0)
        except ChildDiedError as death:
            return str(death)
        return self.worker.death()

    def _require_ticks(self) -> None:
        status = self.ipc.status.newest()
        patience_s = self.config.control_silence_s
        if status is None:
            patience_s = self.config.start_s
        elif status[1]["phase"] == Phase.STOP:
            patience_s = self.config.grace_s
        if self._silence_s(self.ipc.status) > patience_s:
            raise ChildDiedError(f"{self.control.name} had no tick for {patience_s:g} s")

    def _silence_s(self, ring: SharedRing) -> float:
        """Return how long ago the newest record was written, or the run began without one."""
        newest = ring.newest()
        last_ns = self.began_ns if newest is None else int(newest[1]["t_ns"])
        return (time.monotonic_ns() - last_ns) / NS

    def _tell(self, order: StopKind, text: str) -> None:
        self.stop_requested = True
        self.ipc.stop_requests.write({"kind": int(order), "text": encode_text(text)})

    def _report_changes(self) -> None:
        """Report the newest change of phase; where they come thick and fast, some of them."""
        newest = self.ipc.status.newest()
        if newest is None or int(newest[1]["changes"]) == self.changes:
            return
        now_ns, phase = time.monotonic_ns(), Phase(int(newest[1]["phase"]))
        if phase is Phase.STOP or now_ns - self.reported_ns > _REPORT_NS:
            skipped = int(newest[1]["changes"]) - self.changes - 1
            more = f" (and {skipped} before it)" if skipped else ""
            self.report(f"{phase.name}: {decode_text(newest[1]['text'])}{more}")
            self.changes, self.reported_ns = int(newest[1]["changes"]), now_ns


def _release(ipc: Ipc) -> None:
    """Tell whoever still listens that the run is over, and let go of the rings."""
    ipc.stop_requests.write({"kind": int(StopKind.STOP), "text": encode_text("the daemon ends")})
    ipc.close()


@contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Collect what is to end the run in the list that is returned, while the block runs.

    Ctrl-C, Ctrl-\\ and Ctrl-Z, SIGTERM, and the end of the terminal unless that is ignored (nohup).
    """
    caught: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread gets signals
        return

    def note(number: int, frame: object) -> None:
        caught.append(signal.Signals(number))

    ending = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in ending}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _without_a_run(cause: Cause, reason: str, failed: bool) -> dict[str, Any]:
    """Return the summary of a run that left none."""
    ended = {"failed": failed, "cause": cause.value, "reason": f"{cause.value}: {reason}"}
    return {"ended": ended, "duration_s": 0.0, "ticks": 0, "events": []}
