"""Text from elsewhere is read where it is as small as such files are; all who read it say so."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from telic.datasets.formats.lerobot_layout import is_lerobot
from telic.datasets.relabel import read_sentences
from telic.envs.evaluation.results import read_evaluation
from telic.envs.playtable.instructions import read_language_file
from telic.text_files import LARGEST_TEXT, read_text
from telic.yaml_files import require_bounded


def _with_holes(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    os.truncate(path, 1 << 40)
    return path


def test_text_is_read_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("Grüße\n", encoding="utf-8")
    assert read_text(path) == "Grüße\n"
    os.truncate(path, LARGEST_TEXT + 1)
    with pytest.raises(ValueError, match=r"67,108,865 bytes; .* at most 67,108,864"):
        read_text(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="utf-8"):
        read_text(path)


@pytest.mark.parametrize("read", [read_sentences, read_language_file])
def test_sentences_of_holes_are_named(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    with pytest.raises(ValueError, match=r"sentences.yaml: it has 1,099,511,627,776 bytes"):
        read(_with_holes(tmp_path / "sentences.yaml"))


@pytest.mark.parametrize("read", [require_bounded, read_evaluation])
def test_a_file_of_holes_is_one_line(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    with pytest.raises(ValueError, match="1,099,511,627,776 bytes"):
        read(_with_holes(tmp_path / "file"))


def test_yaml_that_lies_too_deep_is_named(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text("a: " + "[" * 99 + "]" * 99)
    require_bounded(path)
    path.write_text("a: " + "[" * 50_000)
    with pytest.raises(ValueError, match=r"deep.yaml: line 1: .*100 deep"):
        require_bounded(path)


def test_a_description_of_holes_is_no_dataset(tmp_path: Path) -> None:
    _with_holes(tmp_path / "meta" / "info.json")
    assert not is_lerobot(tmp_path)
