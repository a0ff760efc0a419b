"""How long a training run will take, from its first steps."""

from __future__ import annotations

TIMED_STEPS = 20  # steps after the first one over which the rate is measured
ENOUGH_S = 5.0  # or fewer, once they have taken so many seconds


class TimeEstimate:
    """The time that a run needs: once after its first steps, once more after a validation.

    The first step also starts the loader and warms up, so it is left out unless it is slow itself.
    """

    def __init__(
        self, steps: int, start: int = 0, *, validate_every: int = 0, checkpoint_every: int
    ) -> None:
        """steps: of the whole run; start: steps done before it; the others: as in `TrainConfig`."""
        self._steps, self._start = steps, start
        self._validate_every, self._checkpoint_every = validate_every, checkpoint_every
        self._timed, self._timed_s = -1, 0.0  # -1: not even the first
        self._step_s: float | None = None  # seconds of a step, once measured
        self._validated = False

    def after_step(self, step: int, step_s: float) -> str | None:
        """One line when enough is known, else None; step: its number from 1; step_s: seconds."""
        if self._step_s is not None:
            return None
        self._timed += 1
        self._timed_s += step_s
        if self._timed == 0:
            slow, self._timed_s = self._timed_s >= ENOUGH_S, 0.0
            return self._line(step, step_s, "the first, slowest step") if slow else None
        if self._timed < TIMED_STEPS and self._timed_s < ENOUGH_S:
            return None
        measured = f"{self._timed} step" + ("s" if self._timed > 1 else "")
        return self._line(step, max(self._timed_s, 1e-9) / self._timed, measured)

    def after_validation(self, step: int, validation_s: float) -> str | None:
        """One line after the first validation whose time can be counted, else None."""
        to_come = self._validations(step)
        if self._step_s is None or self._validated or not to_come:
            return None
        self._validated = True
        left_s = (self._steps - step) * self._step_s + to_come * validation_s
        return (
            f"validation took {duration(validation_s)}: about {duration(left_s)} left with "
            f"{to_come} more of them"
        )

    def _line(self, step: int, step_s: float, measured: str) -> str:
        self._step_s = step_s
        left = self._steps - step
        steps = f"{left} of {self._steps} steps left" if self._start else f"{self._steps} steps"
        validations = self._validations(step)
        uncounted = f" and {validations} validation" + ("s" if validations > 1 else "")
        return (
            f"{steps}: about {duration(left * step_s)}{uncounted if validations else ''} on this "
            f"machine at {rate(step_s)} (measured over {measured}), a checkpoint every "
            f"{self._checkpoint_every} steps; stop with Ctrl-C, go on with resume=true"
        )

    def _validations(self, step: int) -> int:
        """Validations after step number `step`; the last step has one always."""
        if not self._validate_every:
            return int(step < self._steps)
        return -(-self._steps // self._validate_every) - step // self._validate_every


def duration(seconds: float) -> str:
    """A time as people say it: 0.4 s, 40 s, 42 min, 3 h 10 min, 2 days 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"


def rate(step_s: float) -> str:
    """Steps in a second, or seconds for a step where that is more than one."""
    return f"{1 / step_s:.1f} steps/s" if step_s <= 1 else f"{step_s:.1f} s per step"
