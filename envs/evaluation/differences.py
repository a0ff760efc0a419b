"""For people: by how much each row of an evaluation differs from the protocol's reference row."""

from __future__ import annotations

from telic.envs.evaluation.results import Evaluation
from telic.envs.evaluation.statistics import PairedDifference


def difference_lines(evaluation: Evaluation) -> list[str]:
    """Return the section of report.md; nothing where the protocol has no reference row."""
    reference = evaluation.protocol.reference
    if reference is None:
        return []
    rows = [
        f"| {row.rpartition('/')[2]} | {pair.pairs} | {_signed(pair)} | {_p(pair)} |"
        for row, pair in evaluation.differences().items()
        if pair.pairs
    ]
    return [
        f"## Against {reference} sentences",
        "",
        f"Success minus that of `{reference}` from the same starts, with Tango's 95 % score "
        "interval and McNemar's exact two-sided p. A start counts once for each sentence that it "
        "was met with.",
        "",
        "| row | pairs | difference [95 %] | p |",
        "| --- | ---: | ---: | ---: |",
        *rows,
        "",
    ]


def difference_note(evaluation: Evaluation) -> list[str]:
    """Return a line on the overall row; nothing where the protocol has no reference row."""
    reference, overall = evaluation.protocol.reference, evaluation.protocol.overall
    if reference is None:
        return []
    pair = evaluation.differences()[overall]
    return [f"{overall} minus {reference}: {_signed(pair)} over {pair.pairs} pairs"]


def _signed(pair: PairedDifference) -> str:
    low, high = pair.interval
    return f"{pair.difference:+.3f} [{low:+.3f}, {high:+.3f}]"


def _p(pair: PairedDifference) -> str:
    return "<.001" if pair.p < 0.001 else f"{pair.p:.3f}"
