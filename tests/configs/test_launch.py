"""A command line becomes a dataclass, and whatever is wrong with it one line and exit code 2."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from telic.spec import warnings_in_one_line

PROGRAM = """
import signal
from dataclasses import dataclass, field
from enum import Enum

from telic.configs.launch import launch


class Colour(Enum):
    red = "red"


@dataclass(kw_only=True, slots=True)
class Inner:
    rate: float = 1.0
    tasks: list[str] = field(default_factory=lambda: ["mt10"])


@dataclass(kw_only=True, slots=True)
class ControlConfig:
    out: str = "runs"
    colour: Colour = Colour.red
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        if self.out == "bad":
            raise ValueError("out=bad: choose another folder")


def run(config):
    if config.out == "full":
        raise OSError(28, "No space left on device", "demos.zarr")
    if config.out == "bug":
        raise KeyError("ours")
    if config.out == "stop":
        raise KeyboardInterrupt(int(signal.SIGTERM))
    print(config)


launch(ControlConfig, run, "control")
"""


def launched(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return how the command above ended, run from another folder."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return subprocess.run(
        [sys.executable, str(program), *arguments], cwd=tmp_path, capture_output=True, text=True
    )


def test_overrides_reach_the_dataclass(tmp_path: Path) -> None:
    done = launched(tmp_path, "inner.rate=3", "inner.tasks=[a,b]")
    assert done.returncode == 0, done.stderr
    assert "rate=3.0, tasks=['a', 'b']" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


@pytest.mark.parametrize(
    "text", ["what's there", "open (the) drawer", "Öffne die Schublade", "a=b", "one, two", " "]
)
def test_plain_text_arrives_as_it_was_typed(tmp_path: Path, text: str) -> None:
    done = launched(tmp_path, f"out={text}", f"inner.tasks=[{text},b]")
    assert done.returncode == 0, done.stderr
    assert f"out={text!r}" in done.stdout


def test_each_job_of_a_sweep_has_an_out_of_its_own(tmp_path: Path) -> None:
    done = launched(tmp_path, "-m", "inner.rate=1,2", "out=it's (here)")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "control: job 0, inner.rate=1: out=it's (here)/0",
        "control: job 1, inner.rate=2: out=it's (here)/1",
    ]
    for number, line in enumerate(done.stdout.strip().splitlines()):
        assert f"it's (here)/{number}" in line and f"rate={number + 1}.0" in line
    done = launched(tmp_path, "-m", "inner.rate=1,2", "out=demos.zarr")
    assert "out='demos_0.zarr'" in done.stdout and "out='demos_1.zarr'" in done.stdout


def test_an_out_that_is_swept_is_left_alone(tmp_path: Path) -> None:
    done = launched(tmp_path, "-m", "out=it's,b c")
    assert (done.returncode, done.stderr) == (0, "")
    assert "it's" in done.stdout and "out='b c'" in done.stdout


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("inner.tasks=mt10", "inner.tasks=mt10 must be a list: inner.tasks=[mt10]"),
        ("outt=3", "outt is not a config key; did you mean out"),
        ("inner.rat=3", "inner.rat is not a config key; did you mean inner.rate"),
        ("+inner.x=3", "x is not a config key"),
        ("+x=3", "x is not a config key"),
        ("inner.rate=abc", "'abc'"),
        ("colour=blue", "blue"),
        ("inner.tasks=[", "'['"),
        ("out=bad", "out=bad: choose another folder"),
        ("out=full", "No space left on device"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, argument: str, says: str) -> None:
    done = launched(tmp_path, argument)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert says in done.stderr


def test_an_unknown_recipe_is_one_line_with_near_misses(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "telic.collect", "experiment=metaworld_mt5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "collect: experiment=metaworld_mt5 is not one of debug, metaworld"
    )
    assert "; did you mean metaworld_mt50, " in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_our_own_bugs_keep_their_traceback(tmp_path: Path) -> None:
    done = launched(tmp_path, "out=bug")
    assert done.returncode == 1
    assert "KeyError" in done.stderr


def test_a_stop_signal_is_the_exit_code(tmp_path: Path) -> None:
    done = launched(tmp_path, "out=stop")
    assert (done.returncode, done.stderr) == (143, "control: stopped by SIGTERM\n")


def test_warnings_for_people_are_one_line_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = warnings.formatwarning
    monkeypatch.setattr(warnings, "formatwarning", usual)
    warnings_in_one_line()
    ours = warnings.formatwarning(UserWarning("a delay\n  of 3"), UserWarning, "prefix.py", 7)
    assert ours == "warning: a delay of 3\n"
    other = (RuntimeWarning("overflow"), RuntimeWarning, "sum.py", 8)
    assert warnings.formatwarning(*other) == usual(*other)
