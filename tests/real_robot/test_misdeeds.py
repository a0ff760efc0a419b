"""Whatever drivers, clocks and policies do, no command leaves its bounds or exceeds its rate."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telic.real_robot.clock import NS, FakeClock
from telic.real_robot.control_process import LoopConfig, drive
from telic.real_robot.ipc import Ipc
from telic.real_robot.robot import Reading
from telic.real_robot.safety import SafetyConfig
from telic.real_robot.simulated_arm import ArmConfig, SimulatedArm, arm_interface
from telic.real_robot.timeline import Motion
from telic.spec import Array, ArraySpec

MS = 1_000_000
PERIOD = 10 * MS
HORIZON = 4
BOUND = 0.3  # which single precision does not hold
LIMITS = (2.0, 0.5)  # rad/s
WALL_NS = 1_800_000_000 * NS

# What a driver may do to a reading; True: nothing may be commanded in that tick.
READINGS: dict[str, tuple[Callable[[Reading, int], Reading], bool]] = {
    "sound": (lambda r, now: r, False),
    "late": (lambda r, now: replace(r, t_obs_ns=now - 50 * MS), False),
    "unsigned": (lambda r, now: replace(r, t_obs_ns=np.uint64(now)), False),  # type: ignore[arg-type]
    "standing": (lambda r, now: replace(r, t_obs_ns=now - now % (400 * MS)), False),
    "ahead": (lambda r, now: replace(r, t_obs_ns=now + 10 * NS), True),
    "a little ahead": (lambda r, now: replace(r, t_obs_ns=now + 6 * MS), True),
    "wall clock": (lambda r, now: replace(r, t_obs_ns=WALL_NS + now), True),
    "seconds": (lambda r, now: replace(r, t_obs_ns=now // NS), True),
    "float": (lambda r, now: replace(r, t_obs_ns=float(now)), True),  # type: ignore[arg-type]
    "nan stamp": (lambda r, now: replace(r, t_obs_ns=float("nan")), True),  # type: ignore[arg-type]
    "beyond 64 bits": (lambda r, now: replace(r, t_obs_ns=2**80), True),
    "old": (lambda r, now: replace(r, t_obs_ns=now - NS), True),
    "nan": (lambda r, now: replace(r, state=np.full(6, np.nan, np.float32)), True),
    "shape": (lambda r, now: replace(r, state=np.zeros(5, np.float32)), True),
    "nothing": (lambda r, now: replace(r, state=None), True),  # type: ignore[arg-type]
    "new episode": (lambda r, now: replace(r, episode=r.episode + 1), True),
}
HOLDS: dict[str, Callable[[Array], Any]] = {
    "sound": lambda own: own.copy(),
    "its own array": lambda own: own,
    "far outside": lambda own: np.full(2, 1e9),
    "outside": lambda own: np.full(2, BOUND + 0.001, np.float32),
    "nan": lambda own: np.full(2, np.nan, np.float32),
    "infinite": lambda own: np.full(2, -np.inf),
    "shape": lambda own: np.zeros(3, np.float32),
    "nothing": lambda own: None,
    "list": lambda own: [0.1, -0.1],
}
CHUNKS: dict[str, Callable[[Array], Array]] = {
    "sound": lambda actions: 0.2 * actions,
    "large": lambda actions: 1e30 * actions,
    "larger than single precision can subtract": lambda actions: 3e38 * np.sign(actions),
    "nan": lambda actions: np.where(actions > 0.9, np.nan, actions),
}


class WildArm(SimulatedArm):
    """An arm that spoils what it is given and what it gave, and notes what it was told."""

    interface = replace(
        arm_interface(), action=ArraySpec(shape=(2,), minimum=(-BOUND,), maximum=(BOUND,))
    )

    def __init__(self, clock: FakeClock, plan: list["TickPlan"], motion: Motion) -> None:
        super().__init__(ArmConfig(rate_hz=100.0 if motion is Motion.relative else 20.0), clock)
        self.interface = replace(WildArm.interface, rate_hz=self.interface.rate_hz)
        self.motion, self.plan = motion, plan
        self.tick, self.due_ns, self.episode = -1, clock.now_ns(), 0
        self.own = np.zeros(2, np.float32)
        self.state = np.zeros(6, np.float32)
        self.before = (np.zeros(2), 0)  # what kept it where it is, and when
        self.commands: list[tuple[int, Array]] = []
        self.raised = False

    def now(self) -> "TickPlan":
        return self.plan[min(max(0, self.tick), len(self.plan) - 1)]

    def read(self) -> Reading:
        self.tick += 1
        if self.now().driver == "spoils":
            self.own[:] = 1e6
        now_ns = self._clock.now_ns()
        self.due_ns = now_ns - now_ns % PERIOD
        self.state += 0.01  # its own array, which it gave before
        change, _ = READINGS[self.now().reading]
        reading = change(Reading(state=self.state, t_obs_ns=now_ns, episode=self.episode), now_ns)
        self.episode = reading.episode
        return reading

    def command(self, action: Array) -> None:
        self.commands.append((self.tick, action.copy()))
        assert not READINGS[self.now().reading][1], f"after a reading that is {self.now().reading}"
        assert WildArm.interface.action.problem(action) is None
        last, last_ns = self.before
        reach = np.array(LIMITS) * (self.due_ns - last_ns) / NS
        assert (np.abs(action.astype(np.float64) - last) <= reach).all()
        self.before = (action.astype(np.float64), self.due_ns)
        self.own[:] = action
        action *= 57.3  # to degrees, in place
        self.misbehave()

    def hold(self) -> Array:
        given = HOLDS[self.now().hold](self.own)
        with np.errstate(all="ignore"):
            shown = np.zeros(2) if given is None else np.array(given, np.float32)
        self.before = (shown.astype(np.float64)[:2], self.due_ns)
        self.misbehave()
        return given  # type: ignore[no-any-return]

    def misbehave(self) -> None:
        if self.now().driver == "slow" and self.tick >= 0:  # the ticks begin on the grid
            self._clock.advance(35 * MS)  # type: ignore[attr-defined]
        elif self.now().driver == "raises":
            self.raised = True
            raise RuntimeError("a bug in the driver")


@dataclass(frozen=True)
class TickPlan:
    """What goes wrong in a tick."""

    reading: str = "sound"
    hold: str = "sound"
    driver: str = "sound"
    chunk: str | None = "sound"
    ahead_ms: int = 0  # of the chunk's stamp
    seed: int = 0


def mostly(usual: Any, others: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), st.sampled_from(list(others)))


TICKS = st.builds(
    TickPlan,
    reading=mostly("sound", READINGS),
    hold=mostly("sound", HOLDS),
    driver=mostly("sound", ["sound", "sound", "slow", "spoils", "raises"]),
    chunk=mostly("sound", [None, None, *CHUNKS]),
    ahead_ms=mostly(0, [-2000, -300, -40, 4, 100, 10_000]),
    seed=st.integers(0, 1000),
)


def play(plan: list[TickPlan], motion: Motion, oversleep_ns: Callable[[], int] = int) -> WildArm:
    """Return the arm after a run in which all of `plan` happens."""
    clock = FakeClock(t_ns=100 * NS, oversleep=oversleep_ns)
    arm = WildArm(clock, plan, motion)
    ipc = Ipc.create(arm.interface, HORIZON, 64)
    rules = LoopConfig(stop_hold_s=0.0).build(
        arm, SafetyConfig(max_change_per_s=list(LIMITS)), PERIOD * len(plan) / NS
    )

    def send(due_ns: int) -> None:
        tick = plan[min(len(plan) - 1, arm.tick + 1)]
        if tick.chunk is not None:
            actions = np.random.default_rng(tick.seed).uniform(-1, 1, (HORIZON, 2))
            ipc.chunks.write(
                {
                    "actions": CHUNKS[tick.chunk](actions).astype(np.float32),
                    "t_obs_ns": clock.now_ns() + tick.ahead_ms * MS,
                    "dt_ns": rules.timeline.dt_ns,
                    "episode": arm.episode,
                    "started_ns": clock.now_ns(),
                    "finished_ns": clock.now_ns(),
                }
            )

    clock.meanwhile = send
    summary = drive(arm, clock, ipc, rules)
    raised = "the robot's" in summary["ended"]["reason"]
    assert raised == arm.raised and summary["ended"]["failed"] >= raised
    ipc.close()
    return arm


@settings(max_examples=150, deadline=None)
@given(
    plan=st.lists(TICKS, min_size=1, max_size=40),
    motion=st.sampled_from(list(Motion)),
    oversleep_ms=st.lists(st.integers(0, 25), min_size=1, max_size=5),
)
def test_no_command_leaves_its_bounds_or_is_faster_than_its_limit(
    plan: list[TickPlan], motion: Motion, oversleep_ms: list[int]
) -> None:
    count = iter(range(10**6))
    with np.errstate(all="ignore"):  # numbers that overflow are part of it
        play(plan, motion, lambda: oversleep_ms[next(count) % len(oversleep_ms)] * MS)


@pytest.mark.parametrize("motion", list(Motion))
def test_a_driver_that_converts_in_place_and_spoils_its_arrays_is_driven_as_any_other(
    motion: Motion,
) -> None:
    plain = play([TickPlan(seed=i) for i in range(30)], motion)
    wild = play(
        [TickPlan(seed=i, hold="its own array", driver="spoils") for i in range(30)], motion
    )
    assert len(plain.commands) > 25
    assert [tick for tick, _ in wild.commands] == [tick for tick, _ in plain.commands]
    for (_, ours), (_, theirs) in zip(plain.commands, wild.commands, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("reading", [name for name, (_, bad) in READINGS.items() if bad])
def test_a_bad_reading_costs_its_own_tick_and_no_more(reading: str) -> None:
    plan = [TickPlan(seed=i, reading=reading if i == 15 else "sound") for i in range(30)]
    commanded = {tick for tick, _ in play(plan, Motion.absolute).commands}
    assert 15 not in commanded and {14, 17} <= commanded


@pytest.mark.filterwarnings("error")
def test_stamps_of_any_whole_type_are_of_the_same_time() -> None:
    plain = play([TickPlan(seed=i) for i in range(30)], Motion.absolute)
    unsigned = play([TickPlan(seed=i, reading="unsigned") for i in range(30)], Motion.absolute)
    assert len(plain.commands) > 25
    assert [tick for tick, _ in unsigned.commands] == [tick for tick, _ in plain.commands]


@pytest.mark.parametrize("hold", ["far outside", "nan", "infinite", "shape", "nothing"])
def test_an_arm_that_cannot_say_where_it_is_held_is_not_moved_until_it_can(hold: str) -> None:
    plan = [TickPlan(seed=i, hold=hold if i < 10 else "sound") for i in range(30)]
    commanded = [tick for tick, _ in play(plan, Motion.absolute).commands]
    assert commanded[0] == 11 and len(commanded) > 15
