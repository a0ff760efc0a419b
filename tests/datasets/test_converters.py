"""Conformance: every format is converted, whole and checked, by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from telic.datasets.cli import main
from telic.datasets.converters import CONVERTERS, converter_for
from telic.datasets.store import EpisodeStore
from telic.datasets.validation import validate


def run(*arguments: object) -> int:
    """Return the exit code of `demo-store` with these arguments."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", CONVERTERS)
def test_three_episodes_are_converted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converter = CONVERTERS[name]
    for module in converter.needs:
        pytest.importorskip(module, reason=f"{module} is not installed")
    source = converter.small(tmp_path)
    target = tmp_path / f"target{converter.suffix}"
    assert converter_for(source, target=target) is converter
    assert run("convert", source, target, *converter.arguments) == 0
    assert capsys.readouterr().out == f"{target}: 3 episodes from {source}\n"
    again = (*converter.arguments, "--format", name)
    assert run("convert", source, target, *again) == 2  # it is there
    assert "--overwrite" in capsys.readouterr().err
    assert run("convert", source, target, *again, "--overwrite") == 0
    if converter.suffix == ".zarr":
        assert EpisodeStore.open(target).num_episodes == 3
        assert list(validate(target, deep=True)) == []


def test_an_unknown_format_offers_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", "a", "b", "--format", "to_robomimik") == 2
    assert "did you mean to_robomimic" in capsys.readouterr().err


def test_of_several_formats_the_target_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = CONVERTERS["to_robomimic"].small(tmp_path)
    assert converter_for(source, target=tmp_path / "a.hdf5") is CONVERTERS["to_robomimic"]
    assert converter_for(source, target=tmp_path / "folder") is CONVERTERS["to_lerobot"]
    with pytest.raises(ValueError, match=r"a\.tar: its ending tells no format; pass --format"):
        converter_for(source, target=tmp_path / "a.tar")
    assert run("convert", source, tmp_path / "a.tar", "--to", "robomimic") == 0
    assert run("convert", source, tmp_path / "b.tar", "--to", "robomimik") == 2
    assert "did you mean robomimic" in capsys.readouterr().err
