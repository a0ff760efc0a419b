"""Episodes of a source into a store: goes on after a kill, leaves nothing of what is refused."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from telic.datasets.formats.converter import ImportOptions, add_import_options
from telic.datasets.formats.into_store import EpisodeData, Recordings, joined, write_store
from telic.datasets.formats.progress import tracked
from telic.datasets.formats.stated import with_statements
from telic.datasets.store import EpisodeStore, Segment
from telic.spec import Array, ArraySpec

FIELDS = {"action": ArraySpec(shape=(2,)), "image/top": ArraySpec(shape=(2, 3, 3), dtype="uint8")}


class SmallSource:
    """Five episodes; `stop_at` is where reading fails, and how."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "source"
        self.file.write_text("five")
        self.read_of: list[int] = []
        self.stop_at: tuple[int, BaseException] | None = None

    def read(self, index: int) -> EpisodeData:
        if self.stop_at is not None and index == self.stop_at[0]:
            raise self.stop_at[1]
        self.read_of.append(index)
        pictures = np.zeros((3, 2, 3, 3), np.uint8)
        pictures[:, 0, :, 0] = 100 + index  # the upper row is red
        data: dict[str, Array] = {
            "action": np.full((3, 2), index, np.float32),
            "image/top": pictures,
        }
        return data, [Segment(start=0, end=3, instruction="go")]

    def write(self, target: Path, overwrite: bool = False, **options: object) -> int:
        recordings = Recordings(
            fields=FIELDS, rate_hz=10.0, num_episodes=5, read=self.read, files=[self.file]
        )
        chosen = ImportOptions(**options)  # type: ignore[arg-type]
        return write_store(recordings, self.file, target, chosen, overwrite)


@pytest.fixture
def source(tmp_path: Path) -> SmallSource:
    """Return a source."""
    return SmallSource(tmp_path)


def unfinished(folder: Path) -> Path:
    """Return what a conversion left that did not end."""
    (path,) = folder.glob(".demos.zarr.*.unfinished")
    return path


def test_a_killed_conversion_goes_on(
    source: SmallSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "demos.zarr"
    source.stop_at = (3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        source.write(target)
    assert not target.exists() and unfinished(tmp_path).is_dir()
    source.stop_at, source.read_of = None, []
    assert source.write(target) == 5
    assert source.read_of == [3, 4]
    assert "going on after 3 of 5" in capsys.readouterr().err
    store = EpisodeStore.open(target)
    assert [episode["action"][0, 0] for episode in store] == [0, 1, 2, 3, 4]
    assert {path.name for path in tmp_path.iterdir()} == {"source", "demos.zarr"}


@pytest.mark.parametrize("change", ["source", "options", "damage"])
def test_another_conversion_begins_anew(source: SmallSource, tmp_path: Path, change: str) -> None:
    target = tmp_path / "demos.zarr"
    source.stop_at = (3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        source.write(target)
    source.stop_at, source.read_of = None, []
    if change == "source":
        source.file.write_text("other five")
    if change == "damage":
        meta = {"zarr_format": 3, "node_type": "group", "attributes": {"format": "telic-episodes"}}
        (unfinished(tmp_path) / "zarr.json").write_text(json.dumps(meta))
    assert source.write(target, task="other" if change == "options" else "") == 5
    assert source.read_of == [0, 1, 2, 3, 4]
    assert {path.name for path in tmp_path.iterdir()} == {"source", "demos.zarr"}


def test_what_is_refused_leaves_nothing(source: SmallSource, tmp_path: Path) -> None:
    target = tmp_path / "demos.zarr"
    source.stop_at = (3, ValueError("source: frame 7 is truncated"))
    with pytest.raises(ValueError, match="frame 7 is truncated"):
        source.write(target)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    source.stop_at = None
    source.write(target)
    with pytest.raises(ValueError, match="is already there; --overwrite replaces it"):
        source.write(target)
    source.stop_at = (1, ValueError("source: damaged"))
    with pytest.raises(ValueError, match="source: damaged"):
        source.write(target, overwrite=True)
    assert EpisodeStore.open(target).num_episodes == 5


def test_of_two_conversions_at_once_the_second_is_refused(
    source: SmallSource, tmp_path: Path
) -> None:
    target = tmp_path / "demos.zarr"
    source.stop_at = (3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        source.write(target)
    for options in ({}, {"task": "other"}):
        with (
            EpisodeStore.open(unfinished(tmp_path), "a") as store,
            pytest.raises(ValueError, match="somebody is writing"),
        ):
            source.write(target, **options)
        assert store.num_episodes == 3 and unfinished(tmp_path).is_dir()


def test_pictures_are_turned_as_the_user_says(source: SmallSource, tmp_path: Path) -> None:
    source.write(tmp_path / "a.zarr", colours="bgr", flip="rows")
    pictures = EpisodeStore.open(tmp_path / "a.zarr").read("image/top", 0, 1)[0]
    assert (pictures[1, :, 2] == 100).all() and (pictures[0] == 0).all()  # below, and blue


def test_the_meaning_is_stated_by_the_user() -> None:
    options = ImportOptions(
        action_is=["unit=m", "gripper=positive_opens", "names=x,grip", "minimum=-1", "frame=base"]
    )
    action = with_statements(FIELDS, options)["action"]
    assert (action.unit, action.gripper, action.names) == ("m", "positive_opens", ("x", "grip"))
    assert action.minimum == (-1.0,) and action.frame == "base"
    for said, why in (
        (["unti=m"], "did you mean unit"),
        (["unit"], "is not KEY=VALUE"),
        (["gripper=opens"], "positive_opens"),
        (["names=a"], "1 names do not label"),
        (["minimum=low"], "needs one number"),
        (["unit=m", "unit=mm"], "stated twice"),
    ):
        with pytest.raises(ValueError, match=rf"--action-is: .*{why}"):
            with_statements(FIELDS, ImportOptions(action_is=said))
    with pytest.raises(ValueError, match="--state-is: the source has no state"):
        with_statements(FIELDS, ImportOptions(state_is=["unit=m"]))


def test_the_command_line_has_all_options() -> None:
    parser = argparse.ArgumentParser()
    add_import_options(parser.add_argument_group("x"))
    parsed = parser.parse_args(["--rate-hz", "5", "--action-is", "unit=m", "--flip", "both"])
    assert ImportOptions.of(parsed) == ImportOptions(
        rate_hz=5.0, action_is=["unit=m"], state_is=[], flip="both"
    )


def test_arrays_are_joined_or_refused() -> None:
    arrays: dict[str, Array] = {"a": np.zeros((2, 3)), "b": np.ones(2), "c": np.ones(3)}
    assert joined("here", arrays, ["b", "a"]).tolist() == [[1, 0, 0, 0]] * 2
    with pytest.raises(ValueError, match=r"here: arrays differ .*: a 2, c 3"):
        joined("here", arrays, ["a", "c"])
    with pytest.raises(ValueError, match="here: has no aa; did you mean a"):
        joined("here", arrays, ["aa"])
    with pytest.raises(ValueError, match="has dtype <U1, expected numbers"):
        joined("here", {"t": np.array(["x"])}, ["t"])


def test_progress_counts_from_where_it_goes_on() -> None:
    assert list(tracked(2, 5, "x")) == [2, 3, 4]


def test_arrays_without_steps_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^a.hdf5: action has no steps$"):
        joined("a.hdf5", {"action": np.empty((0, 14))}, ["action"])
