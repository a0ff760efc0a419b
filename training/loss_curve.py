"""`loss.png`: the curves of a training log, drawn without a display."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from telic.replacement import Kind, Replacement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST = 5  # records of the training loss below which there is no curve to draw
_MARK = b"telic training curves"  # in the picture's own text, by which it is known again
_SMOOTHED_OVER = 40  # parts of the run, over each of which the smoothed loss is the median
_BLUE, _ORANGE, _GREEN, _GREY = "#1f5fa8", "#d1600a", "#2c7a3f", "#9db8d6"


@dataclass(slots=True)
class Curve:
    """Values over steps, both in the order of the log."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: object) -> None:
        """Append a point, unless it is not a finite number."""
        if isinstance(value, (int, float)) and math.isfinite(value):
            self.steps.append(step)
            self.values.append(float(value))


@dataclass(slots=True)
class Curves:
    """Training loss, validation loss and success rate of a run, each over optimizer steps."""

    training: Curve = field(default_factory=Curve)
    validation: Curve = field(default_factory=Curve)
    success: Curve = field(default_factory=Curve)

    @classmethod
    def of(cls, lines: Iterable[str]) -> Curves:
        """The curves of a log's lines; a line cut off by a kill counts for nothing."""
        curves = cls()
        for line in lines:
            try:
                record = json.loads(line)
                step = int(record["step"])
            except (ValueError, KeyError, TypeError):
                continue
            curves.training.add(step, record.get("loss"))
            curves.validation.add(step, record.get("held_out_loss"))
            curves.success.add(step, record.get("success"))
        return curves


def draw_log(log: Path, picture: Path, title: str) -> bool:
    """Write the curves of the file `log` to `picture` in one step; False if there are too few.

    ValueError where `picture` is not one of ours or cannot be written.
    """
    with log.open() as lines:
        curves = Curves.of(lines)
    if len(curves.training.steps) < FEWEST:
        return False
    with Replacement(picture, PICTURE, overwrite=True).writing() as fresh:
        figure(curves, title).savefig(fresh, format="png", metadata={"Title": _MARK.decode()})
    return True


def figure(curves: Curves, title: str) -> Figure:
    """The picture: losses (a log scale where they span much) and, after rollouts, success below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # here: it takes a second, and short runs do without

    rollouts = bool(curves.success.steps)
    drawn = Figure(figsize=(8, 6 if rollouts else 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(drawn)
    drawn.suptitle(title, fontsize=11)
    if rollouts:
        losses, success = drawn.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        _draw_success(success, curves.success)
        success.set_xlabel("optimizer step")
    else:
        losses = drawn.subplots()
        losses.set_xlabel("optimizer step")
    _draw_losses(losses, curves)
    return drawn


def _draw_losses(axes: Axes, curves: Curves) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    training, validation = curves.training, curves.validation
    smoothed = _medians(training)
    many = len(training.steps) > 2 * _SMOOTHED_OVER
    axes.plot(
        training.steps,
        training.values,
        color=_GREY if many else _BLUE,
        linewidth=0.8 if many else 1.4,
        label="training loss",
    )
    if many:
        axes.plot(*smoothed, color=_BLUE, linewidth=1.8, label="training loss, running median")
    if validation.steps:
        axes.plot(
            validation.steps,
            validation.values,
            color=_ORANGE,
            linewidth=1.8,
            marker="o",
            markersize=4,
            label="validation loss",
        )
    axes.set_ylabel("loss")
    values = [*training.values, *validation.values]
    spread = max(values) / min(values) if min(values) > 0 else 0.0
    if spread > 4:
        axes.set_yscale("log")
        if spread < 100:  # powers of ten alone would be too few to read by
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
    if many or validation.steps:
        axes.legend(frameon=False, fontsize=9)
    _plain(axes)


def _draw_success(axes: Axes, success: Curve) -> None:
    axes.plot(success.steps, success.values, color=_GREEN, linewidth=1.8, marker="o", markersize=4)
    axes.set_ylim(-0.04, 1.04)
    axes.set_ylabel("success rate")
    _plain(axes)


def _plain(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.grid(True, which="major", color="#e3e6ea", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
    axes.margins(x=0.02)


def _medians(curve: Curve) -> tuple[Sequence[float], Sequence[float]]:
    """Mean step and median value of each of `_SMOOTHED_OVER` equal parts of the curve."""
    parts = np.array_split(np.arange(len(curve.steps)), _SMOOTHED_OVER)
    steps, values = np.array(curve.steps, float), np.array(curve.values)
    kept = [part for part in parts if len(part)]
    return [float(steps[p].mean()) for p in kept], [float(np.median(values[p])) for p in kept]


def is_picture(path: Path) -> bool:
    """Whether training curves drawn by us stand at `path`."""
    try:
        with path.open("rb") as file:
            begin = file.read(512)
    except OSError:
        return False
    return begin.startswith(b"\x89PNG") and _MARK in begin


PICTURE = Kind("a picture of training curves", is_picture)
