"""A checkpoint is loaded as it was written, to the last bit, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from telic.policy import digests
from telic.policy.checkpoint import load_policy, load_train_state, read_config, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.objectives.anchors import AnchorSet
from telic.policy.policy import Policy

Build = Callable[[PolicyConfig], Policy]
STATE = {"weights": {}, "ema": {}, "optimizer": {"rate": 0.1}, "progress": {"step": 3}}


@pytest.fixture
def saved(build: Build, tmp_path: Path) -> Path:
    """Return a checkpoint with every kind of file in it."""
    config = PolicyConfig()
    config.images.cameras = []

    def write_language(folder: Path) -> None:
        folder.mkdir()
        (folder / "tokenizer.json").write_text("{}")

    policy = build(config)
    save_checkpoint(tmp_path / "best", policy, STATE, write_language=write_language)
    return tmp_path / "best"


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file over."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_no_flipped_bit_of_any_file_is_loaded(saved: Path, tmp_path: Path) -> None:
    names = ["model.safetensors", "embeddings.safetensors", "stats.safetensors", "spec.json"]
    names += ["config.yaml"]
    rng = np.random.default_rng(0)
    for name in names:
        for bit in rng.integers(8 * (saved / name).stat().st_size, size=6):
            copy = tmp_path / "copy"
            shutil.copytree(saved, copy, dirs_exist_ok=True)
            flip(copy / name, int(bit))
            with pytest.raises(ValueError, match=str(copy)) as error:
                load_policy(copy)
            assert "\n" not in str(error.value), (name, bit)
            shutil.copy(saved / name, copy / name)
    load_policy(copy)


@pytest.mark.parametrize("name", ["tree.json", "tensors.safetensors"])
def test_damaged_training_state_is_named(saved: Path, name: str) -> None:
    flip(saved / "train_state" / name, 40)
    load_policy(saved)  # does not read it
    with pytest.raises(ValueError, match=f"train_state/{name}: damaged .its sha256"):
        load_train_state(saved)


def test_a_damaged_text_tower_is_found_when_it_is_needed(saved: Path) -> None:
    flip(saved / "language" / "tokenizer.json", 3)
    policy = load_policy(saved)
    assert isinstance(policy, Policy)
    policy.embed(["open the drawer"])  # known
    with pytest.raises(ValueError, match=r"language/tokenizer\.json: damaged"):
        policy.embed(["something else"])


def test_what_has_no_digests_loads_if_it_never_had_them(saved: Path) -> None:
    (saved / digests.FILE).unlink()
    with pytest.raises(ValueError, match=r"digests\.json is missing; the checkpoint is incomplete"):
        load_policy(saved)
    config = saved / "config.yaml"
    config.write_text(config.read_text().replace("digests: sha256\n", ""))
    load_policy(saved)  # as written before there were any


def test_a_change_made_on_purpose_can_be_accepted(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = saved / "config.yaml"
    config.write_text(config.read_text() + "note: mine\n")
    with pytest.raises(ValueError, match=f"run python -m telic.policy.digests {saved}"):
        read_config(saved)
    monkeypatch.setattr("sys.argv", ["digests", str(saved)])
    assert digests.main() == 0
    assert read_config(saved)["note"] == "mine"
    monkeypatch.setattr("sys.argv", ["digests", str(saved.parent)])
    assert digests.main() == 2


def test_another_size_is_told_without_reading_a_terabyte(saved: Path) -> None:
    os.truncate(saved / "model.safetensors", 1 << 40)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged .its size is not"):
        load_policy(saved)


def test_a_digest_left_out_is_damage(saved: Path) -> None:
    path = saved / digests.FILE
    path.write_text(path.read_text().replace('"spec.json"', '"spec.jsom"'))
    with pytest.raises(ValueError, match=r"no digest of spec\.json"):
        load_policy(saved)


def test_the_pretrained_checkpoint_of_before_loads(shared: Path) -> None:
    folder = shared / "pretrained" / "playtable_state_b074e69"
    if not folder.is_dir():
        pytest.skip("the pretrained checkpoint is absent")
    assert load_policy(folder).action_horizon >= 1


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_that_any_file_has(
    build: Build, tmp_path: Path, umask: int, mode: int
) -> None:
    config = PolicyConfig()
    config.images.cameras = []
    before = os.umask(umask)
    try:
        save_checkpoint(tmp_path / "best", build(config), STATE)
        ones = np.ones(1, np.float32)
        anchors = AnchorSet(
            chunks=np.ones((1, 1, 1), np.float32),
            counts=np.ones(1, np.int64),
            residual=np.ones(1),
            rms=1.0,
            columns=np.array([-1]),
            center=ones,
            scale=ones,
        )
        anchors.save(tmp_path / "anchors.safetensors")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 9
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}
