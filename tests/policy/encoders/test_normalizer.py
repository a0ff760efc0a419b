"""Normalizers: there and back, constants, bounds, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from telic.policy.encoders.normalizer import NormalizerConfig, Scaling
from telic.spec import Array, ArraySpec, FieldStats

NUMBERS = st.floats(-1e3, 1e3, width=32)


def stats_of(data: Array) -> FieldStats:
    """Return the statistics of `data` [n d]."""
    q01, q99 = np.quantile(data, [0.01, 0.99], axis=0)
    return FieldStats(
        minimum=data.min(0).astype(np.float64),
        maximum=data.max(0).astype(np.float64),
        mean=data.mean(0, np.float64),
        std=data.std(0, np.float64),
        q01=q01,
        q99=q99,
        count=len(data),
    )


@given(
    data=arrays(np.float32, (6, 3), elements=NUMBERS),
    scaling=st.sampled_from([Scaling.mean_std, Scaling.min_max, Scaling.identity, Scaling.auto]),
)
@settings(max_examples=60, deadline=None)
def test_there_and_back(data: Array, scaling: Scaling) -> None:
    spec = ArraySpec(shape=(3,))
    normalizer = NormalizerConfig(scaling=scaling).build("x", spec, stats_of(data))
    normed = normalizer.normalize(torch.from_numpy(data))
    assert torch.isfinite(normed).all()
    back = normalizer.unnormalize(normed).numpy()
    assert np.allclose(back, data, rtol=1e-4, atol=1e-5 * max(1, np.abs(data).max()))


@given(data=arrays(np.float32, (6, 3), elements=NUMBERS))
@settings(max_examples=30, deadline=None)
def test_min_max_lands_in_the_unit_range(data: Array) -> None:
    config = NormalizerConfig(scaling=Scaling.min_max)
    normalizer = config.build("x", ArraySpec(shape=(3,)), stats_of(data))
    assert normalizer.normalize(torch.from_numpy(data)).abs().max() <= 1 + 1e-3


def test_constant_entries_become_zero_whatever_the_scaling() -> None:
    data = np.tile(np.array([3.0, -7.0], np.float32), (5, 1))
    for scaling in (Scaling.mean_std, Scaling.min_max):
        normalizer = NormalizerConfig(scaling=scaling).build(
            "x", ArraySpec(shape=(2,)), stats_of(data)
        )
        assert torch.equal(normalizer.normalize(torch.from_numpy(data)), torch.zeros(5, 2))


def test_std_has_a_floor_and_outliers_are_clamped() -> None:
    data = np.array([[0.0], [1e-4]], np.float32)
    config = NormalizerConfig(scaling=Scaling.mean_std, clamp=5.0)
    normalizer = config.build("x", ArraySpec(shape=(1,)), stats_of(data))
    assert float(normalizer.scale) == pytest.approx(0.01)
    far = torch.tensor([[1.0], [-1.0]])
    assert normalizer.normalize(far).tolist() == [[5.0], [-5.0]]


def test_actions_in_the_unit_range_stay_as_they_are() -> None:
    unit = ArraySpec(shape=(2,), minimum=(-1.0,), maximum=(1.0,))
    x = torch.randn(4, 2)
    assert torch.equal(NormalizerConfig().build("action", unit, None).normalize(x), x)
    wide = ArraySpec(shape=(2,), minimum=(-2.0, 0.0), maximum=(2.0, 10.0))
    normed = (
        NormalizerConfig()
        .build("action", wide, None)
        .normalize(torch.tensor([[2.0, 0.0], [-2.0, 10.0]]))
    )
    assert normed.tolist() == [[1.0, -1.0], [-1.0, 1.0]]


def test_it_is_no_part_of_the_weights_but_moves_with_them() -> None:
    normalizer = NormalizerConfig(scaling=Scaling.identity).build("x", ArraySpec(shape=(2,)), None)
    assert not normalizer.state_dict() and not list(normalizer.parameters())
    assert normalizer.to("meta").center.device.type == "meta"


def test_what_a_scaling_needs_is_asked_for() -> None:
    free = ArraySpec(shape=(2,))
    with pytest.raises(ValueError, match="state: mean_std scaling needs the store's statistics"):
        NormalizerConfig(scaling=Scaling.mean_std).build("state", free, None)
    with pytest.raises(ValueError, match="action: bounds scaling needs a minimum and maximum"):
        NormalizerConfig(scaling=Scaling.bounds).build("action", free, None)
    with pytest.raises(ValueError, match="free size"):
        NormalizerConfig().build("state", ArraySpec(shape=(None,)), None)
    with pytest.raises(ValueError, match=r"std_floor=0.0 must be more than 0"):
        NormalizerConfig(std_floor=0.0)


@pytest.mark.parametrize("scaling", list(Scaling))
@pytest.mark.parametrize("value", [0.04, -1.0, 0.0, 1234.5])
def test_a_constant_is_answered_exactly_and_read_as_it_was(scaling: Scaling, value: float) -> None:
    """Whatever the network says and whatever is observed in its place, and rounding besides."""
    spec = ArraySpec(shape=(2,), minimum=(-2000.0,), maximum=(2000.0,))
    rng = np.random.default_rng(0)
    data = np.stack([np.full(50, value), rng.normal(size=50)], 1).astype(np.float32)
    noisy = data + np.float32([1e-6, 0]) * rng.normal(size=(50, 1)) * max(abs(value), 0.01)
    for seen in (data, noisy.astype(np.float32)):
        normalizer = NormalizerConfig(scaling=scaling).build("action", spec, stats_of(seen))
        anything = torch.from_numpy(rng.normal(0, 9, (40, 2)).astype(np.float32))
        answered = normalizer.unnormalize(anything)
        assert len(answered[:, 0].unique()) == 1 < len(answered[:, 1].unique())
        assert answered[0, 0].item() == pytest.approx(value, rel=1e-5, abs=1e-6)
        read = normalizer.normalize(torch.from_numpy(seen))
        assert torch.equal(normalizer.normalize(anything)[0, 0], read[0, 0])
    exact = NormalizerConfig(scaling=scaling).build("action", spec, stats_of(data))
    assert torch.equal(exact.unnormalize(anything)[:, 0], torch.from_numpy(data[:40, 0]))


def test_what_varies_a_little_is_no_constant() -> None:
    """A hundredth of a millimetre, or an encoder's last digits."""
    data = np.float32([[0.40001, 1000.0], [0.40002, 1000.5], [0.40000, 1001.0]])
    normalizer = NormalizerConfig().build("x", ArraySpec(shape=(2,)), stats_of(data))
    assert normalizer.constant is None
