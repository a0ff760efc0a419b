"""Every chunk carries zarr's crc32c; flipped bytes are found; stores without checksums are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from telic.datasets.arrays import RowArray, create_rows
from telic.datasets.cli import main
from telic.datasets.store import EpisodeStore, Segment
from telic.datasets.validation import Warned, validate
from telic.datasets.windows import WindowConfig, Windows

MakeStore = Callable[..., EpisodeStore]
LENGTHS = [30, 45, 40]


@pytest.fixture
def path(make_store: MakeStore) -> Path:
    segments = [[Segment(start=0, end=n, instruction="push")] for n in LENGTHS]
    with make_store(LENGTHS, segments) as store:
        store.write_embeddings("encoder", np.ones((1, 4)))
        return store.path


def chunks(path: Path) -> list[Path]:
    """Return the files of a store that hold its arrays."""
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json")


def findings(path: Path, deep: bool) -> list[str]:
    return [str(f) for f in validate(path, deep) if not isinstance(f, Warned)]


def test_every_array_has_the_codec_and_zarr_checks_it(path: Path) -> None:
    for meta in path.rglob("zarr.json"):
        if '"array"' in meta.read_text():
            array = zarr.open_array(meta.parent, mode="r")
            assert "Crc32cCodec()" in map(str, array.metadata.codecs), meta
            array[:]
    file = path / "data/state/c.0.0"
    content = bytearray(file.read_bytes())
    content[12 * 20] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(path, path="data/state", mode="r")[:]


def test_chunks_that_grow_stay_whole_for_zarr(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "g")
    array, model = create_rows(tmp_path / "g", "a", (3,), "int16", 7), np.empty((0, 3), np.int16)
    for count in (1, 2, 4, 6, 14, 3, 1):
        rows = np.arange(count * 3, dtype=np.int16).reshape(count, 3) + len(model)
        array.write(len(array), rows)
        model = np.concatenate([model, rows])
        plain = zarr.open_array(tmp_path / "g", path="a", mode="r")
        np.testing.assert_array_equal(plain[:], model[: len(array)])  # before the end is moved
        array.resize(len(model))
        for reader in (array, RowArray(array.path)):
            np.testing.assert_array_equal(reader.read_whole(), model)
            np.testing.assert_array_equal(reader.read(0, len(model)), model)
        plain = zarr.open_array(tmp_path / "g", path="a", mode="r")
        np.testing.assert_array_equal(plain[:], model)
        if len(model) == 13:
            array.cut(5)
            model = model[:5]


@pytest.mark.parametrize("seed", range(3))
def test_any_flipped_bit_is_found(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for file in chunks(path):
        whole = file.read_bytes()
        content = bytearray(whole)
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
        if "embeddings" in str(file):
            with pytest.raises(ValueError, match="does not fit its checksum"):
                EpisodeStore.open(path).read_embeddings("encoder")
        else:
            try:
                assert findings(path, deep=True), file
            except ValueError as error:
                assert "checksum" in str(error) and str(path) in str(error)
        file.write_bytes(whole)
    assert not findings(path, deep=True)


def test_pictures_blacked_out_through_the_back_door_are_found(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Frames that no statistic looks at: the summaries are of 32 frames of an episode."""
    file = path / "data/image/front/c.0.0.0.0"
    content = bytearray(file.read_bytes())
    row = 4 * 5 * 3
    for frame in (30 + 1, 30 + 4):
        content[frame * row : (frame + 1) * row] = bytes(row)
    file.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        main(["validate", "--deep", str(path)])
    told = capsys.readouterr().out
    assert caught.value.code == 1
    assert (
        "episode 0 step 0: image/front does not fit its checksum between here and episode" in told
    )


def test_training_notices_flipped_bytes_of_what_it_holds(path: Path) -> None:
    file = path / "data/action/c.0.0"
    content = bytearray(file.read_bytes())
    content[100] ^= 4
    file.write_bytes(content)
    windows = Windows(EpisodeStore.open(path), WindowConfig())
    with pytest.raises(ValueError, match="does not fit its checksum"):
        windows.batch(np.arange(4))


def test_an_append_does_not_seal_damage(path: Path, make_episode: Callable[..., Any]) -> None:
    file = path / "data/image/front/c.0.0.0.0"
    content = bytearray(file.read_bytes())
    content[100] ^= 4
    file.write_bytes(content)
    with EpisodeStore.open(path, "a") as store:
        with pytest.raises(ValueError, match="does not fit its checksum"):
            store.append(make_episode(5))
        assert store.num_episodes == 3
    assert file.read_bytes() == content
    assert EpisodeStore.open(path).num_episodes == 3


def test_a_store_without_checksums_is_read_and_grows(
    make_old_store: Callable[..., Path], make_episode: Callable[..., Any]
) -> None:
    path = make_old_store()
    episodes = [make_episode(n, n) for n in (90, 40, 7)]
    for data in episodes:
        with EpisodeStore.open(path, "a") as store:
            store.append(data, [Segment(start=0, end=5, instruction="go")])
    store = EpisodeStore.open(path)
    for episode, data in zip(store, episodes, strict=True):
        for name in store.fields:
            np.testing.assert_array_equal(episode[name], data[name])
            plain = zarr.open_array(path, path=f"data/{name}", mode="r")
            np.testing.assert_array_equal(plain[episode.start : episode.stop], data[name])
    assert not findings(path, deep=True)
    warned = [str(f) for f in validate(path, deep=True) if isinstance(f, Warned)]
    assert any("written without checksums" in text for text in warned)
