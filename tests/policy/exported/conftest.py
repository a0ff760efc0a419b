"""A tiny checkpoint and what export-policy makes of it; skipped where the extras are absent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from telic.policy.checkpoint import save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.encoders.images import ImageConfig, Pooling
from telic.policy.encoders.towers import KEYPOINT_CONV
from telic.policy.inference.prefix import PrefixConfig
from telic.policy.policy import Policy
from telic.spec import ArraySpec, Interface
from telic.tests.policy.small_stats import small_stats

P, A, SIDE = 5, 3, 16
SENTENCES = ["open the drawer", "close the drawer"]


def tiny_policy() -> Policy:
    """A MoDE that sees one camera and was trained on prefixes."""
    torch.manual_seed(0)
    spread = small_stats(state=P, action=A)
    interface = Interface(
        state=ArraySpec(shape=(P,), names=tuple(f"joint_{i}" for i in range(P)), unit="rad"),
        action=ArraySpec(shape=(A,), names=("x", "y", "gripper"), minimum=(-1.0,), maximum=(1.0,)),
        rate_hz=20.0,
        images={"front": ArraySpec(shape=(SIDE, SIDE, 3), dtype="uint8")},
    )
    config = PolicyConfig(
        denoiser=ModeConfig(width=32, num_layers=2, num_heads=2, feed_forward=32),
        images=ImageConfig(tower=KEYPOINT_CONV, pooling=Pooling.keypoints),
        sampling=SamplingConfig(sigmas=[5.0, 0.5]),
        prefix=PrefixConfig(max_delay=2),
        action_horizon=6,
    )
    policy = Policy(config, interface, spread).eval()
    rng = np.random.default_rng(7)
    policy.set_embeddings({text: rng.standard_normal(384, np.float32) for text in SENTENCES})
    return policy


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of `tiny_policy`."""
    folder = tmp_path_factory.mktemp("exported") / "checkpoint"
    save_checkpoint(folder, tiny_policy())
    return folder


@pytest.fixture(scope="session")
def exported(checkpoint: Path) -> Path:
    """Return what export-policy makes of it in fp32."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"telic[onnx] is not installed: no {package}")
    from telic.export import main

    out = checkpoint.with_name("fp32")
    main([str(checkpoint), str(out)])
    return out


@pytest.fixture
def own(exported: Path, tmp_path: Path) -> Callable[[], Path]:
    """Return a maker of copies of the exported folder, to be damaged."""

    def copy() -> Path:
        return Path(shutil.copytree(exported, tmp_path / "copy"))

    return copy
