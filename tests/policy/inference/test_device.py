"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from telic.policy.inference.device import pick_device, supports_bf16


def test_devices_are_picked_by_name() -> None:
    best = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device().type == best and pick_device("cpu").type == "cpu"
    assert isinstance(supports_bf16(pick_device("cpu")), bool)


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:x", ""])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"device={name} is not one of auto, cpu, cuda"):
        pick_device(name)


def test_absent_gpus_are_named() -> None:
    with pytest.raises(ValueError, match=r"device=cuda:99 is asked for, but torch .* sees"):
        pick_device("cuda:99")
