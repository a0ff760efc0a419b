"""What a store refuses: values that do not fit, pictures that are none, stamps that contradict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telic.datasets.store import EpisodeStore, Segment
from telic.spec import ArraySpec

MakeStore = Callable[..., EpisodeStore]


def create(path: Path, **fields: ArraySpec) -> EpisodeStore:
    given = {name.replace("__", "/"): spec for name, spec in fields.items()}
    return EpisodeStore.create(path, given, rate_hz=20)


@pytest.mark.parametrize(
    ("values", "dtype", "says"),
    [
        (np.array([[1], [300]]), "uint8", r"count step 1 is 300, which uint8 cannot hold"),
        (np.array([[1], [-1]]), "uint8", r"step 1 is -1, which uint8 cannot hold \(0 to 255\)"),
        (np.array([[2**31]]), "int32", r"step 0 is 2147483648, which int32 cannot hold"),
        (np.array([[2**63]], np.uint64), "int64", r"is 9223372036854775808, which int64 cannot"),
        (np.array([[-1]]), "uint64", r"is -1, which uint64 cannot hold"),
        (np.array([[2**24 + 1]]), "float32", r"is 16777217, which float32 holds as 16777216"),
        (np.array([[1e39]]), "float32", r"is inf, which is not finite"),
        (np.array([[0.5]]), "int32", r"dtype float64, expected int32"),
        (np.array([[1]]), "bool", r"dtype int64, expected bool"),
        (np.array([["a"]]), "float32", r"dtype <U1, expected float32"),
        (np.array([[1 + 1j]]), "float32", r"dtype complex128, expected float32"),
        (np.array([[None]]), "float32", r"dtype object, expected float32"),
    ],
)
def test_what_does_not_fit_is_refused_and_never_wrapped(
    tmp_path: Path, values: Any, dtype: str, says: str
) -> None:
    with create(tmp_path / "s.zarr", count=ArraySpec(shape=(1,), dtype=dtype)) as store:
        with pytest.raises(ValueError, match=says):
            store.append({"count": values})
        assert store.num_episodes == 0


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([[255]]), "uint8"),
        (np.array([[7]], np.uint8), "int64"),
        (np.array([[2**24]]), "float32"),
        (np.array([[True]]), "uint8"),
        (np.array([[0.1]]), "float32"),
    ],
)
def test_what_fits_is_kept(tmp_path: Path, values: Any, dtype: str) -> None:
    with create(tmp_path / "s.zarr", count=ArraySpec(shape=(1,), dtype=dtype)) as store:
        store.append({"count": values})
        np.testing.assert_array_equal(store.read("count", 0, 1), values.astype(dtype))


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ((3, 48, 64), "uint8", r"it looks like \[3 h w\], which .*transpose"),
        ((48, 64, 4), "uint8", "leave out the fourth channel"),
        ((48, 64, 1), "uint8", "repeat a grey picture"),
        ((48, 64), "uint8", "repeat a grey picture"),
        ((48, 64, 2), "uint8", r"expected uint8 \[h w 3\]"),
        ((48, 64, 3), "float32", "scale it to 0..255"),
        ((2, 48, 64, 3), "uint8", r"expected uint8 \[h w 3\]"),
    ],
)
def test_what_is_no_picture_is_refused_when_the_store_is_made(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, says: str
) -> None:
    with pytest.raises(ValueError, match=rf"image/top is .*{says}"):
        create(tmp_path / "s.zarr", image__top=ArraySpec(shape=shape, dtype=dtype))
    assert not list(tmp_path.iterdir())


def test_pictures_in_another_order_are_named(
    make_store: MakeStore, make_episode: Callable[..., Any]
) -> None:
    store, data = make_store([]), make_episode(4)
    data["image/front"] = data["image/front"].transpose(0, 3, 1, 2)
    with pytest.raises(ValueError, match=r"image/front has shape .*it is \[3 h w\], which"):
        store.append(data)


MS = 1_000_000


@pytest.mark.parametrize(
    ("stamps", "says"),
    [
        (np.arange(6) * 10 * MS, r"goes on by 0.01 s a step, at 20 Hz it is 0.05 s"),
        (np.arange(6) * 100 * MS, r"goes on by 0.1 s a step"),
        (np.arange(6) * 50, r"they look like ms, expected ns"),
        (np.arange(6) * 50_000, r"they look like us, expected ns"),
        (np.array([0, 50, 100, 5150, 5200]) * MS, r"step 3 is 5.05 s after the one before, 101 st"),
        (np.array([0, 50, 100, 90]) * MS, r"step 3 is 90000000, not after the one before"),
        (np.array([0, 50, 50, 100]) * MS, r"step 2 is 50000000, not after the one before"),
        (
            np.array([-(2**63), 2**63 - 1 - 50 * MS, 2**63 - 1]),  # further apart than int64 holds
            r"(goes on by|step 1 is 1\.84467e\+10 s after)",
        ),
    ],
)
def test_stamps_that_contradict_the_rate_are_refused(
    make_store: MakeStore, make_episode: Callable[..., Any], stamps: Any, says: str
) -> None:
    data = make_episode(len(stamps)) | {"timestamp_ns": stamps}
    with pytest.raises(ValueError, match=rf"timestamp_ns.*{says}"):
        make_store([]).append(data)


@pytest.mark.parametrize(
    "stamps",
    [
        np.arange(6) * 50 * MS + 1_700_000_000_000_000_000,
        np.array([0, 47, 104, 151, 199, 260]) * MS,  # shaken
        np.array([0, 50, 100, 200, 250, 300]) * MS,  # a frame dropped
        np.array([7]),
    ],
)
def test_stamps_that_are_only_shaken_are_kept(
    make_store: MakeStore, make_episode: Callable[..., Any], stamps: Any
) -> None:
    make_store([]).append(make_episode(len(stamps)) | {"timestamp_ns": stamps})


@pytest.mark.parametrize(
    "rate_hz", [0.0, -5.0, float("nan"), float("inf"), 1e12, 10**400, "10", None, True]
)
def test_a_rate_that_is_none_is_refused(tmp_path: Path, rate_hz: Any) -> None:
    with pytest.raises(ValueError, match="rate_hz is"):
        EpisodeStore.create(tmp_path / "s.zarr", {"state": ArraySpec(shape=(1,))}, rate_hz)


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (np.ma.masked_equal(np.array([[1.0, 2.0], [3.0, 2.5]]), 2.5), r"action step 1 is masked"),
        ([[1.0, 2.0], [3.0]], r"action: is no array of one shape"),
        ([[1.0, 2.0], None], r"action: is no array of one shape"),
        (np.full((2, 2), 1j), r"action has dtype complex128, expected float32"),
    ],
)
def test_rows_that_are_no_numbers_are_refused(tmp_path: Path, action: Any, says: str) -> None:
    store = create(tmp_path / "s.zarr", action=ArraySpec(shape=(2,)))
    with pytest.raises(ValueError, match=rf"^{store.path} episode 0: {says}"):
        store.append({"action": action})
    store.append({"action": np.ma.masked_equal(np.ones((2, 2)), 7.0)})  # nothing of it is masked
    assert store.num_steps == 2


@pytest.mark.parametrize(
    ("segments", "says"),
    [
        ([Segment(start=0.5, end=2, instruction="go")], "segment from step 0.5 to 2, expected who"),  # type: ignore[arg-type]
        ([Segment(start=True, end=2, instruction="go")], "segment from step True to 2, expected"),
        ([Segment(start=0, end=2, instruction=None)], "step 0 has instruction None, expected text"),  # type: ignore[arg-type]
        ([Segment(start=0, end=2, instruction="\ud800")], "step 0 has instruction '.ud800', exp"),
        ([Segment(start=0, end=2, instruction="go", task=5)], "step 0 has task 5, expected text"),  # type: ignore[arg-type]
        ([(0, 2, "go")], r"segments are \[\(0, 2, 'go'\)\], expected a list of Segment"),
        ("go", "segments are 'go', expected a list of Segment"),
        (Segment(start=0, end=2, instruction="go"), "segments are Segment.*, expected a list of"),
    ],
)
def test_segments_that_are_none_are_refused(tmp_path: Path, segments: Any, says: str) -> None:
    store = create(tmp_path / "s.zarr", action=ArraySpec(shape=(2,)))
    with pytest.raises(ValueError, match=rf"^{store.path} episode 0: (the segment at )?{says}"):
        store.append({"action": np.zeros((2, 2))}, segments)
    assert store.num_steps == 0
    store.append({"action": np.zeros((2, 2))}, [Segment(start=0, end=2, instruction="go")])


def test_a_shape_that_is_no_tuple_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^shape 2 must be a tuple of sizes, such as \(7,\)$"):
        ArraySpec(shape=2)  # type: ignore[arg-type]
