"""Anchors: k-means finds what is there, motions count from the state, files and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from telic.envs import registry
from telic.policy.encoders.normalizer import Normalizer
from telic.policy.objectives.anchors import AnchorSet, build_anchors, cluster, relative_columns
from telic.spec import Array, ArraySpec, Interface

H, A = 4, 2
PLAIN = np.full(A, -1)


def normalizer(center: float = 0.0, scale: float = 1.0) -> Normalizer:
    return Normalizer(np.full(A, center), np.full(A, scale))


def windows(action: Array, state: Array | None = None) -> dict[str, Any]:
    """Return a batch of windows with these chunks and newest states."""
    state = np.zeros((len(action), 2), np.float32) if state is None else state
    return {
        "action": action.astype(np.float32),
        "state": state.astype(np.float32)[:, None],
        "action_mask": np.ones(action.shape[:2], bool),
    }


def three_motions(rng: np.random.Generator) -> tuple[Array, Array]:
    """Return three chunks and 600 noisy copies, the first chunk's the most."""
    motions = rng.uniform(-1, 1, (3, H, A))
    which = rng.choice(3, 600, p=[0.5, 0.3, 0.2])
    return motions, motions[which] + rng.normal(0, 0.02, (600, H, A))


def test_kmeans_finds_separated_clusters_the_largest_first() -> None:
    rng = np.random.default_rng(0)
    motions, chunks = three_motions(rng)
    centres, nearest = cluster(chunks.reshape(600, -1), 3, seed=0)
    assert np.abs(centres - motions.reshape(3, -1)).max() < 0.01
    assert (np.diff(np.bincount(nearest)) < 0).all()
    again, _ = cluster(chunks.reshape(600, -1), 3, seed=0)
    assert np.array_equal(centres, again)


def test_the_residual_is_the_rms_distance_to_the_nearest() -> None:
    _, chunks = three_motions(np.random.default_rng(1))
    chunks[..., 1] = np.round(chunks[..., 1], 1)  # another spread
    parts = [windows(chunks[:200]), windows(chunks[200:])]
    found = build_anchors(parts, 3, normalizer(0.5, 2.0), PLAIN)
    scaled = (chunks - 0.5) / 2
    away = scaled[:, None] - found.chunks[None]
    nearest = (away**2).sum((2, 3)).argmin(1)
    left = away[np.arange(600), nearest]
    assert np.allclose(found.residual, np.sqrt((left**2).mean((0, 1))), rtol=1e-5)
    assert found.rms == pytest.approx(np.sqrt((left**2).mean()), rel=1e-5)
    assert np.array_equal(found.counts, np.bincount(nearest)) and found.residual[0] < 0.011


def test_a_motion_from_many_places_is_one_anchor() -> None:
    rng = np.random.default_rng(2)
    motions, moved = three_motions(rng)
    places = rng.uniform(-5, 5, (600, 2))
    absolute = moved + places[:, None, ::-1]  # the action's first entry is the state's second
    columns = np.array([1, 0])
    found = build_anchors([windows(absolute, places)], 3, normalizer(3.0, 1.0), columns)
    assert np.abs(found.chunks - motions).max() < 0.01 and found.rms < 0.03
    tied = build_anchors([windows(absolute, places)], 3, normalizer(3.0, 1.0), PLAIN)
    assert tied.rms > 1


def test_chunks_cut_off_by_an_end_are_left_out() -> None:
    chunks = np.random.default_rng(3).uniform(-1, 1, (50, H, A))
    batch = windows(chunks)
    batch["action"][10:] = 99
    batch["action_mask"][10:, 2:] = False
    found = build_anchors([batch], 4, normalizer(), PLAIN)
    assert found.counts.sum() == 10 and np.abs(found.chunks).max() <= 1


def test_slots_not_in_use_are_neither_clustered_nor_counted() -> None:
    rng = np.random.default_rng(4)
    chunks = rng.uniform(-1, 1, (80, H, A))
    batch = windows(chunks)
    batch["action_slots"] = np.tile([True, False], (80, 1))
    found = build_anchors([batch], 4, normalizer(), PLAIN)
    assert np.abs(found.chunks[..., 1]).max() == 0 and found.residual[1] == 0
    assert found.rms == pytest.approx(found.residual[0])


def test_actions_count_from_the_entries_of_their_names() -> None:
    arm, hand = (registry.make(task).interface for task in ("arm7/raise", "detour/pillar"))
    assert relative_columns(arm).tolist() == list(range(7))
    assert relative_columns(arm, relative=False).tolist() == [-1] * 7
    assert relative_columns(hand).tolist() == [-1, -1], "speeds are relative as they are"
    named = Interface(
        state=ArraySpec(shape=(3,), names=("y", "x", "gripper_open")),
        action=ArraySpec(shape=(3,), names=("x", "y", "close")),
        rate_hz=10.0,
    )
    assert relative_columns(named).tolist() == [1, 0, -1]
    nameless = replace(named, action=ArraySpec(shape=(3,)))
    assert relative_columns(nameless).tolist() == [-1] * 3


@pytest.fixture
def anchors() -> AnchorSet:
    chunks = np.random.default_rng(5).uniform(-1, 1, (30, H, A))
    return build_anchors([windows(chunks)], 5, normalizer(), PLAIN)


def test_a_file_holds_all_of_them(anchors: AnchorSet, tmp_path: Path) -> None:
    anchors.save(tmp_path / "new" / "anchors.safetensors")
    back = AnchorSet.load(tmp_path / "new" / "anchors.safetensors")
    for name in ("chunks", "counts", "residual", "columns", "center", "scale"):
        assert np.array_equal(getattr(back, name), getattr(anchors, name)), name
    assert back.rms == anchors.rms


def test_other_chunks_and_scales_are_refused_in_one_line(anchors: AnchorSet) -> None:
    anchors.require(H, PLAIN, normalizer())
    for horizon, columns, scaling, message in (
        (8, PLAIN, normalizer(), "chunks of 4 actions of 2 numbers, the policy's have 8 of 2;"),
        (H, np.full(3, -1), normalizer(), "of 4 actions of 2 numbers, the policy's have 4 of 3;"),
        (H, np.array([0, -1]), normalizer(), "relative to other entries of the state"),
        (H, PLAIN, normalizer(0.1), r"scaled by other statistics \(entry 0: 0 \+- 1, the"),
        (H, PLAIN, normalizer(0.0, 2.0), r"entry 0: 0 \+- 1, the policy's 0 \+- 2\)"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            anchors.require(horizon, columns, scaling)
        assert "\n" not in str(caught.value)


def test_more_anchors_than_chunks_are_refused() -> None:
    chunks = np.random.default_rng(6).uniform(-1, 1, (6, H, A)).repeat(3, 0)
    with pytest.raises(ValueError, match="7 anchors are asked for, and only 6 different chunks of"):
        build_anchors([windows(chunks)], 7, normalizer(), PLAIN)
    assert len(build_anchors([windows(chunks)], 6, normalizer(), PLAIN).chunks) == 6


def test_what_is_no_file_of_anchors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("anchors")
    save_file({"chunks": np.zeros(3)}, tmp_path / "other")
    for name, message in (
        ("absent", "no file there; build-anchors writes one"),
        ("text", "is no safetensors file"),
        ("other", "holds no anchors; build-anchors writes them"),
    ):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            AnchorSet.load(tmp_path / name)


def test_a_damaged_file_is_one_line(anchors: AnchorSet, tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    anchors.save(whole)
    arrays = load_file(whole)
    with safe_open(whole, "np") as file:
        about = file.metadata()
    cases: list[tuple[dict[str, Array], dict[str, str], str]] = [
        ({k: v for k, v in arrays.items() if k != "counts"}, about, "lacks counts"),
        (arrays | {"more": np.zeros(1)}, about, "also holds more"),
        (arrays, {"format": about["format"]}, "lacks rms"),
        (arrays, about | {"about": "{"}, "lacks rms"),
        (arrays | {"chunks": arrays["chunks"][0]}, about, r"chunks is \(4, 2\), expected \[K H A"),
        (arrays | {"scale": np.ones(3)}, about, r"scale is \(3,\), expected \(2,\)"),
        (arrays | {"chunks": arrays["chunks"] * np.nan}, about, "chunks is not finite"),
    ]
    for changed, told, message in cases:
        save_file({k: np.ascontiguousarray(v) for k, v in changed.items()}, tmp_path / "bad", told)
        with pytest.raises(ValueError, match=f"bad: damaged .*{message}") as caught:
            AnchorSet.load(tmp_path / "bad")
        assert "\n" not in str(caught.value) and "build the anchors again" in str(caught.value)
    (tmp_path / "cut").write_bytes(whole.read_bytes()[:300])
    with pytest.raises(ValueError, match="cut: is no safetensors file, or a damaged one"):
        AnchorSet.load(tmp_path / "cut")
