"""The curves of a training log: what is drawn, when, and what is left alone."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from imageio.v3 import imread

from telic.training.loss_curve import FEWEST, Curves, draw_log, figure
from telic.training.run_log import RunLog, WandbConfig, WandbMode


def lines(records: int, rollouts: bool = False) -> list[str]:
    """Return a log of so many training losses, 1/step, with a validation every 10 steps."""
    made = []
    for step in range(1, records + 1):
        made.append({"step": step, "loss": 1 / step, "grad_norm": 1.0})
        if step % 10 == 0:
            made.append({"step": step, "held_out_loss": 2 / step, "held_out_action_error": 0.1})
            if rollouts:
                made[-1] |= {"success": step / records, "failure_rate": 1 - step / records}
    return [json.dumps(one) for one in made]


def test_curves_are_those_of_the_log() -> None:
    curves = Curves.of([*lines(20, True), '{"step": 21, "loss": NaN}', '{"step": 22, "lo'])
    assert curves.training.steps == list(range(1, 21))
    assert curves.training.values == [1 / step for step in range(1, 21)]
    assert (curves.validation.steps, curves.validation.values) == ([10, 20], [0.2, 0.1])
    assert (curves.success.steps, curves.success.values) == ([10, 20], [0.5, 1.0])


def test_axes_are_named_and_a_legend_stands_where_there_are_several_curves() -> None:
    (losses,) = figure(Curves.of(lines(8)), "a run").axes
    assert (losses.get_xlabel(), losses.get_ylabel()) == ("optimizer step", "loss")
    assert losses.get_yscale() == "log" and losses.get_legend() is None
    losses, success = figure(Curves.of(lines(200, True)), "a run").axes
    legend = losses.get_legend()
    assert legend is not None
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["training loss", "training loss, running median", "validation loss"]
    assert (success.get_xlabel(), success.get_ylabel()) == ("optimizer step", "success rate")
    median = losses.get_lines()[1]
    assert np.allclose(median.get_xdata()[:2], [3, 8])  # medians of steps 1 to 5 and 6 to 10
    assert np.allclose(median.get_ydata()[:2], [1 / 3, 1 / 8])


def test_a_loss_that_is_negative_is_drawn_on_a_linear_scale() -> None:
    records = [json.dumps({"step": step, "loss": math.cos(step)}) for step in range(1, 9)]
    (losses,) = figure(Curves.of(records), "a run").axes
    assert losses.get_yscale() == "linear"


def test_a_picture_of_ours_is_replaced_and_another_is_not(tmp_path: Path) -> None:
    log, picture = tmp_path / "log.jsonl", tmp_path / "loss.png"
    log.write_text("\n".join(lines(FEWEST - 1)))
    assert not draw_log(log, picture, "a run") and not picture.exists()
    for records in (FEWEST, 30):
        log.write_text("\n".join(lines(records)))
        assert draw_log(log, picture, "a run")
        assert imread(picture).shape[:2] == (540, 960)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "loss.png"]
    picture.write_bytes(b"\x89PNG of mine")
    with pytest.raises(ValueError, match=r"loss\.png: is not a picture of training curves"):
        draw_log(log, picture, "a run")
    assert picture.read_bytes() == b"\x89PNG of mine"


def test_a_resumed_log_draws_the_whole_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = WandbConfig(mode=WandbMode.disabled)
    for start, stop in ((0, 6), (4, 8)):  # the second goes on from step 4
        with RunLog(tmp_path, None, quiet, steps=8, start=start) as log:
            for step in range(start + 1, stop + 1):
                log.write(step, {"loss": 1 / step})
            log.draw()
    assert Curves.of((tmp_path / "log.jsonl").open()).training.steps == list(range(1, 9))
    assert imread(tmp_path / "loss.png").shape[:2] == (540, 960)
    (tmp_path / "loss.png").write_bytes(b"mine")
    with RunLog(tmp_path, None, quiet, steps=9, start=8) as log:
        log.draw()
    assert "the curves are not drawn: " in capsys.readouterr().err
    assert (tmp_path / "loss.png").read_bytes() == b"mine"


def test_pyplot_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("\n".join(lines(20)))
    program = (
        "import sys; from pathlib import Path; from telic.training.loss_curve import draw_log;"
        "assert 'matplotlib' not in sys.modules;"
        "assert draw_log(Path('log.jsonl'), Path('loss.png'), 'a run');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
