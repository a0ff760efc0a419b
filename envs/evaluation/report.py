"""An evaluation for people: a table in the terminal, report.md, a plot of rates and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from telic.envs.evaluation.differences import difference_lines, difference_note
from telic.envs.evaluation.outputs import FIGURE, MARK, Outputs
from telic.envs.evaluation.results import Comparison, Evaluation, Latency, Score, SuccessRow
from telic.envs.evaluation.statistics import Interval, PairedDifference
from telic.envs.rollout.rollout import crash_list

BLUE, GREY, INK = "#1f5fa8", "#8a8f98", "#22252a"


def table(evaluation: Evaluation, comparison: Comparison | None = None) -> Group:
    """Return the terminal's table: one row per task and one over all; fits 80 columns."""
    result = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    columns, rows = _columns(comparison), _rows(evaluation, comparison)
    left_out = {"crashed"} if not evaluation.overall().crashed else set()
    if comparison is not None:
        left_out |= {"success", "steps", comparison.second}  # the report has them
    kept = [index for index, name in enumerate(columns) if name not in left_out]
    for index in kept:
        result.add_column(columns[index], justify="right" if index else "left", no_wrap=True)
    for row in rows:
        if row is rows[-1]:
            result.add_section()
        result.add_row(*(row[index] for index in kept), style="bold" if row is rows[-1] else None)
    return Group(
        Text(_title(evaluation), style="bold"),
        result,
        *map(Text, _footnotes(evaluation, comparison)),
    )


def write_report(
    evaluation: Evaluation, comparison: Comparison | None, folder: Path, overwrite: bool = False
) -> None:
    """Write `folder`/report.md and the success.png it shows. ValueError where they cannot be."""
    outputs = Outputs(folder=folder, overwrite=overwrite)
    drawn = figure(evaluation, comparison)
    with outputs.plot.writing() as fresh:
        drawn.savefig(fresh, dpi=150, metadata={"Title": MARK})
    rows = _rows(evaluation, comparison)
    columns = _columns(comparison)
    lines = [
        f"# {_title(evaluation)}",
        "",
        *_headline(evaluation),
        "",
        FIGURE,
        "",
        _markdown_row(columns),
        _markdown_row(["---" if name == "task" else "---:" for name in columns]),
        *(_markdown_row(row) for row in rows),
        "",
        *_legend(evaluation, comparison),
        "",
        *difference_lines(evaluation),
        *_latency_lines(evaluation),
        *_video_lines(evaluation),
        *_crash_lines(evaluation),
        "## How it was measured",
        "",
        *_about_lines(evaluation),
    ]
    with outputs.report.writing() as fresh:
        fresh.write_text("\n".join(lines).rstrip() + "\n")


def figure(evaluation: Evaluation, comparison: Comparison | None = None) -> Figure:
    """Return success rates with their intervals; beside them, where compared, the differences."""
    with rc_context({"text.parse_math": False}):  # "$" in a name is a "$"
        return _figure(evaluation, comparison)


def _figure(evaluation: Evaluation, comparison: Comparison | None) -> Figure:
    rows = list(evaluation.rows().items())
    names = [_short_name(task) for task, _ in rows]
    size = (7.2 if comparison is None else 10.4, 1.5 + 0.3 * len(rows))
    drawn = Figure(figsize=size, layout="constrained")
    if comparison is None:
        left = drawn.subplots()
    else:
        left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        compared = _compared(comparison)
        _draw_differences(right, [pair for pair, _ in compared], comparison.second)
        _draw_others(left, [other for _, other in compared])
    _draw_rates(left, [row for _, row in rows])
    if comparison is not None:
        left.set_xlabel(f"{left.get_xlabel()}; rings: {comparison.second}")
    left.set_yticks(range(len(rows)), names)
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.get_yticklabels()[-1].set_fontweight("bold")
    drawn.suptitle(_title(evaluation), x=0.01, ha="left", fontsize=11, color=INK)
    return drawn


def _draw_rates(axes: Axes, rows: Sequence[SuccessRow]) -> None:
    for y, row in enumerate(rows):
        if row.success is None:
            continue
        _whisker(axes, y, row.success, row.interval, BLUE, last=y == len(rows) - 1)
        label = f"{row.successes}/{row.episodes}"
        axes.annotate(label, (1.03, y), va="center", fontsize=8, color=INK, annotation_clip=False)
    _style(axes, "success rate, Wilson 95 %", len(rows))
    axes.set_xlim(-0.02, 1.02)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])


def _draw_others(axes: Axes, rows: Sequence[SuccessRow]) -> None:
    """Mark the compared policy's rates by rings, behind ours."""
    for y, row in enumerate(rows):
        if row.success is not None:
            axes.plot(row.success, y, "o", color=GREY, fillstyle="none", markersize=10, mew=1.5)


def _draw_differences(axes: Axes, rows: Sequence[PairedDifference], second: str) -> None:
    axes.axvline(0, color=INK, linewidth=0.8)
    for y, row in enumerate(rows):
        sure = row.interval.low > 0 or row.interval.high < 0
        _whisker(axes, y, row.difference, row.interval, BLUE if sure else GREY, y == len(rows) - 1)
    _style(axes, f"difference to {second}, Tango 95 %", len(rows))
    limit = max(abs(end) for row in rows for end in row.interval)
    axes.set_xlim(-1.05 * limit, 1.05 * limit)


def _whisker(axes: Axes, y: int, value: float, interval: Interval, colour: str, last: bool) -> None:
    axes.plot(interval, (y, y), color=colour, linewidth=2.6 if last else 1.6, alpha=0.6)
    axes.plot(value, y, marker="D" if last else "o", color=colour, markersize=6, clip_on=False)


def _style(axes: Axes, label: str, rows: int) -> None:
    axes.set_xlabel(label, fontsize=9, color=INK)
    axes.axhline(rows - 1.5, color=GREY, linewidth=0.6)
    axes.grid(axis="x", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    for side in axes.spines.values():
        side.set_visible(False)


def _title(evaluation: Evaluation) -> str:
    protocol = evaluation.protocol
    partial = (
        "" if evaluation.complete else f", unfinished: {len(evaluation.episodes)} {protocol.what}"
    )
    return f"{evaluation.policy}: {protocol.title()}{partial}"


def _headline(evaluation: Evaluation) -> list[str]:
    """Return the score, where there is one, and the overall success."""
    protocol, overall = evaluation.protocol, evaluation.overall()
    label = "success" if protocol.score_name is None else protocol.overall
    success = f"**{label} {_rate(overall)}**, {overall.successes} of {overall.episodes}"
    crashed = f"; {overall.crashed} crashed, not counted" if overall.crashed else ""
    score = _score(evaluation)
    scored = [] if score is None else [f"**{protocol.score_name} {_score_text(score)}**; "]
    return [f"{''.join(scored)}{success} {protocol.what}{crashed}"]


def _score(evaluation: Evaluation) -> Score | None:
    return Score.of(list(evaluation.scores().values()))


def _score_text(score: Score, sign: str = "") -> str:
    low, high = score.interval
    return f"{score.mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _columns(comparison: Comparison | None) -> list[str]:
    columns = ["task", "success", "rate [95 %]", "steps", "crashed"]
    return columns + ([comparison.second, "difference [95 %]", "p"] if comparison else [])


def _rows(evaluation: Evaluation, comparison: Comparison | None) -> list[list[str]]:
    """Return the cells of every row; the last is the overall one."""
    rows = []
    compared = [] if comparison is None else _compared(comparison)
    for number, (task, row) in enumerate(evaluation.rows().items()):
        cells = [
            _short_name(task),
            f"{row.successes}/{row.episodes}",
            _rate(row),
            "-" if row.steps_to_success is None else f"{row.steps_to_success:.0f}",
            str(row.crashed) if row.crashed else "",
        ]
        if comparison is not None:
            pair, other = compared[number]
            low, high = pair.interval
            cells += [
                "-" if other.success is None else f"{other.success:.3f}",
                f"{pair.difference:+.3f} [{low:+.3f}, {high:+.3f}]" if pair.pairs else "-",
                "<.001" if pair.p < 0.001 else f"{pair.p:.3f}",
            ]
        rows.append(cells)
    return rows


def _compared(comparison: Comparison) -> list[tuple[PairedDifference, SuccessRow]]:
    """Return for every row, the overall one last, the difference and the second one's success."""
    rows = [(pair, comparison.second_per_row[row]) for row, pair in comparison.per_row.items()]
    return [*rows, (comparison.overall, comparison.second_overall)]


def _footnotes(evaluation: Evaluation, comparison: Comparison | None) -> list[str]:
    protocol, crashed = evaluation.protocol, evaluation.overall().crashed
    lines = (
        [f"{crashed} crashed {protocol.what} are not counted: {crash_list(evaluation.episodes)}"]
        if crashed
        else []
    )
    if (score := _score(evaluation)) is not None:
        lines.insert(0, f"{protocol.score_name} {_score_text(score)}")
    lines += difference_note(evaluation)
    lines += _goal_lines(evaluation)
    for label, latency in _latencies(evaluation):
        lines.append(f"{label}: median {latency.median:.1f} ms, p95 {latency.p95:.1f} ms")
    if comparison is not None:
        left_out = f", {comparison.left_out} left out" if comparison.left_out else ""
        if comparison.score is not None:
            difference = _score_text(comparison.score, "+")
            lines.append(f"{protocol.score_name} minus {comparison.second}'s: {difference}")
        lines.append(
            f"difference to {comparison.second} over {comparison.overall.pairs} pairs{left_out}; "
            "p: McNemar"
        )
    return lines


def _legend(evaluation: Evaluation, comparison: Comparison | None) -> list[str]:
    protocol = evaluation.protocol
    lines = [
        "Rates carry Wilson's 95 % interval; steps is the median over the successful episodes."
    ]
    if protocol.score_name is not None:
        lines.append(
            f"The {protocol.score_name} carries a bootstrap interval of 95 % (10000 resamples of "
            f"the {protocol.what})."
        )
    lines += _goal_lines(evaluation)
    if comparison is not None:
        lines.append(
            f"The difference is {comparison.first} minus {comparison.second} over "
            f"{comparison.overall.pairs} pairs of the same episode, with Tango's 95 % score "
            f"interval and McNemar's exact two-sided p; {comparison.left_out} episodes that "
            "crashed or were not run in one of the two are left out."
        )
        if comparison.score is not None:
            lines.append(
                f"The {protocol.score_name} differs by {_score_text(comparison.score, '+')}."
            )
    return lines


def _goal_lines(evaluation: Evaluation) -> list[str]:
    """Return how many goals were shown by a picture in which they are not reached, if any."""
    if not (unreached := evaluation.goals_unreached):
        return []
    return [f"Pictures of goals that no expert reached, shown as the last one left it: {unreached}"]


def _latencies(evaluation: Evaluation) -> list[tuple[str, Latency]]:
    pairs = [
        ("one chunk at batch 1", evaluation.chunk_latency_ms),
        ("a batched call, as each waiting episode saw it", evaluation.batch_latency_ms),
    ]
    return [(label, latency) for label, latency in pairs if latency is not None]


def _latency_lines(evaluation: Evaluation) -> list[str]:
    rows = [
        _markdown_row([label, f"{each.median:.2f}", f"{each.p95:.2f}", str(each.calls)])
        for label, each in _latencies(evaluation)
    ]
    if not rows:
        return []
    head = ["policy latency, ms", "median", "p95", "samples"]
    return [_markdown_row(head), _markdown_row(["---", "---:", "---:", "---:"]), *rows, ""]


def _video_lines(evaluation: Evaluation) -> list[str]:
    links = [
        f"- {_short_name(task)}: " + ", ".join(f"[{Path(p).stem}]({p})" for p in paths)
        for task, paths in evaluation.videos.items()
        if paths
    ]
    return ["## Videos", "", *links, ""] if links else []


def _crash_lines(evaluation: Evaluation) -> list[str]:
    lines = [
        f"- {e.task}, seed {e.seed}: {e.crashed}"
        for e in evaluation.episodes
        if e.crashed is not None
    ]
    return ["## Crashed episodes", "", *lines, ""] if lines else []


def _about_lines(evaluation: Evaluation) -> list[str]:
    settings = {name: value for name, value in evaluation.about.items() if name != "config"}
    command = settings.pop("command", None)
    lines = [f"- {name}: {_plain(value)}" for name, value in settings.items()]
    return ([] if command is None else ["```", command, "```", ""]) + lines


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={_plain(v)}" for k, v in value.items())
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, list) else str(value)


def _rate(row: SuccessRow) -> str:
    if row.success is None:
        return "-"
    return f"{row.success:.3f} [{row.interval.low:.3f}, {row.interval.high:.3f}]"


def _short_name(task: str) -> str:
    return task.rpartition("/")[2]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
