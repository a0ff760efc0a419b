"""The report and the table for people: any name in them, and what stands when the rest fails."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from telic.configs.launch import compose
from telic.envs.evaluation.protocol import TaskProtocol
from telic.envs.evaluation.report import table, write_report
from telic.envs.evaluation.results import Evaluation, compare
from telic.evaluate import EvaluateConfig, run


def test_a_report_holds_any_name(tmp_path: Path) -> None:
    protocol = TaskProtocol(tasks=["odd/$x_$"], episodes_per_task=1, seed=0, max_steps=10)
    mine = Evaluation(policy="a $\\frac$ [/b] {c}", protocol=protocol)
    write_report(mine, compare(mine, replace(mine, policy="$\\frac$")), tmp_path)
    Console(file=io.StringIO(), markup=False).print(table(mine))
    assert (tmp_path / "success.png").stat().st_size > 1000
    assert "# a $\\frac$ [/b] {c}: 1 tasks" in (tmp_path / "report.md").read_text()


def test_what_was_finished_is_reported_when_the_rest_cannot_be_run(
    toy: str, toy_checkpoint: Path, tmp_path: Path
) -> None:
    given = [
        f"checkpoint={toy_checkpoint}",
        f"tasks=[{toy},arm7/raise]",
        f"out={tmp_path}",
        "episodes_per_task=2",
        "sampling=2",
        "num_workers=0",
        "envs_per_worker=1",
        "threads=1",
    ]
    with pytest.raises(ValueError, match=r"task arm7/raise: state has shape \(17,\), expected"):
        run(compose(EvaluateConfig, "evaluate", given))
    result = json.loads((tmp_path / "results.json").read_text())
    assert not result["complete"] and [e["task"] for e in result["episodes"]] == [toy, toy]
    assert "unfinished: 2 episodes" in (tmp_path / "report.md").read_text()
