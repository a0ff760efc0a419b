"""What no chunk's checksum covers: a store's attributes, its sentence vectors, an HDF5 file."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from telic.datasets import validation
from telic.datasets.formats.robomimic_hdf5 import (
    Hdf5ExportOptions,
    Hdf5ImportOptions,
    export_hdf5,
    import_hdf5,
)
from telic.datasets.store import EpisodeStore, Segment


def rewrite(path: Path, **changes: Any) -> None:
    """Change attributes of a store as an editor would; None deletes one."""
    meta = json.loads((path / "zarr.json").read_text())
    merged = {**meta["attributes"], **changes}
    meta["attributes"] = {k: v for k, v in merged.items() if v is not None}
    (path / "zarr.json").write_text(json.dumps(meta))


def test_edited_attributes_are_refused_until_the_digest_is_deleted(make_store: Any) -> None:
    with make_store([5]) as store:
        path = store.path
    rewrite(path, licence="MIT")
    with pytest.raises(ValueError, match=r"zarr\.json: the attributes are not what was written"):
        EpisodeStore.open(path)
    rewrite(path, digest=None)
    assert EpisodeStore.open(path).attrs["licence"] == "MIT"


def test_damaged_vectors_are_found(make_store: Any) -> None:
    said = [[Segment(start=0, end=5, instruction="open")]]
    with make_store([5], said) as store:
        store.write_embeddings("encoder", np.ones((1, 4), np.float32))
        path = store.path
    file = next((path / "meta/embeddings/encoder").glob("c*"))
    file.write_bytes(b"\x01" + file.read_bytes()[1:])
    for deep in (False, True):
        assert any("encoder" in str(finding) for finding in validation.validate(path, deep))


@pytest.mark.parametrize("damage", ["rows", "segments", "fields", "demo"])
def test_a_file_of_ours_that_changed_is_refused(
    make_store: Any, tmp_path: Path, damage: str
) -> None:
    source, target = tmp_path / "demos.hdf5", tmp_path / "again.zarr"
    with make_store([5, 6]) as store:
        export_hdf5(store.path, source, Hdf5ExportOptions())
    with h5py.File(source, "r+") as file:
        demo = file["data/demo_1"]
        if damage == "rows":
            demo["obs/state"][2, 1] += 1
        elif damage == "segments":
            said = [{"start": 0, "end": 6, "instruction": "open", "task": ""}]
            demo.attrs["segments"] = json.dumps(said)
        elif damage == "fields":
            file["data"].attrs["telic"] = file["data"].attrs["telic"].replace("-1.0", "-2.0")
        else:
            del file["data/demo_1"]
    with pytest.raises(ValueError, match=r"demos\.hdf5.*(not what was written|is missing)"):
        import_hdf5(source, target, Hdf5ImportOptions())
    assert not target.exists()
