"""Goals: sentences that only differ in their verb, pictures, states, and what training hides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from telic.policy.config import PolicyConfig
from telic.policy.encoders.goals import GoalConfig, GoalEncoder
from telic.policy.encoders.images import ImageConfig
from telic.policy.encoders.language import LanguageConfig, LanguageEncoder
from telic.policy.policy import Policy
from telic.spec import Goal
from telic.tests.policy.tiny_models import clip_text_model

OPEN = ["open the drawer", "pull the drawer open", "slide out the drawer", "open up the drawer"]
CLOSE = ["close the drawer", "push the drawer shut", "slide in the drawer", "shut the drawer"]


@pytest.fixture(scope="module")
def minilm() -> LanguageEncoder:
    """Return the text encoder that comes with the project."""
    return LanguageConfig().build()


def encoder(config: GoalConfig, language: LanguageEncoder | None = None) -> GoalEncoder:
    """Return a goal encoder of width 16 over a 5-d state and one camera."""
    made = GoalEncoder(config, ["front"] if config.images else [], 5, 16)
    if language is not None:
        made.language = language
    return made


def test_minilm_knows_what_is_alike(minilm: LanguageEncoder) -> None:
    """Cosines as measured when the encoder was chosen; entries of size 1."""
    texts = ["open the drawer", "close the drawer", "shut the drawer", "reach the goal"]
    vectors = minilm.embed(texts)
    v = torch.stack([torch.from_numpy(vectors[text]) for text in texts])
    assert v.shape == (4, 384)
    assert torch.allclose(v.square().mean(-1), torch.ones(4), atol=1e-4)
    cosine = F.cosine_similarity(v[:1], v[1:])
    assert float(cosine[0]) == pytest.approx(0.90, abs=0.03) and float(cosine[2]) < 0.5


def test_a_sentence_has_one_vector_in_any_company(minilm: LanguageEncoder) -> None:
    alone = LanguageConfig().build().embed(["push the drawer shut"])["push the drawer shut"]
    together = minilm.embed([*OPEN, *CLOSE])["push the drawer shut"]
    assert np.allclose(alone, together, atol=1e-4)


def test_antonyms_come_apart_after_the_projection(minilm: LanguageEncoder) -> None:
    """A projection trained on three phrasings each tells the fourth ones apart."""
    made = encoder(GoalConfig(), minilm).train()
    head = torch.nn.Linear(16, 1)
    optimizer = torch.optim.AdamW([*made.parameters(), *head.parameters()], lr=1e-3)
    texts, target = OPEN[:3] + CLOSE[:3], torch.tensor([1.0] * 3 + [0.0] * 3)
    for _ in range(60):
        optimizer.zero_grad()
        logits = head(made({"text": texts})[:, 0])[:, 0]
        F.binary_cross_entropy_with_logits(logits, target).backward()
        optimizer.step()
    held_out = made.eval()({"text": [OPEN[3], CLOSE[3]]})[:, 0]
    opening, closing = head(held_out)[:, 0].tolist()
    assert opening > 1 and closing < -1


def test_given_vectors_need_no_text_model() -> None:
    language = LanguageConfig(encoder="nowhere/to-be-found", dim=4).build()
    language.set_embeddings({"go": np.arange(4, dtype=np.float32)})
    rows = language(["go", "", "go"], torch.device("cpu"))
    assert rows.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 2, 3]]
    assert language.known.keys() == {"go"}
    language.set_embeddings({"go": np.ones(4, np.float32), "stop": np.zeros(4, np.float32)})
    assert language(["go"], torch.device("cpu")).tolist() == [[1, 1, 1, 1]]
    with pytest.raises(ValueError, match=r"'go' has shape \(5,\), expected \(4,\)"):
        language.set_embeddings({"go": np.ones(5, np.float32)})
    with pytest.raises(ValueError, match=r"encoder='nowhere/to-be-found' is neither a folder"):
        language.embed(["unknown"])


def test_clip_gives_its_projected_end_of_text(
    tmp_path: Path, text_model: Callable[[Path, Any], str]
) -> None:
    model = clip_text_model()
    language = LanguageConfig(encoder=text_model(tmp_path, model)).build()
    assert language.dim == 12 and language.name == tmp_path.name
    got = language.embed(["open drawer", "close"])
    with torch.no_grad():
        states = model.text_model(torch.tensor([[3, 5, 1]])).last_hidden_state
        want = model.text_projection(states[0, 2]).numpy()
    assert np.allclose(got["open drawer"], want, atol=1e-5)
    assert not np.allclose(got["close"], want, atol=1e-3)


def test_other_text_models_give_their_mean(
    tmp_path: Path, text_model: Callable[[Path, Any], str]
) -> None:
    from transformers import T5Config, T5EncoderModel

    model = T5EncoderModel(
        T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    language = LanguageConfig(encoder=text_model(tmp_path, model)).build()
    got = language.embed(["open drawer", "close"])  # padded to three tokens
    with torch.no_grad():
        want = model(torch.tensor([[4, 1]])).last_hidden_state[0].mean(0).numpy()
    assert np.allclose(got["close"], want, atol=1e-5)


def test_several_goals_are_averaged_and_absent_ones_left_out() -> None:
    made = encoder(GoalConfig(state=True, language=LanguageConfig(dim=4))).eval()
    assert made.language is not None
    made.language.set_embeddings({"go": np.ones(4, np.float32)})
    state = torch.randn(4, 5)
    given = torch.tensor([True, True, False, False])
    token = made({"text": ["go", "", "go", ""], "goal_state": state, "goal_state_given": given})
    text = made.text_in(torch.ones(4))
    seen = made.state_in(state.unsqueeze(1))[:, 0]
    assert torch.allclose(token[0, 0], (text + seen[0]) / 2, atol=1e-6)
    assert torch.allclose(token[1, 0], seen[1], atol=1e-6)
    assert torch.allclose(token[2, 0], text, atol=1e-6)
    assert torch.equal(token[3, 0], torch.zeros(16))


def hidden_share(config: GoalConfig, texts: list[str]) -> tuple[float, float, float]:
    """Return how often training shows only the text, only the state, and nothing."""
    made = encoder(config).train()
    assert made.language is not None
    made.language.set_embeddings({"go": np.ones(4, np.float32)})
    state = torch.ones(len(texts), 5)
    generator = torch.Generator().manual_seed(0)
    token = made({"text": texts, "goal_state": state}, generator)[:, 0]
    text, seen = made.text_in(torch.ones(4)), made.state_in(state[:1].unsqueeze(1))[0, 0]
    return tuple(
        float((token - want).abs().amax(-1).lt(1e-5).float().mean())
        for want in (text, seen, torch.zeros(16))
    )


def test_training_hides_goals_at_the_configured_rates() -> None:
    base = {"state": True, "language": LanguageConfig(dim=4)}
    both = ["go"] * 4000
    only_text, only_state, none = hidden_share(GoalConfig(**base, modality_dropout=0.5), both)
    # of two goals, the other is hidden when its draw is the smaller one and below 0.5
    assert only_text == pytest.approx(0.375, abs=0.03) and none == 0
    assert only_text == pytest.approx(only_state, abs=0.04)
    only_text, only_state, none = hidden_share(GoalConfig(**base, modality_dropout=1.0), both)
    assert only_text + only_state == pytest.approx(1) and none == 0
    _, only_state, none = hidden_share(GoalConfig(**base, modality_dropout=1.0), [""] * 4000)
    assert only_state == 1
    rates = GoalConfig(**base, modality_dropout=0.0, dropout=0.2)
    only_text, only_state, none = hidden_share(rates, both)
    assert none == pytest.approx(0.2, abs=0.03) and only_text == only_state == 0


def test_published_masking_hides_entries_without_rescaling() -> None:
    config = GoalConfig(language=LanguageConfig(dim=1000), element_dropout=0.1)
    made = encoder(config)
    assert made.language is not None
    made.language.set_embeddings({"go": np.ones(1000, np.float32)})
    made.text_in = torch.nn.Identity()
    made.text_in.weight = torch.nn.Parameter(torch.zeros(1))
    token = made.train()({"text": ["go"] * 20}, torch.Generator().manual_seed(0))
    assert set(token.unique().tolist()) == {0.0, 1.0}
    assert float(token.mean()) == pytest.approx(0.9, abs=0.01)
    assert torch.equal(made.eval()({"text": ["go"]}), torch.ones(1, 1, 1000))


def test_a_generator_decides_what_is_hidden() -> None:
    made = encoder(GoalConfig(dropout=0.5, language=LanguageConfig(dim=4))).train()
    assert made.language is not None
    made.language.set_embeddings({"go": np.ones(4, np.float32)})
    draws = [made({"text": ["go"] * 50}, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_policies_take_pictures_and_states_as_goals(
    build: Callable[[PolicyConfig], Policy], make_requests: Callable[..., Any], make_batch
) -> None:
    """Each goal alone acts, and which one is given shows in the action."""
    image = ImageConfig(cameras=["wrist"])
    config = PolicyConfig(goal=GoalConfig(images=True, state=True, image=image))
    config.images.cameras = ["front"]
    policy = build(config)
    assert list(policy.interface.images) == ["front", "wrist"]
    policy(make_batch(config), torch.Generator().manual_seed(0)).total.backward()
    request = make_requests(config, [0])[0]
    picture = request.observation.images["wrist"][0]
    actions = []
    for goal in (
        Goal(text="open the drawer"),
        Goal(images={"wrist": picture}),
        Goal(images={"wrist": 255 - picture}),
        Goal(state=np.ones(5, np.float32)),
    ):
        request.goal = goal
        actions.append(policy.act_batch([request])[0].actions)
    for i in range(4):
        for j in range(i):
            assert np.abs(actions[i] - actions[j]).max() > 1e-5, (i, j)


def test_goals_the_policy_cannot_read_are_named(
    build: Callable[[PolicyConfig], Policy], make_requests: Callable[..., Any]
) -> None:
    config = PolicyConfig()
    config.images.cameras = []
    policy = build(config)
    request = make_requests(config, [0])[0]
    request.goal = Goal(state=np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="no goal this policy understands; it was trained on text"):
        policy.act_batch([request])
    with pytest.raises(ValueError, match="neither text, images nor state"):
        GoalConfig(text=False)
    with pytest.raises(ValueError, match=r"policy.goal.dropout=2.0 must lie in \[0, 1\]"):
        GoalConfig(dropout=2.0)
