"""Metadata of a store that says something else than what lies there: one line, at once."""

import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from telic.datasets.store import EpisodeStore, Segment
from telic.datasets.validation import validate
from telic.datasets.windows import WindowConfig, Windows

MakeStore = Callable[..., EpisodeStore]


@pytest.fixture
def path(make_store: MakeStore) -> Path:
    segments = [[Segment(start=0, end=n, instruction="push", task="t")] for n in (6, 9)]
    with make_store([6, 9], segments) as store:
        store.write_embeddings("encoder", np.ones((1, 4)))
        return store.path


def use(path: Path) -> None:
    """Do all that is done with a store without writing to it."""
    store = EpisodeStore.open(path)
    assert store.stats and len(store.segments) <= 2
    for encoder in store.encoders:
        store.read_embeddings(encoder)
    windows = Windows(store, WindowConfig())
    windows.batch(np.arange(len(windows)))


def outcomes(path: Path) -> Iterator[ValueError]:
    """Yield the errors of reading, opening to write, and validating, none of which may hang."""
    began = time.monotonic()
    for action in (
        use,
        lambda where: EpisodeStore.open(where, "a").close(),
        lambda where: [str(finding) for finding in validate(where, deep=True)],
    ):
        try:
            action(path)
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error) and len(str(error)) < 600
            yield error
    assert time.monotonic() - began < 30


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in JSON data."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*at, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value[:2]):
            yield from places(inner, (*at, number))


ODD = [None, True, -1, 0, 10**12, 1.5, float("nan"), "", "object", [], [10**12], {}, {"name": "x"}]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "data/state",
        "data/image/front",
        "meta/episode_ends",
        "meta/segments",
        "meta/instructions",
        "meta/stats/state",
        "meta/embeddings/encoder",
    ],
)
def test_any_odd_value_is_one_line_or_does_no_harm(path: Path, name: str) -> None:
    file = path / name / "zarr.json"
    text = file.read_text()
    meta = json.loads(text)
    rng = np.random.default_rng(len(name))
    refused = 0
    for at in places(meta):
        for odd in (ODD[i] for i in rng.choice(len(ODD), 2, replace=False)):
            changed = copy.deepcopy(meta)
            inner = changed
            for key in at[:-1]:
                inner = inner[key]
            inner[at[-1]] = odd
            file.write_text(json.dumps(changed))
            refused += bool(list(outcomes(path)))
    file.write_text(text)
    assert refused > 3 and not list(outcomes(path))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("data/state", {"shape": [10**12, 3]}, None),
        ("meta/episode_ends", {"shape": [10**12]}, "is missing"),
        ("data/state", {"codecs": [{"name": "bytes"}, {"name": "lzma"}]}, "has codecs bytes, lzma"),
        ("data/state", {"codecs": [{"name": "pickle"}]}, "has codecs pickle, expected bytes and"),
        ("data/state", {"data_type": "object"}, "has data_type 'object', expected a kind of num"),
        ("data/state", {"shape": [15, -3]}, "has shape"),
        ("data/state", {"shape": [True, 3]}, "has shape"),
        ("data/state", {"shape": [15.0, 3]}, "has shape"),
        ("data/state", {"node_type": "group"}, "is a group, expected an array"),
        ("data/state", {"zarr_format": 2}, "not zarr format 3"),
        ("data/state", {"attributes": [1]}, "attributes are"),
    ],
)
def test_what_is_said(path: Path, name: str, change: dict[str, Any], says: str | None) -> None:
    file = path / name / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    told = [str(error) for error in outcomes(path)]
    assert (says is None and not told) or (told and all(str(says) in text for text in told)), told


def lose(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).unlink()


def make_pipe(name: str) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        (path / name).unlink()
        os.mkfifo(path / name)

    return damage


def make_folder(name: str) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        (path / name).unlink()
        (path / name).mkdir()

    return damage


def to_itself(path: Path) -> None:
    (path / "data/state/c.0.0").unlink()
    (path / "data/state/c.0.0").symlink_to("c.0.0")


def other_layout(path: Path) -> None:
    """The same field as another program would write it."""
    group = zarr.open_group(path, mode="r+")
    rows = group["data/state"][:]
    del group["data/state"]
    group.create_array("data/state", data=rows, chunks=(4, 3))


@pytest.mark.parametrize(
    "damage",
    [
        *(kind(n) for kind in (lose, make_pipe, make_folder) for n in ("zarr.json",)),
        *(kind("data/state/c.0.0") for kind in (lose, make_pipe, make_folder)),
        *(kind("data/state/zarr.json") for kind in (lose, make_pipe, make_folder)),
        *(kind("meta/episode_ends/c.0") for kind in (lose, make_pipe, make_folder)),
        to_itself,
        other_layout,
    ],
)
def test_what_is_no_file_is_one_line(path: Path, damage: Callable[[Path], object]) -> None:
    damage(path)
    assert list(outcomes(path))
