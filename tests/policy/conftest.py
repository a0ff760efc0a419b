"""Small real policies, and batches made from their own interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.policy import Policy
from telic.spec import ActRequest, ArraySpec, FieldStats, Goal, Interface, Observation
from telic.tests.policy.small_stats import small_stats

P, A, SCENE, SIDE = 5, 3, 4, 32
SENTENCES = ["open the drawer", "close the drawer"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Make every test the same in any order."""
    torch.manual_seed(0)


@pytest.fixture
def tiny() -> ModeConfig:
    """Return a MoDE of two layers."""
    return ModeConfig(width=32, num_layers=2, num_heads=2, feed_forward=32)


@pytest.fixture
def stats() -> dict[str, FieldStats]:
    """Return statistics under which normalising a state changes it."""
    return small_stats(state=P, action=A, scene=SCENE)


@pytest.fixture
def interface() -> Interface:
    """Return an interface with two cameras."""
    picture = ArraySpec(shape=(SIDE, SIDE, 3), dtype="uint8")
    return Interface(
        state=ArraySpec(shape=(P,)),
        action=ArraySpec(shape=(A,), minimum=(-1.0,), maximum=(1.0,)),
        rate_hz=20.0,
        images={"front": picture, "wrist": picture},
    )


@pytest.fixture
def build(
    interface: Interface, stats: dict[str, FieldStats], tiny: ModeConfig
) -> Callable[[PolicyConfig], Policy]:
    """Return a builder of policies with known sentences; a config without kind becomes `tiny`."""

    def make(config: PolicyConfig) -> Policy:
        config.denoiser = config.denoiser or tiny
        policy = Policy(config, interface, stats)
        rng = np.random.default_rng(7)
        if policy.language_name is not None:
            vectors = {text: rng.standard_normal(384, np.float32) for text in SENTENCES}
            policy.set_embeddings(vectors)
        return policy

    return make


@pytest.fixture
def make_batch(interface: Interface) -> Callable[..., dict[str, Any]]:
    """Return a maker of window batches that hold all a policy of that config may read."""

    def make(config: PolicyConfig, size: int = 4, seed: int = 0) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        horizon = config.obs_horizon
        batch: dict[str, Any] = {
            "state": rng.standard_normal((size, horizon, P), np.float32),
            "action": rng.uniform(-1, 1, (size, config.action_horizon, A)).astype(np.float32),
            "action_mask": np.ones((size, config.action_horizon), bool),
            "goal_state": rng.standard_normal((size, P), np.float32),
            "scene": rng.standard_normal((size, SCENE), np.float32),
        }
        for camera in interface.images:
            frames = rng.integers(0, 256, (size, horizon, SIDE, SIDE, 3), np.uint8)
            batch[f"image/{camera}"] = frames
            batch[f"goal_image/{camera}"] = frames[:, 0]
            batch[f"future_image/{camera}"] = frames[:, -1]
        tensors: dict[str, Any] = {k: torch.from_numpy(v) for k, v in batch.items()}
        return tensors | {"text": [SENTENCES[i % 2] for i in range(size)]}

    return make


@pytest.fixture
def make_requests(interface: Interface) -> Callable[..., list[ActRequest]]:
    """Return a maker of requests with a sentence as goal, each with its own seed."""

    def make(config: PolicyConfig, seeds: Sequence[int] = (0, 1, 2)) -> list[ActRequest]:
        requests = []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            shape = (config.obs_horizon, SIDE, SIDE, 3)
            observation = Observation(
                state=rng.standard_normal((config.obs_horizon, P), np.float32),
                images={c: rng.integers(0, 256, shape, np.uint8) for c in interface.images},
                t_obs_ns=1000 + seed,
            )
            goal = Goal(text=SENTENCES[seed % 2])
            requests.append(ActRequest(observation=observation, goal=goal, seed=seed, step=4))
        return requests

    return make


def write_text_model(folder: Path, model: Any) -> str:
    """Write a tiny model of `transformers` and a tokenizer of five words; return the folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<end>": 1, "<unk>": 2, "open": 3, "close": 4, "drawer": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(folder)
    model.eval().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def text_model() -> Callable[[Path, Any], str]:
    """Return `write_text_model`."""
    return write_text_model
