"""Whether the time stamp of a reading can be believed. Pure functions.

A stamp says when the sensors were read, in the time of the loop's clock. One from the future, one
that is older than the one before, and one that stands still are each a reason to hold: chunks from
such readings would be followed for longer, or from another state, than they were made for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from telic.real_robot.clock import NS
from telic.real_robot.safety import Envelope

AHEAD_NS = 5_000_000  # so far may a stamp lie ahead of the loop's clock: of clocks held together
_UNITS = {"nanoseconds": 1, "microseconds": 1_000, "milliseconds": 1_000_000, "seconds": NS}
_ALIKE_NS = 3600 * NS  # a stamp as near as this to the wall clock is wall-clock time


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamps:
    """What is remembered of the readings before: the newest stamp, and when it came."""

    newest_ns: int | None = None
    came_ns: int = 0
    refused_ns: int | None = None  # the last stamp from the future: waiting does not make it true


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What is remembered next; whether the reading is `new`; or why it is `bad` or `stale`."""

    stamps: Stamps
    new: bool = False
    bad: str | None = None
    stale: str | None = None


def judge(
    stamps: Stamps, t_obs_ns: int, now_ns: int, envelope: Envelope, wall_ns: int | None = None
) -> Judged:
    """Return what to make of a reading stamped `t_obs_ns` that came at `now_ns`.

    `wall_ns` is the wall-clock time now, by which such stamps are named.
    """
    newest_ns = stamps.newest_ns
    if t_obs_ns - now_ns > AHEAD_NS or t_obs_ns == stamps.refused_ns:
        ahead_ms = (t_obs_ns - now_ns) / 1e6
        text = f"it is dated {ahead_ms:.0f} ms ahead{_kind(t_obs_ns, now_ns, wall_ns)}"
        if ahead_ms <= 0:
            text = "it has the stamp of a reading that was dated ahead of its time"
        return Judged(stamps=replace(stamps, refused_ns=t_obs_ns), bad=text)
    if newest_ns is not None and t_obs_ns < newest_ns:
        back_ms = (newest_ns - t_obs_ns) / 1e6
        text = f"its clock went back: it is dated {back_ms:.3g} ms before the one before"
        return Judged(stamps=stamps, bad=text)
    new = t_obs_ns != newest_ns
    stamps = Stamps(newest_ns=t_obs_ns, came_ns=now_ns) if new else stamps
    if not envelope.observation_is_stale(t_obs_ns, now_ns):
        return Judged(stamps=stamps, new=new)
    age_ms, limit_ms = (now_ns - t_obs_ns) / 1e6, envelope.max_observation_age_ns / 1e6
    text = f"the newest is {age_ms:.0f} ms old, limit {limit_ms:.0f} ms"
    if envelope.observation_is_stale(stamps.came_ns, now_ns):
        text += f"; its stamp has stood still for {(now_ns - stamps.came_ns) / 1e6:.0f} ms"
    return Judged(stamps=stamps, stale=text + _kind(t_obs_ns, now_ns, wall_ns))


def _kind(t_obs_ns: int, now_ns: int, wall_ns: int | None) -> str:
    """Return what `t_obs_ns` looks like if it is not nanoseconds of the loop's clock, or ""."""
    advice = "use now_ns() of the clock given to build()"
    for unit, size_ns in _UNITS.items():
        if wall_ns is not None and abs(t_obs_ns * size_ns - wall_ns) < _ALIKE_NS:
            of = "" if size_ns == 1 else f" in {unit}"
            return f": the robot stamps with wall-clock time{of}; {advice}"
        if size_ns > 1 and abs(t_obs_ns * size_ns - now_ns) < NS:
            return f": the robot stamps in {unit}, not nanoseconds; {advice}"
    return ""
