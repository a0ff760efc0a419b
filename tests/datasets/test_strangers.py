"""A user's own file in what a conversion would replace is kept, and named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from telic.datasets.formats.converter import ImportOptions, small_store
from telic.datasets.formats.diffusion_policy import export_buffer, import_buffer
from telic.datasets.formats.lerobot import LeRobotExportOptions, Pictures, export_lerobot


def _store(source: Path, target: Path, overwrite: bool) -> None:
    buffer = source.with_name("buffer.zarr")
    if not buffer.exists():
        export_buffer(source, buffer)
    import_buffer(buffer, target, ImportOptions(), overwrite)


def _lerobot(version: str) -> Callable[[Path, Path, bool], int]:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pytest.importorskip("av", reason="av is not installed")
    options = LeRobotExportOptions(version=version, pictures=Pictures.h264)
    return lambda source, target, overwrite: export_lerobot(source, target, options, overwrite)


KINDS: dict[str, Callable[[Path, Path, bool], object]] = {
    "store": _store,
    "lerobot v3.0": _lerobot("v3.0"),
    "lerobot v2.1": _lerobot("v2.1"),
    "buffer": export_buffer,
}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversion_does_not_delete_it(tmp_path: Path, kind: str) -> None:
    source, target, convert = small_store(tmp_path), tmp_path / "target.zarr", KINDS[kind]
    convert(source, target, False)
    convert(source, target, True)  # all that it wrote itself may go
    for place in ("notes.txt", "data/notes.txt", "meta/deep/notes.txt", "c.txt"):
        own = target / place
        own.parent.mkdir(exist_ok=True)
        own.write_text("mine")
        before = tree(target)
        with pytest.raises(ValueError, match=rf"zarr: holds {place}, which is no part of an? "):
            convert(source, target, True)
        assert tree(target) == before
        own.unlink()
    convert(source, target, True)
