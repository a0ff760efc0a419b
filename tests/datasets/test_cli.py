"""`demo-store`: what it shows, what it finds, and one line for what is wrong."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from telic.datasets.cli import main
from telic.datasets.store import EpisodeStore, Segment
from telic.spec import ArraySpec

MakeStore = Callable[..., EpisodeStore]
Damage = Callable[[Path], None]


@pytest.fixture
def store(make_store: MakeStore) -> EpisodeStore:
    """Return three episodes of 10, 20 and 15 steps, each labelled in its middle."""
    lengths = [10, 20, 15]
    segments = [[Segment(start=2, end=n - 2, instruction="push", task="push")] for n in lengths]
    with make_store(lengths, segments) as made:
        return made


def run(*arguments: object) -> int:
    """Return the exit code of the command."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def array(path: Path, name: str) -> zarr.Array[Any]:
    """Return an array of a store, through zarr-python."""
    return zarr.open_array(path, path=name, mode="r+")


def put(name: str, row: int, value: Any) -> Damage:
    """Return a defect: one row of an array overwritten."""

    def damage(path: Path) -> None:
        array(path, name)[row] = value

    return damage


def cut_file(path: Path) -> None:
    with (path / "data/state/c.0.0").open("r+b") as file:
        file.truncate(12 * 12 + 5)


def drop_file(path: Path) -> None:
    (path / "data/image/front/c.0.0.0.0").unlink()


def cut_array(path: Path) -> None:
    array(path, "data/action").resize((32, 2))


def other_dtype(path: Path) -> None:
    group = zarr.open_group(path, mode="r+")
    del group["data/state"]
    group.create_array("data/state", shape=(45, 3), chunks=(45, 3), dtype="f8", compressors=None)


DEFECTS: dict[str, tuple[Damage, str]] = {
    "nan": (put("data/state", 13, [0, np.nan, 0]), "episode 1 step 3: state entry 1 is nan, which"),
    "action": (put("data/action", 29, [0, -2]), "episode 1 step 19: action entry 1 is -2.0, below"),
    "time": (put("data/timestamp_ns", 35, 3), "episode 2 step 5: timestamp_ns is 3, not after the"),
    "ends": (put("meta/episode_ends", 1, 10), "episode 1 step 0: meta/episode_ends says 10, expec"),
    "short file": (cut_file, "episode 1 step 2: state has no data from here on,"),
    "lost file": (drop_file, "episode 0 step 0: image/front has no data from here on,"),
    "short array": (
        cut_array,
        "episode 2 step 2: action has no data from here on, the array has",
    ),
    "dtype": (
        other_dtype,
        "episode 0 step 0: state is float64 (3,) at every step, expected",
    ),
    "statistics": (
        put("meta/stats/state", 1, np.zeros((5, 3))),
        "episode 1 step 0: meta/stats/state does not fit the data of this episode",
    ),
    "picture": (
        put("data/image/front", 31, np.zeros((4, 5, 3))),
        "episode 2 step 0: meta/stats/image/front does not fit the data",
    ),
    "segment": (
        put("meta/segments", 1, [12, 31, 0, 0]),
        "episode 1 step 2: segment 1 of 19 steps: crosses the end of the episode",
    ),
    "empty segment": (
        put("meta/segments", 2, [33, 33, 0, 0]),
        "episode 2 step 3: segment 2 of 0 steps: expected 0 <= start < end",
    ),
    "instruction": (
        put("meta/segments", 0, [2, 8, 7, 0]),
        "episode 0 step 2: segment 0 of 6 steps: instruction_id 7 is not in meta/instructions",
    ),
    "task": (
        put("meta/segments", 0, [2, 8, 0, -1]),
        "episode 0 step 2: segment 0 of 6 steps: task_id -1 is not in meta/tasks",
    ),
    "sentence": (put("meta/instructions", 0, " "), "segment 0 of 6 steps: instruction 0 is empty"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_found_with_episode_and_step(
    store: EpisodeStore, capsys: pytest.CaptureFixture[str], defect: str
) -> None:
    assert run("validate", store.path) == 0
    assert "nothing wrong found" in capsys.readouterr().out
    damage, message = DEFECTS[defect]
    damage(store.path)
    assert run("validate", store.path) == 1
    assert message in capsys.readouterr().out


def test_many_findings_are_counted(store: EpisodeStore, capsys: pytest.CaptureFixture[str]) -> None:
    segments = array(store.path, "meta/segments")
    segments.resize((80, 4))
    segments[:] = np.tile([2, 8, 9, 9], (80, 1))
    assert run("validate", store.path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 52 and lines[-2:] == [
        "and 111 more; --all shows them",
        f"{store.path}: 160 findings, warnings: 1",
    ]
    assert run("validate", "--all", store.path) == 1
    assert len(capsys.readouterr().out.splitlines()) == 162


def test_info_shows_fields_and_tasks(
    store: EpisodeStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("info", store.path) == 0
    shown = capsys.readouterr().out
    for text in ("45 (10 to 20 each)", "20 Hz", "uint8 4x5x3", "push", "1 in 3 segments"):
        assert text in shown


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Return two episodes of named entries, one of them constant, with times and a camera."""
    fields = {
        "state": ArraySpec(shape=(3,), unit="m", names=("x", "y", "height"), frame="base"),
        "action": ArraySpec(shape=(2,), unit="m; gripper 1", note="the target"),
        "timestamp_ns": ArraySpec(shape=(), dtype="int64", unit="ns"),
        "image/front": ArraySpec(shape=(2, 4, 3), dtype="uint8"),
    }
    with EpisodeStore.create(tmp_path / "named.zarr", fields, rate_hz=10) as store:
        for steps, value in ((5, 1.0), (3, 3.0)):
            data = {
                "state": np.tile(np.array([value, 0.5 * value, 0.25], np.float32), (steps, 1)),
                "action": np.linspace([-1, 0], [1, value], steps, dtype=np.float32),
                "timestamp_ns": np.arange(steps) * 100_500_000,
                "image/front": np.full((steps, 2, 4, 3), 100 * value - 50, np.uint8),
            }
            store.append(data, [Segment(start=0, end=steps, instruction="go", task="go")])
    return tmp_path / "named.zarr"


def test_info_of_every_entry_as_json(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "--json", named) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["episodes"], info["steps"], info["segments"], info["sentences"]) == (2, 8, 2, 1)
    assert info["steps_per_episode"] == {"min": 3, "mean": 4.0, "max": 5}
    time = info["time"]
    assert (time["rate_hz"], time["seconds"]) == (10.0, 0.8)
    assert time["measured_rate_hz"] == pytest.approx(1 / 0.1005)
    assert time["longest_period_s"] == pytest.approx(0.1005)
    state, action, stamps = info["fields"]
    assert (state["unit"], state["frame"], stamps["name"]) == ("m", "base", "timestamp_ns")
    x, y, height = state["entries"]
    assert (x["name"], x["min"], x["max"], x["mean"], x["constant"]) == ("x", 1, 3, 1.75, False)
    assert x["std"] == pytest.approx(np.std([1] * 5 + [3] * 3))
    assert (y["q01"], y["q99"]) == (0.5, 1.5)
    assert (height["name"], height["mean"], height["constant"]) == ("height", 0.25, True)
    assert [entry["name"] for entry in action["entries"]] == ["0", "1"]
    (front,) = info["images"]
    assert (front["camera"], front["height"], front["width"]) == ("front", 2, 4)
    assert front["brightness"]["mean"] == pytest.approx((5 * 50 + 3 * 250) / 8)
    assert info["tasks"] == [
        {"task": "go", "segments": 2, "steps": 8, "sentences": 1, "example": "go"}
    ]


def test_info_fits_80_columns_and_marks_constants(
    named: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("info", named) == 0
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, shown)) <= 80
    rows = [line.split() for line in shown]
    assert ["height", "m", "0.25", "0.25", "0.25", "0", "0.25", "0.25", "constant"] in rows
    assert ["x", "m", "1", "3", "1.75", "0.9682", "1", "3"] in rows
    assert ["front", "uint8", "2x4x3", "50", "250", "125", "96.82", "50", "250"] in rows
    text = "\n".join(shown)
    assert "time       0.8 s at 10 Hz (0.3 to 0.5 s each)\n" in text
    assert "measured   9.95 Hz by timestamp_ns, longest period 100.5 ms\n" in text
    assert "action: float32 2, units m; gripper 1\nthe target\n" in text


def test_info_of_an_empty_store(make_store: MakeStore, capsys: pytest.CaptureFixture[str]) -> None:
    make_store([], name="empty.zarr").close()
    empty = make_store([], name="empty.zarr").path
    assert run("info", "--json", empty) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["episodes"], info["fields"][0]["entries"], info["tasks"]) == (0, [], [])
    assert run("info", empty) == 0
    assert "front" in capsys.readouterr().out


def test_wrong_input_is_one_line_and_exit_code_2(
    store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.hdf5").write_text("no")
    for arguments, message in (
        (("inf", store.path), "invalid choice: 'inf'.*did you mean info"),
        ((), "required: info|validate|convert"),
        (("info", tmp_path / "demo.zarr"), "no episode store here; did you mean demos.zarr?"),
        (("validate", tmp_path / "demo.zarr"), "no episode store here; did you mean demos.zarr?"),
        (("info", tmp_path / "folder"), "no zarr v3 array or group here"),
        (("validate", tmp_path / "folder"), "no zarr v3 array or group here"),
        (("convert", tmp_path / "text.hdf", "x.zarr"), "not there; did you mean text.hdf5?"),
        (("convert", tmp_path / "text.hdf5", tmp_path / "x.zarr"), "not readable as HDF5"),
        (("convert", store.path, tmp_path / "text.hdf5"), "is already there"),
    ):
        assert run(*arguments) == 2
        told = capsys.readouterr()
        assert told.out == "" and len(told.err.splitlines()) == 1
        for part in message.split(".*"):
            assert part in told.err


@pytest.mark.parametrize(
    ("fields", "labelled", "says"),
    [
        ({"image/front": "images/front"}, True, "images/front holds pictures that training does"),
        ({"image/front": "images/front"}, True, "name it image/front"),
        ({"action": "actions"}, True, "no field 'action' (what is done), without which training"),
        ({"action": "actions"}, True, "did you mean actions?"),
        ({"state": "State"}, True, "no field 'state' (what is sensed), without which training"),
        ({}, False, "no segment has a sentence: training needs goal.text=optional"),
    ],
)
def test_what_training_would_not_use_is_warned_of(
    make_store: MakeStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fields: dict[str, str],
    labelled: bool,
    says: str,
) -> None:
    with make_store([6]) as source:
        data = source.episode(0).data
        named = {fields.get(name, name): spec for name, spec in source.fields.items()}
    segments = [Segment(start=0, end=6, instruction="go")] if labelled else []
    with EpisodeStore.create(tmp_path / "named.zarr", named, rate_hz=20) as store:
        store.append({fields.get(name, name): rows for name, rows in data.items()}, segments)
    assert run("validate", store.path) == 0
    told = capsys.readouterr().out
    assert "warning: " in told and says in told and "nothing wrong found, warnings: " in told


def test_more_that_is_warned_of(
    store: EpisodeStore, make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store([], name="empty.zarr").close()
    assert run("validate", store.path.parent / "empty.zarr") == 0
    assert "warning: no episode, so there is nothing to train on" in capsys.readouterr().out
    (store.path / "data/state/notes.txt").write_text("mine")
    zarr.open_group(store.path).create_array("data/force", shape=(45, 6), dtype="f4")
    assert run("validate", store.path) == 0
    told = capsys.readouterr().out
    assert "warning: data/state/notes.txt is no part of the store" in told
    assert "warning: data/force is no field of the store" in told


def test_a_conversion_replaces_only_what_it_may(
    store: EpisodeStore, make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another folder, the source and a store that is written to stay as they are."""
    assert run("convert", store.path, tmp_path / "a.hdf5") == 0
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/text.tex").write_text("years")
    (tmp_path / "thesis.hdf5").write_text("years")
    link = tmp_path / "link.zarr"
    link.symlink_to(store.path)
    held = make_store([5], name="held.zarr")
    capsys.readouterr()
    for source, target, says in (
        ("a.hdf5", "thesis", "is not an episode store, so it is not replaced"),
        ("a.hdf5", "thesis.hdf5", "is not an episode store"),
        ("demos.zarr", "thesis.hdf5", "is not a robomimic HDF5 file"),
        ("demos.zarr", "thesis", "is not a LeRobotDataset"),
        ("demos.zarr", "demos.zarr", "its ending tells no format"),
        ("demos.zarr", "link.zarr", "its ending tells no format"),
        ("demos.zarr", ".", "holds .*, which is read for it"),
        ("demos.zarr", "demos.zarr/x.hdf5", "lies in .*, which is read for it"),
        ("a.hdf5", "held.zarr", "somebody is writing"),
        ("a.hdf5", "a.hdf5", "is .*, which is read for it"),
    ):
        assert run("convert", tmp_path / source, tmp_path / target, "--overwrite") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(says, line), line
    held.append(held.episode(0).data)
    assert (tmp_path / "thesis/text.tex").read_text() == "years"
    assert EpisodeStore.open(store.path).num_episodes == 3
    held.close()
    assert run("convert", tmp_path / "a.hdf5", tmp_path / "held.zarr") == 2
    assert "is already there; --overwrite replaces it" in capsys.readouterr().err
    assert run("convert", tmp_path / "a.hdf5", tmp_path / "held.zarr", "--overwrite") == 0
    assert EpisodeStore.open(tmp_path / "held.zarr").num_episodes == 3
