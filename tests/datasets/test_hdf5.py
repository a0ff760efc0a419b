"""Files that anybody may have written: each becomes a store or one line, and nothing comes in."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from telic.datasets.cli import main
from telic.datasets.store import EpisodeStore

SECRET = b"root:x:0:0:secret of another file\n" * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file of two demos, beside another file that is none of its business."""
    (tmp_path / "secret").write_bytes(SECRET)
    path = tmp_path / "demos.hdf5"
    with h5py.File(path, "w") as made:
        data = made.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        for i in range(2):
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = np.zeros((5, 2))
            demo["obs/state"] = np.ones((5, 3))
    return path


def convert(source: Path, *more: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["convert", str(source), str(source.with_name("out.zarr")), *more])
    return int(caught.value.code or 0)


def without(path: str) -> Callable[[h5py.File, Path], None]:
    def damage(made: h5py.File, _: Path) -> None:
        del made[path]

    return damage


def with_value(path: str, value: Any) -> Callable[[h5py.File, Path], None]:
    def damage(made: h5py.File, _: Path) -> None:
        if path in made:
            del made[path]
        made[path] = value

    return damage


def env_args(value: Any) -> Callable[[h5py.File, Path], None]:
    def damage(made: h5py.File, _: Path) -> None:
        made["data"].attrs["env_args"] = value

    return damage


def telic(**change: Any) -> Callable[[h5py.File, Path], None]:
    """Return a defect in what our own export notes."""
    own = {
        "fields": {"action": {"shape": [2]}, "state": {"shape": [3]}},
        "paths": {"action": "actions", "state": "obs/state"},
        "rate_hz": 20.0,
    }

    def damage(made: h5py.File, _: Path) -> None:
        made["data"].attrs["telic"] = json.dumps(own | change)

    return damage


def soft_link(made: h5py.File, _: Path) -> None:
    del made["data/demo_1/obs/state"]
    made["data/demo_1/obs/state"] = h5py.SoftLink("/data/demo_0/obs/state")


def external_link(made: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.hdf5", "w") as other:
        other["secret"] = np.ones((5, 3))
    del made["data/demo_0/obs/state"]
    made["data/demo_0/obs/state"] = h5py.ExternalLink(str(folder / "other.hdf5"), "/secret")


def external_group(made: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.hdf5", "w") as other:
        other["obs/state"] = np.ones((5, 3))
    del made["data/demo_1"]
    made["data/demo_1"] = h5py.ExternalLink(str(folder / "other.hdf5"), "/")


def external_data(made: h5py.File, _: Path) -> None:
    made["data"].move("demo_0", "demo_7")
    del made["data"]
    made["data"] = h5py.ExternalLink("other.hdf5", "/data")


def external_storage(made: h5py.File, folder: Path) -> None:
    del made["data/demo_0/obs/state"]
    made["data/demo_0/obs"].create_dataset(
        "state", (5, 3), "u1", external=[(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)]
    )


def virtual(made: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.hdf5", "w") as other:
        other["secret"] = np.ones((5, 3))
    layout = h5py.VirtualLayout((5, 3), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.hdf5"), "secret", (5, 3))
    del made["data/demo_0/obs/state"]
    made["data/demo_0/obs"].create_virtual_dataset("state", layout)


def terabytes(made: h5py.File, _: Path) -> None:
    del made["data/demo_0/obs/state"]
    made["data/demo_0/obs"].create_dataset("state", (10**12, 3), "f4", chunks=(1024, 3))


def terabytes_of_actions(made: h5py.File, _: Path) -> None:
    del made["data/demo_1/actions"]
    made["data/demo_1"].create_dataset(
        "actions", (10**11, 2), "f4", chunks=(1024, 2), compression="gzip"
    )


def actions_group(made: h5py.File, _: Path) -> None:
    del made["data/demo_0/actions"]
    made["data/demo_0/actions/x"] = np.zeros((5, 2))


def loop(made: h5py.File, _: Path) -> None:
    made["data/demo_0/obs/again"] = made["data/demo_0"]


COMPOUND = np.zeros(5, [("x", "f4"), ("y", "f4")])
ATTACKS: dict[str, tuple[Callable[[h5py.File, Path], None], str]] = {
    "no data": (without("data"), "has no group /data"),
    "data is an array": (with_value("data", np.ones(3)), "data is an array, expected a group"),
    "no obs": (without("data/demo_0/obs"), "demo_0: has no obs"),
    "obs is an array": (with_value("data/demo_0/obs", np.ones((5, 3))), "obs is an array"),
    "no obs later": (without("data/demo_1/obs"), "demo_1: has no obs/state, the first"),
    "no actions": (without("data/demo_0/actions"), "demo_0: has no actions"),
    "no actions later": (without("data/demo_1/actions"), "demo_1: has no actions"),
    "demo is an array": (with_value("data/demo_1", np.ones(3)), "demo_1 is an array, expected a g"),
    "actions are a group": (actions_group, "actions is a group, expected an array"),
    "nested": (with_value("data/demo_0/obs/robot0/pos", np.ones((5, 3))), "robot0 is a group, exp"),
    "single value": (with_value("data/demo_0/obs/mass", 3.0), "mass is a single value"),
    "strings": (with_value("data/demo_0/obs/name", np.array([b"a"] * 5)), "expected numbers"),
    "compound": (with_value("data/demo_0/obs/pair", COMPOUND), "expected numbers"),
    "complex": (with_value("data/demo_0/obs/wave", np.ones((5, 1), complex)), "expected numbers"),
    "empty": (with_value("data/demo_0/obs/none", h5py.Empty("f4")), "none is a single value"),
    "1-d actions": (with_value("data/demo_0/actions", np.zeros(5)), "expected numbers (steps, A)"),
    "other size": (with_value("data/demo_1/actions", np.zeros((5, 3))), "actions differ in size"),
    "other length": (with_value("data/demo_1/actions", np.zeros((4, 2))), "differ in their number"),
    "no steps": (with_value("data/demo_1/actions", np.zeros((0, 2))), "differ in their number"),
    "nan": (with_value("data/demo_1/obs/state", np.full((5, 3), np.nan)), "which is not finite"),
    "too large": (with_value("data/demo_1/obs/state", np.full((5, 3), 1e300)), "is not finite"),
    "soft link": (soft_link, "is a link to '/data/demo_0/obs/state', which is refused"),
    "external link": (external_link, "in file '"),
    "external group": (external_group, "in file '"),
    "external data": (external_data, "is a link to '/data' in file 'other.hdf5'"),
    "external storage": (external_storage, "keeps its data in another file"),
    "virtual": (virtual, "is put together from other datasets"),
    "terabytes": (terabytes, "more than the "),
    "terabytes of actions": (terabytes_of_actions, "more than the "),
    "loop": (loop, "again is a group, expected an array"),
    "env_args are a number": (env_args(7), "attribute env_args is"),
    "env_args are no JSON": (env_args("{"), "attribute env_args is not JSON"),
    "env_args are a list": (env_args("[1]"), "expected a JSON object"),
    "env_args are deep": (env_args("[" * 60_000), "attribute env_args is not JSON"),
    "env_kwargs are a list": (env_args('{"env_kwargs": [1]}'), "has no control_freq"),
    "rate is text": (env_args('{"env_kwargs": {"control_freq": "20"}}'), "control rate is '20'"),
    "rate is negative": (env_args('{"env_kwargs": {"control_freq": -20}}'), "is -20 Hz, expected"),
    "rate is NaN": (env_args('{"env_kwargs": {"control_freq": NaN}}'), "is nan Hz, expected"),
    "rate is true": (env_args('{"env_kwargs": {"control_freq": true}}'), "control rate is True"),
    "own without paths": (telic(paths=None), "fields and paths do not fit"),
    "own with other paths": (telic(paths={"action": "actions"}), "fields and paths do not fit"),
    "own with wrong paths": (telic(paths={"action": 1, "state": "obs/state"}), "expected texts"),
    "own path upwards": (
        telic(paths={"action": "actions", "state": "/data/demo_0/obs/state"}),
        "has no /data/demo_0/obs/state",
    ),
    "own with wrong fields": (telic(fields={"action": 3, "state": {}}), "expected a spec"),
    "own rate": (telic(rate_hz="fast"), "control rate is 'fast'"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_wrong_is_one_line_and_leaves_no_store(
    file: Path, capsys: pytest.CaptureFixture[str], attack: str
) -> None:
    damage, says = ATTACKS[attack]
    with h5py.File(file, "r+") as made:
        damage(made, file.parent)
    before = {path.name for path in file.parent.iterdir()}
    assert convert(file) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line and str(file) in line, line
    assert len(line) < 500 and b"secret of" not in line.encode()
    assert {path.name for path in file.parent.iterdir()} == before


def test_odd_env_args_that_do_no_harm(file: Path) -> None:
    with h5py.File(file, "r+") as made:
        odd = {"type": [], "env_kwargs": {"control_freq": 20, "controller_configs": [1, 2]}}
        made["data"].attrs["env_args"] = np.bytes_(json.dumps(odd))
    assert convert(file) == 0
    assert EpisodeStore.open(file.with_name("out.zarr")).rate_hz == 20


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_a_rate_from_the_command_line_is_checked(
    file: Path, capsys: pytest.CaptureFixture[str], rate: str
) -> None:
    with h5py.File(file, "r+") as made:
        del made["data"].attrs["env_args"]
    assert convert(file, f"--rate-hz={rate}") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_no_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.hdf5")
    assert convert(tmp_path / "pipe.hdf5") == 2
    assert "is no file" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_end_in_a_store_or_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(file.read_bytes())
    if seed % 4 == 3:
        del content[int(rng.integers(len(content))) :]
    else:
        for place in rng.integers(0, len(content), 1 + seed % 5):
            content[place] = int(rng.integers(256))
    file.write_bytes(content)
    code = convert(file)
    told = capsys.readouterr().err.splitlines()
    assert (code, len(told)) in ((0, 0), (2, 1)), told
    assert code == 2 or EpisodeStore.open(file.with_name("out.zarr")).num_episodes
