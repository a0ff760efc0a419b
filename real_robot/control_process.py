"""The process that owns the robot: one tick after the other, never waiting for anyone."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from telic.ranges import require_range
from telic.real_robot.channel import Channel
from telic.real_robot.child import reporting
from telic.real_robot.clock import NS, Clock, MonotonicClock, Pacer
from telic.real_robot.driver import Driver
from telic.real_robot.ipc import Ipc, StopKind, decode_text, encode_text
from telic.real_robot.lease import robot_lease
from telic.real_robot.loop import (
    Cause,
    Inputs,
    LoopRules,
    LoopState,
    NumberedChunk,
    Phase,
    Reason,
    step,
)
from telic.real_robot.realtime import make_prompt
from telic.real_robot.robot import Reading, Robot, RobotConfig, identity_of, require_facts
from telic.real_robot.safety import SafetyConfig
from telic.real_robot.summary import Tally
from telic.real_robot.timeline import Motion, TimelineRules
from telic.spec import ActionChunk, Array, Interface

_RECENT = 10  # chunks whose late steps say how late the next one will be


@dataclass(kw_only=True, slots=True)
class LoopConfig:
    """How the control loop runs."""

    # how many steps of a chunk still carry something of the one before; None: 1 for absolute
    # actions, 0 for relative ones, where a jump is one of speed and blending cost success
    boundary_steps: int | None = None
    stop_hold_s: float = 0.25  # to come to rest before the robot is let go of
    spin_us: float = 300.0  # of every wait, spun through; more: less lag, more load
    # SCHED_FIFO priority 1-99, which needs the right to it; 0: as any process; None: 50 where the
    # right is there
    priority: int | None = None

    def __post_init__(self) -> None:
        require_range(self, "priority", at_least=0, at_most=99, prefix="loop.")
        require_range(self, "boundary_steps", at_least=0, at_most=1000, prefix="loop.")
        require_range(self, "stop_hold_s", at_least=0, at_most=60, prefix="loop.")
        require_range(self, "spin_us", at_least=0, at_most=1e6, prefix="loop.")

    def build(self, robot: Robot, safety: SafetyConfig, duration_s: float | None) -> LoopRules:
        """Return the rules of a run on `robot`.

        ValueError if what the robot says of itself makes no sense.
        """
        require_facts(robot)
        boundary_steps = self.boundary_steps
        if boundary_steps is None:
            boundary_steps = 1 if robot.motion is Motion.absolute else 0
        return LoopRules(
            timeline=TimelineRules(
                motion=robot.motion,
                dt_ns=round(NS / robot.interface.rate_hz),
                boundary_steps=boundary_steps,
                binary_dims=robot.binary_dims,
            ),
            envelope=safety.build(robot.interface.action),
            stop_hold_ns=round(self.stop_hold_s * NS),
            duration_ns=None if duration_s is None else round(duration_s * NS),
        )


def control_main(
    channel: Channel,
    robot_config: RobotConfig,
    loop: LoopConfig,
    safety: SafetyConfig,
    duration_s: float | None,
) -> None:
    """Be the control process of the daemon at the other end of `channel`."""
    daemon_pid = os.getppid()
    stop_requests: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: stop_requests.append("SIGTERM to the control process"))
    with reporting(channel, starting=True), ExitStack() as at_end:
        identity = identity_of(robot_config)
        if identity is not None:
            at_end.callback(robot_lease(identity).release, remove=True)
        needs = Interface.from_json(channel.receive()[0]["needs"])
        clock = MonotonicClock(spin_ns=round(loop.spin_us * 1000))
        robot = robot_config.build(needs, clock)
        rules = loop.build(robot, safety, duration_s)
        channel.send(
            {
                "interface": robot.interface.to_json(),
                "control_hz": robot.control_hz,
                "instruction": robot.instruction,
            }
        )
        ipc = Ipc.attach(channel.receive()[1])
        realtime = make_prompt(loop.priority)
        robot.connect()
        held_until_the_end = at_end.pop_all()

    def watch() -> tuple[str | None, str | None]:
        if os.getppid() != daemon_pid:
            return "the daemon is gone", None
        return None, stop_requests[0] if stop_requests else None

    def on_start() -> None:
        channel.send({"connected": realtime})

    with reporting(channel, starting=False), held_until_the_end:
        summary = drive(robot, clock, ipc, rules, watch, on_start)
        if stop_requests and summary["ended"]["reason"].endswith(stop_requests[0]):
            summary["ended"]["signal"] = signal.SIGTERM.name
        channel.send({"summary": summary | {"realtime": realtime, "robot": _report(robot)}})


def _report(robot: Robot) -> dict[str, Any]:
    """Return the robot's own part of the summary; a robot that fails here costs no more than it."""
    try:
        report = json.loads(json.dumps(robot.report(), default=str))
    except Exception as error:
        return {"report": f"{type(error).__name__}: {error}"}
    return report if isinstance(report, dict) else {"report": report}


def drive(
    robot: Robot,
    clock: Clock,
    ipc: Ipc,
    rules: LoopRules,
    watch: Callable[[], tuple[str | None, str | None]] = lambda: (None, None),
    on_start: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run the connected robot until STOP, let go of it; return the summary.

    `watch()` gives what ends the run from outside: (a fault, an order), each a text or None.
    `on_start()` is called before the first tick. What the robot raises is a fault of the run; after
    what anything else raises it is held and stopped too.
    """
    driver = Driver(robot)
    with _releasing(driver):
        on_start()
        summary = _run(driver, clock, ipc, rules, watch, robot.control_hz)
    return _with_fault(summary, driver.fault)


@contextmanager
def _releasing(driver: Driver) -> Iterator[None]:
    """At the end of the block, however it comes, hold the robot and stop it."""
    try:
        yield
    finally:
        driver.hold()
        driver.stop()


def _with_fault(summary: dict[str, Any], fault: str | None) -> dict[str, Any]:
    """Return the summary of a run in which the robot raised `fault`, some of it at the very end."""
    if fault is None:
        return summary
    reason = summary["ended"]["reason"]
    whole = str(Reason(Cause.FAULT, fault))
    text = whole if whole.startswith(reason) else f"{reason}; then {fault}"
    return summary | {"ended": {"failed": True, "cause": Cause.FAULT.value, "reason": text}}


def _run(
    driver: Driver,
    clock: Clock,
    ipc: Ipc,
    rules: LoopRules,
    watch: Callable[[], tuple[str | None, str | None]],
    control_hz: float,
) -> dict[str, Any]:
    held = driver.hold()
    state = LoopState.begin(clock.now_ns(), held.action)
    tally = Tally(control_hz, rules.timeline.dt_ns)
    pacer = Pacer(clock, control_hz)
    next_chunk, changes = ipc.chunks.written, 0
    delays: deque[int] = deque(maxlen=_RECENT)
    text = encode_text(str(state.reason))
    while state.phase is not Phase.STOP:
        tick = pacer.wait()
        began_ns = clock.now_ns()
        reading, problem = driver.read()
        if problem is None and reading.episode != state.episode:  # it took its time for a new start
            pacer.forgive()
            began_ns = clock.now_ns()
            tally.reset()
        chunks, next_chunk = _take_chunks(ipc, next_chunk, tally)
        fault, order = _outside(ipc, watch)
        inputs = Inputs(
            t_obs_ns=reading.t_obs_ns,
            held=held.action,
            episode=reading.episode if problem is None else state.episode,
            problem=problem,
            read_ns=clock.now_ns(),
            wall_ns=time.time_ns(),
            held_problem=held.problem,
            holds=driver.holds,
            chunks=chunks,
            fault=driver.fault or reading.fault or fault,
            order=order,
        )
        before, (state, command) = state, step(state, inputs, tick.due_ns, rules)
        if command.observed:
            ipc.observations.write(_record(reading))
        if command.action is None or not driver.command(command.action):
            held = driver.hold()
        if (before.phase, before.reason.cause) != (state.phase, state.reason.cause):
            changes += 1
            text = encode_text(str(state.reason))
            tally.event(tick.due_ns, state)
        if command.merged and before.phase is Phase.ACTIVE:  # nearly always one; at rest none waits
            delays.append(math.ceil(command.late_steps / len(command.merged)))
        ipc.status.write(_status(clock.now_ns(), state, changes, delays, text))
        tally.tick(tick, state, command, clock.now_ns() - began_ns)
    return tally.summary(state)


def _record(reading: Reading) -> dict[str, Array | int]:
    return {
        "state": reading.state,
        "t_obs_ns": reading.t_obs_ns,
        "episode": reading.episode,
        **{f"image/{camera}": image for camera, image in reading.images.items()},
    }


def _status(
    now_ns: int, state: LoopState, changes: int, delays: Iterable[int], text: Array
) -> dict[str, Array | int]:
    return {
        "t_ns": now_ns,
        "phase": int(state.phase),
        "changes": changes,
        "delay": max(delays, default=-1),
        "rest_ns": state.rest_ns,
        "chunk_t_obs_ns": state.timeline.t_obs_ns,
        "chunk_shift_ns": state.timeline.shift_ns,
        "text": text,
    }


def _take_chunks(ipc: Ipc, next_chunk: int, tally: Tally) -> tuple[tuple[NumberedChunk, ...], int]:
    """Return the chunks that came since number `next_chunk`, and the number to ask for next."""
    written = ipc.chunks.written
    taken = []
    for number in range(next_chunk, written):
        record = ipc.chunks.read(number)
        if record is None:  # overwritten while this process was away for many chunks
            continue
        tally.chunk(int(record["t_obs_ns"]), int(record["started_ns"]), int(record["finished_ns"]))
        chunk = ActionChunk(
            actions=record["actions"],
            t_obs_ns=int(record["t_obs_ns"]),
            dt_ns=int(record["dt_ns"]),
        )
        taken.append(NumberedChunk(number=number, episode=int(record["episode"]), chunk=chunk))
    return tuple(taken), written


def _outside(
    ipc: Ipc, watch: Callable[[], tuple[str | None, str | None]]
) -> tuple[str | None, str | None]:
    fault, order = watch()
    if ipc.stop_requests.written and (newest := ipc.stop_requests.newest()) is not None:
        text = decode_text(newest[1]["text"])
        if newest[1]["kind"] == StopKind.FAULT:
            fault = fault or text
        else:
            order = order or text
    return fault, order
