"""Goals as a token for each word: what encoders answer, what is kept, who reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from telic.policy.checkpoint import load_embeddings, load_policy, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mdt import MdtConfig
from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.encoders.goals import GoalConfig, GoalEncoder, word_mask
from telic.policy.encoders.language import LanguageConfig, WordEncoder
from telic.policy.objectives.foresight import ForesightConfig
from telic.policy.policy import Policy
from telic.spec import ActRequest, Goal, Interface, Observation

DIM = 6
LANGUAGE = LanguageConfig(dim=DIM, words=True, max_words=5)
RDT = RdtConfig(width=16, num_layers=2, num_heads=2)


def words(seed: int, count: int) -> Any:
    """Return vectors of a sentence of `count` words."""
    return np.random.default_rng(seed).standard_normal((count, DIM), np.float32)


KNOWN = {"go": words(0, 1), "open the drawer": words(1, 4), "close it": words(2, 2)}


def goal_encoder(**change: Any) -> GoalEncoder:
    """Return a goal encoder of width 16 that knows the sentences of KNOWN."""
    settings: dict[str, Any] = {"language": LANGUAGE, "projection": "adaptor"}
    made = GoalEncoder(GoalConfig(**settings | change), [], 3, 16)
    assert made.language is not None
    made.language.set_embeddings(KNOWN)
    return made


def test_each_word_has_its_last_hidden_state(
    tmp_path: Path, text_model: Callable[[Path, Any], str]
) -> None:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    t5 = T5EncoderModel(
        T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    sizes = {"hidden_size": 12, "intermediate_size": 16, "num_attention_heads": 2}
    clip = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=8, num_hidden_layers=1, max_position_embeddings=8, projection_dim=4, **sizes
        )
    )
    for model, dim in ((t5, 16), (clip, 12)):
        folder = text_model(tmp_path / str(dim), model)
        language = LanguageConfig(encoder=folder, words=True).build()
        assert isinstance(language, WordEncoder) and language.dim == dim
        got = language.embed(["open drawer", "close"])
        with torch.no_grad():
            inner = getattr(model, "text_model", model)
            long = inner(torch.tensor([[3, 5, 1]])).last_hidden_state[0].numpy()
            short = inner(torch.tensor([[4, 1]])).last_hidden_state[0].numpy()
        assert np.allclose(got["open drawer"], long, atol=1e-5)
        assert np.allclose(got["close"], short, atol=1e-5)
    cut = LanguageConfig(encoder=folder, words=True, max_words=2).build()
    assert cut.embed(["open drawer"])["open drawer"].shape == (2, 12)


def test_sentences_are_padded_to_the_longest_of_the_batch() -> None:
    language = LANGUAGE.build()
    assert isinstance(language, WordEncoder)
    language.set_embeddings(KNOWN)
    language.set_embeddings({"go": KNOWN["close it"]})  # replaced by a longer one
    vectors, mask = language.words(["close it", "", "open the drawer", "go"], torch.device("cpu"))
    assert mask.sum(1).tolist() == [2, 1, 4, 2] and vectors.shape == (4, 4, DIM)
    assert torch.equal(vectors[2], torch.from_numpy(KNOWN["open the drawer"]))
    assert torch.equal(vectors[3], vectors[0])
    assert not vectors[~mask].any() and not vectors[1].any()
    for wrong in (words(0, 6), words(0, 0), words(0, 2)[0], words(0, 2)[:, :5]):
        with pytest.raises(ValueError, match=r"expected \(1 to 5, 6\) .* a row for each word"):
            language.set_embeddings({"far": wrong})


def test_a_hidden_goal_is_the_goal_not_given() -> None:
    made = goal_encoder(dropout=1.0).train()
    batch = {"text": ["open the drawer", ""]}
    goals = made.tokens(batch)
    hidden = made.mix(goals)
    mask = word_mask(goals, hidden)
    assert mask is not None and not hidden.any()
    assert mask.tolist() == [[True, False, False, False]] * 2
    shown = made.eval().mix(goals)
    mask = word_mask(goals, shown)
    assert mask is not None and mask.sum(1).tolist() == [4, 1] and shown[0].any()
    assert goal_encoder(element_dropout=1.0).train().tokens(batch).tokens.std(1).max() < 1e-6


def request(interface: Interface, text: str) -> ActRequest:
    """Return a request whose observation is zeros."""
    images = {
        c: np.zeros((1, *(n or 1 for n in s.shape)), np.uint8) for c, s in interface.images.items()
    }
    state = np.zeros((1, interface.state.shape[0] or 1), np.float32)
    return ActRequest(observation=Observation(state=state, images=images), goal=Goal(text=text))


def test_a_chunk_depends_on_its_own_words_alone_and_comes_back_from_disk(
    interface: Interface, stats: Any, tmp_path: Path
) -> None:
    goal = GoalConfig(language=LANGUAGE, projection="adaptor")
    policy = Policy(PolicyConfig(denoiser=RDT, goal=goal), interface, stats)
    policy.set_embeddings(KNOWN)
    policy.eval()
    torch.nn.init.normal_(policy.denoiser.goal_positions)  # type: ignore[arg-type]
    requests = [request(interface, text) for text in KNOWN]
    together = [chunk.actions for chunk in policy.act_batch(requests)]
    for one, want in zip(requests, together, strict=True):
        assert np.allclose(policy.act_batch([one])[0].actions, want, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3
    save_checkpoint(tmp_path / "saved", policy)
    kept = load_embeddings(tmp_path / "saved" / "embeddings.safetensors")
    assert kept.keys() == KNOWN.keys()
    assert all(np.array_equal(kept[text], KNOWN[text]) for text in KNOWN)
    loaded = load_policy(tmp_path / "saved").act_batch(requests)
    assert all(np.array_equal(a.actions, b) for a, b in zip(loaded, together, strict=True))


def test_training_reaches_the_words_projection(
    interface: Interface, stats: Any, make_batch: Callable[..., dict[str, Any]]
) -> None:
    goal = GoalConfig(language=LANGUAGE, projection="adaptor", dropout=0.2)
    config = PolicyConfig(denoiser=RDT, goal=goal)
    policy = Policy(config, interface, stats)
    policy.set_embeddings(KNOWN)
    batch = make_batch(config, 6)
    batch["text"] = [*KNOWN, *KNOWN]
    policy.train().loss(batch, torch.Generator().manual_seed(0)).total.backward()
    assert policy.conditioner.goal_encoder.text_in[0].weight.grad.abs().max() > 0  # type: ignore[index]


def test_who_cannot_read_words_says_so(interface: Interface, stats: Any) -> None:
    goal = GoalConfig(language=LANGUAGE)
    with pytest.raises(ValueError, match="kind mdt takes one for a goal; use policy=rdt"):
        Policy(PolicyConfig(denoiser=MdtConfig(), goal=goal), interface, stats)
    with pytest.raises(ValueError, match=r"policy.foresight takes one for a goal"):
        config = PolicyConfig(denoiser=RDT, goal=goal, foresight=ForesightConfig(weight=1.0))
        Policy(config, interface, stats)
    with pytest.raises(ValueError, match=r"switch policy.goal.images and state off"):
        GoalConfig(language=LANGUAGE, state=True)
    with pytest.raises(ValueError, match="max_words=0 must be at least 1"):
        LanguageConfig(max_words=0)
