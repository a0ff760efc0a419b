"""A run in a time of its own: the real loop, requests, rings and robot, but nobody waits.

Time passes only where the loop sleeps. A policy's chunk comes after a latency that is made up, so
the same run repeats to the bit on any machine, as slow or as late as one likes. Robots that live
in the clock they are given (the simulated ones do) can be run like this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from telic.real_robot.clock import FakeClock
from telic.real_robot.control_process import LoopConfig, drive
from telic.real_robot.inference_scheduler import Requests, WorkerConfig
from telic.real_robot.ipc import Ipc
from telic.real_robot.policy_worker import chunk_record
from telic.real_robot.robot import Robot
from telic.real_robot.safety import SafetyConfig
from telic.spec import ActionChunk, ActRequest, ChunkPolicy, Goal

_OBSERVATIONS = 256  # readings that are kept for the policy


@dataclass(kw_only=True, slots=True)
class Timing:
    """What takes how long, in nanoseconds; drawn anew each time.

    latency_ns: from the moment when the policy is asked until its chunk is there; negative for a
    chunk that gets lost after that time. oversleep_ns: how late the loop comes out of a wait.
    """

    latency_ns: Callable[[], int] = lambda: 0
    oversleep_ns: Callable[[], int] = lambda: 0


@dataclass(slots=True)
class _Pending:
    request: ActRequest
    chunk: ActionChunk
    started_ns: int
    finished_ns: int
    lost: bool


@dataclass(slots=True)
class _ReplayWorker:
    """The policy worker, in the pauses of the loop."""

    policy: ChunkPolicy
    requests: Requests
    ipc: Ipc
    clock: FakeClock
    timing: Timing
    pending: _Pending | None = field(default=None, init=False)

    def work_until(self, due_ns: int) -> None:
        """Do what the policy worker would do before `due_ns`; the clock comes along."""
        while (pending := self.pending or self._begin()) is not None:
            self.pending = pending
            if pending.finished_ns > due_ns:
                return
            self.clock.t_ns = max(self.clock.t_ns, pending.finished_ns)
            if not pending.lost:
                self.ipc.chunks.write(
                    chunk_record(
                        pending.chunk,
                        pending.request.episode,
                        pending.started_ns,
                        pending.finished_ns,
                    )
                )
            self.requests.answered(pending.request, pending.chunk, pending.finished_ns)
            self.pending = None

    def _begin(self) -> _Pending | None:
        request = self.requests.next()
        if request is None:
            return None
        latency_ns, now_ns = self.timing.latency_ns(), self.clock.now_ns()
        return _Pending(
            request=request,
            chunk=self.policy.act_batch([request])[0],
            started_ns=now_ns,
            finished_ns=now_ns + abs(latency_ns),
            lost=latency_ns < 0,
        )


def replay(
    robot: Robot,
    policy: ChunkPolicy,
    clock: FakeClock,
    timing: Timing,
    *,
    duration_s: float | None = None,
    goal: str | None = None,
    loop: LoopConfig | None = None,
    safety: SafetyConfig | None = None,
    worker: WorkerConfig | None = None,
    watch: Callable[[], tuple[str | None, str | None]] = lambda: (None, None),
) -> dict[str, Any]:
    """Return the summary of a run of `policy` on `robot`, which was built with `clock`.

    Ends after `duration_s`, or when `watch()` gives a fault or an order to stop. `goal` is by
    default the robot's own instruction.
    """
    policy.interface.require(robot.interface, "the policy", "robot")
    rules = (loop or LoopConfig()).build(robot, safety or SafetyConfig(), duration_s)
    ipc = Ipc.create(robot.interface, policy.action_horizon, _OBSERVATIONS)
    requests = Requests(
        policy,
        Goal(text=goal or robot.instruction),
        ipc.observations,
        ipc.status,
        worker or WorkerConfig(),
    )
    clock.meanwhile = _ReplayWorker(policy, requests, ipc, clock, timing).work_until
    clock.oversleep = timing.oversleep_ns
    robot.connect()
    summary = drive(robot, clock, ipc, rules, watch)
    ipc.close()
    return summary | {"robot": robot.report()}
