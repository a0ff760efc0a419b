"""What a control run was like: rate, lag, latency, chunks, time in each phase, and why.

Memory stays flat however long the run: durations go into histograms of 1 % wide bins.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from telic.real_robot.clock import NS, Tick
from telic.real_robot.loop import FAULTS, Command, LoopState, Phase
from telic.spec import Array

_GROWTH = math.log(1.01)
_SMALLEST_NS = 1000  # below a microsecond everything is the same
_NUM_BINS = 1 + math.ceil(math.log(1e9) / _GROWTH)  # up to 1000 s
_MAX_EVENTS = 200  # of the first changes of phase; the counts go on


class Histogram:
    """Durations in nanoseconds: exact count and maximum, quantiles within 1 %."""

    def __init__(self) -> None:
        self._bins = np.zeros(_NUM_BINS, np.int64)
        self.count = 0
        self.maximum_ns = 0

    def add(self, duration_ns: int) -> None:
        """Count one duration."""
        scaled = max(1.0, duration_ns / _SMALLEST_NS)
        self._bins[min(_NUM_BINS - 1, round(math.log(scaled) / _GROWTH))] += 1
        self.count += 1
        self.maximum_ns = max(self.maximum_ns, duration_ns)

    def quantile_ns(self, share: float) -> float | None:
        """Return the duration that `share` of all are not above, or None if there are none."""
        if self.count == 0:
            return None
        bin_number = int(np.searchsorted(np.cumsum(self._bins), share * self.count))
        return min(_SMALLEST_NS * math.exp(bin_number * _GROWTH), self.maximum_ns)

    def quantile_ms(self, share: float) -> float | None:
        """Return the same in milliseconds."""
        quantile_ns = self.quantile_ns(share)
        return None if quantile_ns is None else quantile_ns / 1e6

    def as_ms(self, shares: Mapping[str, float]) -> dict[str, float | None]:
        """Return the named quantiles and the maximum."""
        named = {name: self.quantile_ms(share) for name, share in shares.items()}
        return named | {"max": self.maximum_ns / 1e6 if self.count else None}


class Jerk:
    """How sharply commands bend: norms of their second differences, |u'' - 2 u' + u|.

    At a boundary between chunks, where the three commands are of more than one, and inside of one.
    """

    def __init__(self) -> None:
        self._last: list[tuple[Array, int]] = []  # of the last two ticks: command, chunk
        self._at_boundaries, self._inside = Histogram(), Histogram()

    def add(self, action: Array | None, chunk: int) -> None:
        """Count one tick's command; after a hold (None) they begin anew."""
        if action is None:
            self._last.clear()
            return
        self._last.append((action, chunk))
        if len(self._last) == 3:
            (first, one), (middle, _), (newest, other) = self._last
            kind = self._inside if one == other else self._at_boundaries
            kind.add(round(float(np.linalg.norm(newest - 2 * middle + first)) * NS))
            del self._last[0]

    def medians(self) -> dict[str, float | None]:
        """Return both medians in units of the action, within 1 %, None where there was none."""
        kinds = {
            "at_boundaries": self._at_boundaries.quantile_ns(0.5),
            "inside": self._inside.quantile_ns(0.5),
        }
        return {name: None if value is None else value / NS for name, value in kinds.items()}


class Tally:
    """Counts a run tick by tick; `summary` says what came out."""

    def __init__(self, control_hz: float, dt_ns: int) -> None:
        self._asked_hz = control_hz
        self._dt_ns = dt_ns
        self._ticks = self._missed_ticks = self._resets = 0
        self._lag, self._busy = Histogram(), Histogram()
        self._latency, self._inference = Histogram(), Histogram()
        self._phase, self._cause = Phase.IDLE, ""
        self._phase_ns: Counter[Phase] = Counter()
        self._hold_ns: Counter[str] = Counter()
        self._events: list[dict[str, Any]] = []
        self._chunks: Counter[str] = Counter()
        self._steps: Counter[str] = Counter()
        self._commands: Counter[str] = Counter()
        self._last_step = (-1, 0)
        self._last_action: Array | None = None
        self._boundary_change, self._other_change = 0.0, 0.0
        self._jerk = Jerk()
        self._first_ns = self._last_ns = 0

    def chunk(self, t_obs_ns: int, started_ns: int, finished_ns: int) -> None:
        """Count a chunk that the policy worker delivered."""
        self._chunks["delivered"] += 1
        self._latency.add(finished_ns - t_obs_ns)
        self._inference.add(finished_ns - started_ns)

    def tick(self, tick: Tick, state: LoopState, command: Command, busy_ns: int) -> None:
        """Count one tick: the state that it led to and what was commanded."""
        if self._ticks == 0:
            self._first_ns = self._last_ns = tick.due_ns
        elapsed_ns, self._last_ns = tick.due_ns - self._last_ns, tick.due_ns
        self._ticks += 1
        self._missed_ticks += tick.missed
        self._lag.add(tick.lag_ns)
        self._busy.add(busy_ns)
        self._phase_ns[self._phase] += elapsed_ns  # the time since the tick before
        if self._phase is Phase.HOLD:
            self._hold_ns[self._cause] += elapsed_ns
        self._phase, self._cause = state.phase, state.reason.cause.value
        self._chunks["merged"] += len(command.merged)
        self._chunks["refused"] += command.refused
        self._steps["late"] += command.late_steps
        self._commands["clipped"] += command.clipped
        self._commands["slowed"] += command.slowed
        self._follow_steps(command)

    def _follow_steps(self, command: Command) -> None:
        self._jerk.add(command.action, command.chunk)
        step = (command.chunk, command.due_ns)
        if command.action is None:
            self._last_action = None
            return
        new_chunk = command.chunk != self._last_step[0]
        if self._last_action is not None:
            change = float(np.abs(command.action - self._last_action).max())
            if new_chunk:
                self._boundary_change = max(self._boundary_change, change)
            else:
                self._other_change = max(self._other_change, change)
        self._last_action = command.action
        if step != self._last_step:
            self._steps["used"] += 1
            self._chunks["used"] += new_chunk
            self._last_step = step

    def event(self, t_ns: int, state: LoopState) -> None:
        """Note a change of phase or of its reason."""
        self._commands["changes"] += 1
        if len(self._events) < _MAX_EVENTS:
            self._events.append(
                {
                    "t_s": round((t_ns - state.start_ns) / NS, 4),
                    "phase": state.phase.name,
                    "reason": str(state.reason),
                }
            )

    def reset(self) -> None:
        """Count a pause in which the scene was put to a new start."""
        self._resets += 1

    def summary(self, state: LoopState) -> dict[str, Any]:
        """Return the run as JSON data; times in ms unless named otherwise."""
        elapsed_s = (self._last_ns - self._first_ns) / NS
        chunks = dict.fromkeys(("delivered", "merged", "used", "refused"), 0) | self._chunks
        chunks["late"] = chunks["merged"] - chunks["used"]
        failed = state.ending is not None and state.ending.cause in FAULTS
        ended = state.ending or state.reason
        return {
            "ended": {"failed": failed, "cause": ended.cause.value, "reason": str(ended)},
            "duration_s": elapsed_s,
            "control_hz": self._asked_hz,
            "rate_hz": (self._ticks - 1) / elapsed_s if elapsed_s > 0 else None,
            "ticks": self._ticks,
            "missed_ticks": self._missed_ticks,
            "resets": self._resets,
            "lag_ms": self._lag.as_ms({"p50": 0.5, "p99": 0.99, "p99.9": 0.999}),
            "busy_ms": self._busy.as_ms({"p50": 0.5, "p99": 0.99}),
            "latency_ms": self._latency.as_ms({"median": 0.5, "p95": 0.95}),
            "inference_ms": self._inference.as_ms({"median": 0.5, "p95": 0.95}),
            "step_ms": self._dt_ns / 1e6,
            "chunks": chunks,
            "steps": {"used": self._steps["used"], "late": self._steps["late"]},
            "commands": {name: self._commands[name] for name in ("clipped", "slowed")},
            "largest_change": {
                "at_boundaries": self._boundary_change,
                "elsewhere": self._other_change,
            },
            "jerk": self._jerk.medians(),
            "phase_s": {phase.name: self._phase_ns[phase] / NS for phase in Phase},
            "hold_s": {cause: ns / NS for cause, ns in sorted(self._hold_ns.items())},
            "changes_of_phase": self._commands["changes"],
            "events": self._events,
        }


def render(summary: Mapping[str, Any]) -> Group:
    """Return the summary as tables for a terminal."""
    table = Table(title="control run", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, text in _rows(summary):
        table.add_row(name, text)
    return Group(table)


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("ended", f"{summary['ended']['reason']}, after {summary['duration_s']:.2f} s")]
    if summary["ticks"]:
        chunks, steps, robot = summary["chunks"], summary["steps"], summary.get("robot", {})
        rows += [
            (
                "rate",
                f"{summary['rate_hz'] or 0:.2f} Hz of {summary['control_hz']:g} asked, "
                f"{summary['missed_ticks']} ticks missed of {summary['ticks']}",
            ),
            ("lag of a tick", _milliseconds(summary["lag_ms"])),
            ("work in a tick", _milliseconds(summary["busy_ms"])),
            ("observation to chunk", _milliseconds(summary["latency_ms"])),
            ("of it, the policy", _milliseconds(summary["inference_ms"])),
            ("chunks", ", ".join(f"{count} {name}" for name, count in chunks.items())),
            (
                "steps",
                f"{steps['used']} used, {steps['late']} late "
                f"(a step lasts {summary['step_ms']:.2f} ms)",
            ),
            ("control process", summary.get("realtime", "-")),
            ("time in phases", ", ".join(f"{k} {v:.2f} s" for k, v in summary["phase_s"].items())),
            ("held for", ", ".join(f"{k} {v:.2f} s" for k, v in summary["hold_s"].items()) or "-"),
            ("robot", ", ".join(f"{k} {_short(v)}" for k, v in robot.items()) or "-"),
        ]
    return rows


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _milliseconds(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{k} {v:.2f}" for k, v in values.items() if v is not None) + " ms"
