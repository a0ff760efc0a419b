"""LeRobotDataset: what LeRobot wrote is read, what we write comes back, damage is refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from telic.datasets.formats.converter import ImportOptions
from telic.datasets.formats.lerobot import (
    LeRobotExportOptions,
    Pictures,
    export_lerobot,
    import_lerobot,
)
from telic.datasets.formats.lerobot_layout import field_of, key_of
from telic.datasets.store import EpisodeStore, Segment
from telic.datasets.validation import Warned, validate
from telic.spec import ArraySpec

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("av", reason="av is not installed")
import pyarrow.parquet as pq  # noqa: E402

SHARED = Path(__file__).resolve().parents[3] / "shared/data/lerobot"
LENGTHS = (7, 4, 9)


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    """Return three episodes of smooth pictures, the last with a step that no segment covers."""
    fields = {
        "state": ArraySpec(shape=(3,), unit="rad", names=("a", "b", "gripper")),
        "action": ArraySpec(shape=(2,), gripper="positive_opens", minimum=(-1.0,), maximum=(1.0,)),
        "timestamp_ns": ArraySpec(shape=(), dtype="int64", unit="ns"),
        "reward": ArraySpec(shape=()),
        "image/front": ArraySpec(shape=(64, 80, 3), dtype="uint8"),
    }
    made = EpisodeStore.create(tmp_path / "demos.zarr", fields, rate_hz=20, robot="arm")
    for index, length in enumerate(LENGTHS):
        rng = np.random.default_rng(index)
        ramp = np.linspace(0, 200, 64)[:, None] + np.linspace(0, 40, 80)
        pictures = ramp[None, ..., None] + 3.0 * np.arange(length)[:, None, None, None]
        episode = {
            "state": rng.normal(size=(length, 3)).astype(np.float32),
            "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
            "timestamp_ns": np.arange(length) * 50_000_000 + rng.integers(0, 1000, length),
            "reward": np.arange(length, dtype=np.float32),
            "image/front": np.repeat(pictures, 3, -1).astype(np.uint8),
        }
        segments = [Segment(start=0, end=length - (index == 2), instruction="push", task="push")]
        if index == 1:
            segments.append(Segment(start=0, end=2, instruction="shove", task="push"))
        made.append(episode, segments)
    made.close()
    return made


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("pictures", list(Pictures))
def test_a_store_comes_back(
    store: EpisodeStore, tmp_path: Path, version: str, pictures: Pictures
) -> None:
    folder, again = tmp_path / "lerobot", tmp_path / "again.zarr"
    options = LeRobotExportOptions(version=version, pictures=pictures)
    assert export_lerobot(store.path, folder, options) == 3
    assert import_lerobot(folder, again, ImportOptions()) == 3
    back = EpisodeStore.open(again)
    assert back.fields == store.fields and back.segments == store.segments
    assert back.attrs["robot"] == "arm" and back.rate_hz == 20
    for name in store.fields:
        one, other = (s.read(name, 0, sum(LENGTHS)) for s in (store, back))
        if name.startswith("image/") and pictures is not Pictures.png:
            error = np.square(one.astype(float) - other).mean()
            assert 10 * np.log10(255**2 / error) > 36  # dB
        else:
            np.testing.assert_array_equal(one, other)
    assert list(validate(again, deep=True)) == []


def anybodys(
    store: EpisodeStore, folder: Path, pictures: Pictures = Pictures.png, version: str = "v3.0"
) -> Path:
    """Export a store to a LeRobotDataset without our notes; return its folder."""
    export_lerobot(store.path, folder, LeRobotExportOptions(version=version, pictures=pictures))
    (folder / "meta/telic.json").unlink()
    return folder


def test_without_our_notes_it_is_anybodys(store: EpisodeStore, tmp_path: Path) -> None:
    folder = anybodys(store, tmp_path / "lerobot")
    import_lerobot(folder, tmp_path / "a.zarr", ImportOptions(state_is=["unit=deg"], task="t"))
    back = EpisodeStore.open(tmp_path / "a.zarr")
    assert back.fields["state"].unit == "deg" and back.fields["state"].names[2] == "gripper"
    assert back.fields["action"] == ArraySpec(shape=(2,))  # nothing is guessed
    assert back.fields["reward"].shape == () and "reward" in back.fields
    segments = [(s.start, s.end, s.instruction, s.task) for s in back.segments]
    assert segments == [(0, 7, "push", "t"), (0, 4, "push", "t"), (0, 8, "push", "t")]
    np.testing.assert_array_equal(back.read("timestamp_ns", 0, 7), store.read("timestamp_ns", 0, 7))


def test_quantiles_are_those_of_the_data(store: EpisodeStore, tmp_path: Path) -> None:
    folder = tmp_path / "lerobot"
    export_lerobot(store.path, folder, LeRobotExportOptions(pictures=Pictures.png))
    stats = json.loads((folder / "meta/stats.json").read_text())
    state = store.read("state", 0, sum(LENGTHS)).astype(np.float64)
    for name, share in (("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
        np.testing.assert_allclose(
            stats["observation.state"][name], np.quantile(state, share, 0), rtol=1e-6
        )
    np.testing.assert_allclose(stats["observation.state"]["std"], state.std(0), rtol=1e-6)
    assert stats["observation.state"]["count"] == [20]
    pixels = store.read("image/front", 0, 20) / 255.0
    picture = stats["observation.images.front"]
    np.testing.assert_allclose(np.ravel(picture["mean"]), pixels.mean((0, 1, 2)), rtol=1e-6)
    assert np.shape(picture["q99"]) == (3, 1, 1) and picture["count"] == [20]
    assert stats["index"]["max"] == [19.0] and stats["task_index"]["max"] == [1.0]


@pytest.mark.parametrize("version", ["v3", "v21"])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_what_lerobot_wrote_is_read(version: str, kind: str, tmp_path: Path) -> None:
    source = SHARED / f"lerobot_{version}" / kind
    if not source.is_dir():
        pytest.skip("the data sets that LeRobot wrote are not here")
    assert import_lerobot(source, tmp_path / "a.zarr", ImportOptions()) == 4
    store = EpisodeStore.open(tmp_path / "a.zarr")
    length = 12 if kind == "image" else 20
    assert [len(episode) for episode in store] == [length] * 4 and store.rate_hz == 20
    assert store.instructions == ["push the cube", "open the drawer"]
    assert store.fields["action"].names[5] == "gripper.pos"
    assert store.fields["action"].unit == store.fields["action"].gripper == ""
    assert store.attrs["robot"] == "so101_follower"
    size = 16 if kind == "image" else 64
    assert store.fields["image/wrist"].shape == (size, size, 3)
    found = list(validate(tmp_path / "a.zarr", deep=True))
    assert [problem for problem in found if not isinstance(problem, Warned)] == []
    if version == "v3":
        table = pq.read_table(source / "data/chunk-000/file-000.parquet")
        actions = np.array(table.column("action").to_pylist(), np.float32)
        np.testing.assert_array_equal(store.read("action", 0, 4 * length), actions)
        if kind == "image":
            cell = table.column("observation.images.front")[17].as_py()["bytes"]
            picture = np.asarray(Image.open(io.BytesIO(cell)))
            np.testing.assert_array_equal(store.read("image/front", 17, 18)[0], picture)


@pytest.mark.parametrize("version", ["v3", "v21"])
def test_both_versions_have_the_same_frames(version: str, tmp_path: Path) -> None:
    source = SHARED / f"lerobot_{version}" / "video"
    if not source.is_dir():
        pytest.skip("the data sets that LeRobot wrote are not here")
    import_lerobot(source, tmp_path / "a.zarr", ImportOptions())
    frames = EpisodeStore.open(tmp_path / "a.zarr").read("image/front", 0, 80).astype(float)
    assert (np.abs(np.diff(frames, axis=0)).mean((1, 2, 3)) > 0.1).all()  # none is there twice


def test_fields_and_features_are_named_after_each_other() -> None:
    for field in ("state", "action", "image/left_wrist", "reward", "done", "robot/joint", "tcp"):
        assert field_of(key_of(field)) == field
    assert field_of("observation.image") == "image/image"
    assert field_of("observation.environment_state") == "observation/environment_state"


Damage = Callable[[Path], object]


def edit_info(**changes: object) -> Damage:
    """Return what changes entries of info.json."""

    def change(root: Path) -> None:
        path = root / "meta/info.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


V3_DATA = "data/chunk-000/file-000.parquet"
V2_DATA = "data/chunk-000/episode_000000.parquet"
V3_EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def edit_data(column: str, value: object, name: str = V3_DATA) -> Damage:
    """Return what sets the fourth row of a column of the data."""

    def change(root: Path) -> None:
        path = root / name
        table = pq.read_table(path)
        values = table.column(column).to_pylist()
        values[3] = value
        at = table.schema.names.index(column)
        table = table.set_column(at, column, pa.array(values, table.schema.field(column).type))
        pq.write_table(table, path)

    return change


def edit_rows(name: str, rows: Callable[[int], list[int]]) -> Damage:
    """Return what puts other rows of a file in the place of its own: their numbers."""

    def change(root: Path) -> None:
        table = pq.read_table(root / name)
        pq.write_table(table.take(rows(table.num_rows)), root / name)

    return change


def edit_episodes(index: int, **changes: int) -> Damage:
    """Return what changes entries of an episode's metadata, of either version."""

    def change(root: Path) -> None:
        lines, table = root / "meta/episodes.jsonl", root / V3_EPISODES
        if lines.exists():
            rows = [json.loads(line) for line in lines.read_text().splitlines()]
            rows[index] |= changes
            lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
            return
        found = pq.read_table(table)
        rows = found.to_pylist()
        rows[index] |= changes
        pq.write_table(pa.Table.from_pylist(rows, found.schema), table)

    return change


def cut(name: str) -> Damage:
    """Return what cuts a file in half."""

    def change(root: Path) -> None:
        path = root / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


def large_png() -> bytes:
    """Return a picture that is far larger than is said."""
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(buffer, "PNG")
    return buffer.getvalue()


VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"
DAMAGES: dict[str, tuple[Pictures, Damage, str]] = {
    "too new": (Pictures.png, edit_info(codebase_version="v4.0"), "'v4.0', this program reads"),
    "no fps": (Pictures.png, edit_info(fps=0), "fps is 0, expected more than 0"),
    "no features": (Pictures.png, edit_info(features={}), "features are missing"),
    "leaves the folder": (
        Pictures.png,
        edit_info(data_path="../../{chunk_index}/{file_index}"),
        "leaves the data set",
    ),
    "odd template": (
        Pictures.png,
        edit_info(data_path="{chunk_index.__class__}{file_index}"),
        "leaves the data set",
    ),
    "info cut": (Pictures.png, cut("meta/info.json"), "none of the formats|is not JSON"),
    "data cut": (Pictures.png, cut("data/chunk-000/file-000.parquet"), "not readable"),
    "tasks cut": (Pictures.png, cut("meta/tasks.parquet"), "not readable"),
    "video cut": (Pictures.h264, cut(VIDEO), "not readable as video|ends before frame"),
    "video gone": (Pictures.h264, lambda r: (r / VIDEO).unlink(), "mp4: is missing"),
    "episodes gone": (
        Pictures.png,
        lambda r: shutil.rmtree(r / "meta/episodes"),
        "meta/episodes: is missing",
    ),
    "nan": (
        Pictures.png,
        edit_data("action", [float("nan"), 0.0]),
        "action step 3 entry 0 is nan, which is not finite",
    ),
    "time back": (Pictures.png, edit_data("timestamp_ns", 0), "step 3 is 0, not after the one"),
    "unknown task": (Pictures.png, edit_data("task_index", 9), "task_index 9 is not in meta"),
    "other episode": (
        Pictures.png,
        edit_data("episode_index", 5),
        "step 3: its episode_index is 5",
    ),
    "null": (Pictures.png, edit_data("action", None), "action has rows without a value"),
    "no picture": (
        Pictures.png,
        edit_data("observation.images.front", {"bytes": b"no picture", "path": None}),
        "step 3: observation.images.front cannot identify",
    ),
    "bomb": (
        Pictures.png,
        edit_data("observation.images.front", {"bytes": large_png(), "path": None}),
        "step 3: observation.images.front is 4000 x 4000, expected 64 x 80",
    ),
    "episodes": (Pictures.png, edit_info(total_episodes=2), "total_episodes is 2, by .* it is 3"),
    "frames": (Pictures.png, edit_info(total_frames="20"), "total_frames is '20', by .* it is 20"),
    "negative task": (Pictures.png, edit_data("task_index", -1), "task_index -1 is not in meta"),
    "reversed": (
        Pictures.png,
        edit_rows(V3_DATA, lambda n: [*range(6, -1, -1), *range(7, n)]),
        "episode 0 step 1: its frame_index is 5 after 6, expected one more",
    ),
    "doubled": (Pictures.png, edit_data("frame_index", 2), "frame_index is 2 after 2"),
    "rows doubled at the end": (
        Pictures.png,
        edit_rows(V3_DATA, lambda n: [*range(n), n - 2, n - 1]),
        "has 22 rows, by the lengths in meta/episodes it is 20",
    ),
    "rows lost": (
        Pictures.png,
        edit_rows(V3_DATA, lambda n: [*range(n - 1)]),
        "has 19 rows, by the lengths in meta/episodes it is 20",
    ),
    "length": (
        Pictures.png,
        lambda root: [edit_episodes(0, length=9)(root), edit_info(total_frames=22)(root)],
        "episode 1 begins at row 7, the one before it in file-000.parquet ends at row 9",
    ),
    "shifted": (
        Pictures.png,
        lambda root: [
            edit_episodes(0, length=6)(root),
            edit_episodes(1, length=5, dataset_from_index=6)(root),
        ],
        "episode 1 step 0: its episode_index is 0; is the length in meta/episodes right",
    ),
    "twice": (Pictures.png, edit_episodes(1, episode_index=0), "episode 0 is there twice"),
}
V2_DAMAGES: dict[str, tuple[Pictures, Damage, str]] = {
    "data cut": (Pictures.png, cut(V2_DATA), "not readable"),
    "data gone": (
        Pictures.png,
        lambda r: (r / V2_DATA).unlink(),
        "is missing; the data set is not",
    ),
    "episodes cut": (
        Pictures.png,
        cut("meta/episodes.jsonl"),
        "is not JSON; is it truncated|by meta",
    ),
    "tasks cut": (
        Pictures.png,
        cut("meta/tasks.jsonl"),
        "is not JSON; is it truncated|not in meta",
    ),
    "video cut": (
        Pictures.h264,
        cut("videos/chunk-000/observation.images.front/episode_000000.mp4"),
        "not readable as video|ends before frame",
    ),
    "episodes": (Pictures.png, edit_info(total_episodes=4), "total_episodes is 4, by .* it is 3"),
    "length": (Pictures.png, edit_episodes(0, length=8), "total_frames is 20, by .* it is 21"),
    "length alone": (
        Pictures.png,
        lambda root: [edit_episodes(0, length=8)(root), edit_info(total_frames=21)(root)],
        "has 7 rows, by the lengths in meta/episodes it is 8",
    ),
    "huge length": (
        Pictures.png,
        lambda root: [
            edit_episodes(0, length=2**39)(root),
            edit_info(total_frames=2**39 + 13)(root),
        ],
        "has 7 rows, by the lengths in meta/episodes it is 549755813888",
    ),
    "rows doubled": (
        Pictures.png,
        edit_rows(V2_DATA, lambda n: [*range(n), n - 1]),
        "has 8 rows, by the lengths in meta/episodes it is 7",
    ),
    "nan": (Pictures.png, edit_data("action", [np.nan, 0.0], V2_DATA), "action step 3 entry 0 is"),
    "nan time": (
        Pictures.png,
        edit_data("timestamp", float("nan"), V2_DATA),
        "a timestamp is not finite",
    ),
    "time back": (Pictures.png, edit_data("timestamp_ns", 0, V2_DATA), "step 3 is 0, not after"),
    "reversed": (Pictures.png, edit_rows(V2_DATA, lambda n: [*range(n)][::-1]), "is 5 after 6"),
    "task": (Pictures.png, edit_data("task_index", 10**12, V2_DATA), "task_index 1000000000000 is"),
    "two sentences": (
        Pictures.png,
        lambda root: (root / "meta/tasks.jsonl").write_text(
            "".join(json.dumps({"task_index": 0, "task": text}) + "\n" for text in ("a", "b", ""))
        ),
        "task_index 0 stands for two sentences",
    ),
    "leaves": (
        Pictures.png,
        edit_info(data_path="/etc/{episode_chunk}{episode_index}"),
        "leaves the data set",
    ),
    "chunks": (Pictures.png, edit_info(chunks_size=0), "chunks_size is 0"),
    "no index": (Pictures.png, edit_episodes(1, episode_index=-1), "episode_index is -1"),
    "twice": (Pictures.png, edit_episodes(1, episode_index=0), "episode 0 is there twice"),
    "other episode's file": (
        Pictures.png,
        lambda root: shutil.copy(root / V2_DATA, root / V2_DATA.replace("00.p", "02.p")),
        "has 7 rows, by the lengths in meta/episodes it is 9",
    ),
    "picture": (
        Pictures.png,
        edit_data("observation.images.front", {"bytes": large_png(), "path": None}, V2_DATA),
        "is 4000 x 4000, expected 64 x 80",
    ),
}


@pytest.mark.parametrize(
    ("version", "damage"), [*(("v3.0", d) for d in DAMAGES), *(("v2.1", d) for d in V2_DAMAGES)]
)
def test_what_is_damaged_is_refused_in_a_line(
    store: EpisodeStore, tmp_path: Path, version: str, damage: str
) -> None:
    pictures, change, says = (DAMAGES if version == "v3.0" else V2_DAMAGES)[damage]
    folder = anybodys(store, tmp_path / "lerobot", pictures, version)
    change(folder)
    with pytest.raises(ValueError, match=says) as refused:
        import_lerobot(folder, tmp_path / "a.zarr", ImportOptions())
    assert len(str(refused.value).splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"demos.zarr", "lerobot"}


def test_a_wrong_size_is_refused_before_memory_is_taken(
    store: EpisodeStore, tmp_path: Path
) -> None:
    folder = anybodys(store, tmp_path / "lerobot")
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["observation.images.front"]["shape"] = [2_000_000, 2_000_000, 3]
    (folder / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="GiB, more than the"):
        import_lerobot(folder, tmp_path / "a.zarr", ImportOptions())


def test_state_and_action_are_made_of_the_keys_asked_for(
    store: EpisodeStore, tmp_path: Path
) -> None:
    folder = anybodys(store, tmp_path / "lerobot")
    keys = ["observation.state", "next.reward"]
    import_lerobot(folder, tmp_path / "a.zarr", ImportOptions(state_keys=keys))
    back = EpisodeStore.open(tmp_path / "a.zarr")
    assert back.fields["state"].shape == (4,) and "reward" not in back.fields
    assert back.read("state", 0, 3)[:, 3].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"no numbers 'observation.stat'.*did you mean"):
        import_lerobot(folder, tmp_path / "b.zarr", ImportOptions(state_keys=["observation.stat"]))


def test_what_lerobot_cannot_hold_is_said(store: EpisodeStore, tmp_path: Path) -> None:
    fields = {"action": ArraySpec(shape=(1,)), "depth": ArraySpec(shape=(2, 2))}
    odd = EpisodeStore.create(tmp_path / "odd.zarr", fields, rate_hz=12.5)
    odd.append({"action": np.zeros((2, 1)), "depth": np.zeros((2, 2, 2))})
    odd.close()
    with pytest.raises(ValueError, match=r"has 12.5 steps a second, LeRobot keeps whole numbers"):
        export_lerobot(odd.path, tmp_path / "x", LeRobotExportOptions())
    even = EpisodeStore.create(tmp_path / "even.zarr", fields, rate_hz=12)
    even.append({"action": np.zeros((2, 1)), "depth": np.zeros((2, 2, 2))})
    even.close()
    with pytest.warns(UserWarning, match="not carried: depth"):
        export_lerobot(even.path, tmp_path / "x", LeRobotExportOptions())
    with pytest.raises(ValueError, match="--lerobot-crf is 60, expected 0 to 51"):
        LeRobotExportOptions(pictures=Pictures.h264, crf=60)
