"""Time for loops that must not drift: absolute deadlines, sleep then spin, measured lag."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

NS = 1_000_000_000


class Clock(Protocol):
    """Where a loop gets its time from and waits in: the machine's clock, or a test's."""

    def now_ns(self) -> int:
        """Return the time in nanoseconds; never goes back."""
        ...

    def sleep_until(self, due_ns: int) -> None:
        """Come back at `due_ns`, or at once if it has passed."""
        ...


@dataclass(frozen=True, slots=True)
class MonotonicClock:
    """`time.monotonic_ns`. Sleeps until `spin_ns` before a deadline and spins through the rest.

    A sleeping thread is woken 50-100 us late by an idle kernel; spinning costs a core for
    `spin_ns` a wait and lands within a few microseconds.
    """

    spin_ns: int = 300_000

    def now_ns(self) -> int:
        """Return the time in nanoseconds since an arbitrary start."""
        return time.monotonic_ns()

    def sleep_until(self, due_ns: int) -> None:
        """Come back at `due_ns`, or at once if it has passed."""
        rest_ns = due_ns - time.monotonic_ns()
        if rest_ns > self.spin_ns:
            time.sleep((rest_ns - self.spin_ns) / NS)
        while time.monotonic_ns() < due_ns:
            pass


@dataclass(slots=True)
class FakeClock:
    """Time that passes only when told to, or while a loop sleeps in it.

    `meanwhile(due_ns)` is called first when a loop sleeps until `due_ns`: whatever else goes on in
    that time, in steps of its own. `oversleep()` gives the nanoseconds by which the loop then
    comes back late.
    """

    t_ns: int = 0
    oversleep: Callable[[], int] = lambda: 0
    meanwhile: Callable[[int], None] = lambda due_ns: None

    def now_ns(self) -> int:
        """Return the time that this clock was brought to."""
        return self.t_ns

    def sleep_until(self, due_ns: int) -> None:
        """Let the time pass to `due_ns`, plus what `oversleep` adds."""
        self.meanwhile(due_ns)
        self.t_ns = max(self.t_ns, due_ns) + self.oversleep()

    def advance(self, duration_ns: int) -> None:
        """Let `duration_ns` pass."""
        self.t_ns += duration_ns


@dataclass(frozen=True, slots=True)
class Tick:
    """One period of a loop.

    `due_ns` is its deadline, the time that its command is for; `lag_ns` is how late the loop came
    to the deadline it waited for; `missed` counts the deadlines in between, which had no tick.
    """

    number: int
    due_ns: int
    lag_ns: int
    missed: int


class Pacer:
    """Hands out ticks at `rate_hz`: tick n is due at start + n / rate_hz, whatever came before."""

    def __init__(self, clock: Clock, rate_hz: float):
        if not 0 < rate_hz < math.inf:
            raise ValueError(f"a loop cannot run at {rate_hz:g} Hz")
        self._clock = clock
        self._rate_hz = rate_hz
        self._start_ns = clock.now_ns()
        self._next = 0

    def _due_ns(self, number: int) -> int:
        return self._start_ns + round(number * NS / self._rate_hz)

    def wait(self) -> Tick:
        """Return the next tick at its deadline; deadlines that have passed wholly are skipped."""
        awaited = self._next
        self._clock.sleep_until(self._due_ns(awaited))
        now_ns = self._clock.now_ns()
        number = max(awaited, int((now_ns - self._start_ns) * self._rate_hz / NS))
        while self._due_ns(number) > now_ns and number > awaited:  # a rounding above
            number -= 1
        self._next = number + 1
        return Tick(number, self._due_ns(number), now_ns - self._due_ns(awaited), number - awaited)

    def forgive(self) -> None:
        """After a pause that was meant: if deadlines passed in it, go on from now."""
        self._start_ns += max(0, self._clock.now_ns() - self._due_ns(self._next))
