"""EDM: its density of sigma, its weighting, and the network that makes it exact."""

from __future__ import annotations

import pytest
import torch

from telic.policy.diffusion.edm import EdmConfig
from telic.policy.diffusion.formulation import squared_error


def test_sigmas_have_the_published_quantiles() -> None:
    sigma = (
        EdmConfig()
        .build()
        .draw_sigma(200_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    )
    levels = torch.tensor([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    want = torch.tensor([0.050, 0.116, 0.289, 0.500, 0.866, 2.17, 4.97])
    assert sigma.dtype == torch.float32
    assert torch.allclose(sigma.quantile(levels), want, rtol=0.04)
    assert sigma.min() >= 0.001 and sigma.max() <= 80


def test_density_is_cut_off_at_its_ends() -> None:
    edm = EdmConfig(sigma_min=0.4, sigma_max=0.6).build()
    sigma = edm.draw_sigma(5000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert 0.4 <= sigma.min() < 0.402 and 0.598 < sigma.max() <= 0.6


def test_loss_is_the_weighted_error_of_the_denoised() -> None:
    """Mean (F - target)^2 = (D - x0)^2 (sigma^2 + sd^2) / (sigma sd)^2 (EDM, equation 8)."""
    edm = EdmConfig().build()
    clean, noise = torch.rand(6, 4, 2) - 0.5, torch.randn(6, 4, 2)
    sigma = torch.tensor([0.01, 0.1, 0.5, 1.0, 5.0, 60.0])

    def network(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x + sigma[:, None, None].log())

    pair = edm.training_pair(clean, noise, sigma)
    loss = squared_error(network(pair.network_input, sigma), pair.target)
    denoised = edm.denoise(network, clean + sigma[:, None, None] * noise, sigma)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    assert torch.allclose(loss, weight * squared_error(denoised, clean), rtol=1e-3)


def test_target_recovers_the_clean_chunk() -> None:
    edm = EdmConfig().build()
    clean, noise = torch.rand(3, 4, 2), torch.randn(3, 4, 2)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    target = edm.training_pair(clean, noise, sigma).target
    got = edm.denoise(lambda x, s: target, clean + sigma[:, None, None] * noise, sigma)
    assert torch.allclose(got, clean, atol=1e-5)


def test_shared_sigma_is_the_same_as_repeated() -> None:
    edm = EdmConfig().build()
    x = torch.randn(3, 4, 2)
    shared, repeated = torch.tensor([0.7]), torch.full((3,), 0.7)
    one, each = (edm.denoise(lambda x, s: x, x, sigma) for sigma in (shared, repeated))
    assert torch.allclose(one, each, atol=1e-6)


def test_scalings_keep_unit_variance() -> None:
    sigma = torch.logspace(-3, 2, 20)
    c_skip, c_out, c_in = EdmConfig().build().scalings(sigma)
    assert torch.allclose(c_in**2 * (sigma**2 + 0.25), torch.ones(20))
    assert torch.allclose(c_skip**2 * (sigma**2 + 0.25) * 4, 1 - 4 * c_out**2, atol=1e-5)


def test_masked_actions_do_not_count() -> None:
    answer, target = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    spoiled = answer.clone()
    spoiled[1, 2:] = 1e6
    error = squared_error(answer, target, mask)
    assert torch.equal(error, squared_error(spoiled, target, mask))
    assert torch.allclose(error[0], (answer - target)[0].square().mean())
    assert torch.allclose(error[1], (answer - target)[1, :2].square().sum() / 12)


def test_bf16_answers_are_compared_in_float32() -> None:
    target = torch.randn(2, 4, 3)
    assert squared_error(target.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize(
    "bad", [{"sigma_min": 0.0}, {"sigma_max": 0.0001}, {"sigma_data": 0.0}, {"density_scale": -1.0}]
)
def test_impossible_densities_are_refused(bad) -> None:
    with pytest.raises(ValueError, match="formulation"):
        EdmConfig(**bad)
