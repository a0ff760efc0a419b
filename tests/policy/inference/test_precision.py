"""Number formats: each product against float32, what is replaced, and how far a chunk moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.denoiser import DenoiserConfig
from telic.policy.denoisers.kinds import KINDS
from telic.policy.denoisers.mdt import MdtConfig
from telic.policy.denoisers.mmdit import MmditConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.inference.precision import (
    PackedExperts,
    PackedLinear,
    Precision,
    available,
    packer,
    precision_named,
    quantize,
    to_int8,
)
from telic.policy.policy import Policy
from telic.policy.routing.noise import NoiseRoutingConfig
from telic.policy.routing.token import TokenRoutingConfig

CPU = torch.device("cpu")
REST = {  # what a product may be off by, as a share of its size
    Precision.fp32_packed: 1e-6,
    Precision.bf16: 6e-3,
    Precision.fp16: 6e-4,
    Precision.int8: 1.5e-2,
    Precision.w8a8: 3e-2,
}
WIDE_CONFIGS: dict[str, DenoiserConfig] = {
    "mode": ModeConfig(width=256, num_layers=2, feed_forward=512, routing=NoiseRoutingConfig()),
    "mode, token": ModeConfig(
        width=256, num_layers=2, feed_forward=1280, routing=TokenRoutingConfig()
    ),
    "mdt": MdtConfig(width=256, hidden=256, decoder_layers=1),
    "rdt": RdtConfig(width=256, num_layers=2),
    "mmdit": MmditConfig(width=256, num_layers=2, hidden=256),
}
for kind in KINDS:
    WIDE_CONFIGS.setdefault(kind, replace(KINDS[kind].small(), width=256))


@pytest.fixture(params=sorted(REST, key=lambda precision: precision.value))
def precision(request: pytest.FixtureRequest) -> Precision:
    """Return each format but fp32, where this CPU has kernels for it."""
    if request.param not in available(CPU):
        pytest.skip(f"torch has no kernel for {request.param.value} here")
    return request.param


def packed(linear: nn.Linear, precision: Precision) -> PackedLinear:
    """Return the map in that format."""
    return PackedLinear(linear, packer(precision, linear.weight.device))


@pytest.mark.parametrize("shape", [(1, 1), (3, 14), (2, 67)])
def test_products_are_close_token_by_token(precision: Precision, shape: tuple[int, int]) -> None:
    """Tokens and channels a thousand times larger than others do not drown those."""
    linear = nn.Linear(256, 512).requires_grad_(False)
    linear.weight *= torch.logspace(-1.5, 1.5, 512)[:, None]
    x = torch.randn(*shape, 256) * torch.logspace(-1.5, 1.5, shape[1])[:, None]
    got, want = packed(linear, precision)(x) - linear.bias, linear(x) - linear.bias
    off = (got - want).reshape(-1, 512) / torch.logspace(-1.5, 1.5, 512)
    size = want.reshape(-1, 512) / torch.logspace(-1.5, 1.5, 512)
    assert (off.norm(dim=1) < REST[precision] * size.norm(dim=1) + 1e-5).all()


def test_large_equal_entries_do_not_overflow(precision: Precision) -> None:
    """Where a kernel adds 8-bit products in 16 bits, 255 * 127 twice is too much."""
    linear = nn.Linear(256, 256, bias=False).requires_grad_(False)
    linear.weight.fill_(0.5)
    x = torch.ones(2, 3, 256)
    x[..., 0] = -0.01
    assert torch.allclose(packed(linear, precision)(x), linear(x), rtol=0.02)


def test_nothing_in_gives_the_bias(precision: Precision) -> None:
    linear = nn.Linear(256, 256).requires_grad_(False)
    linear.weight[3] = 0
    out = packed(linear, precision)(torch.zeros(1, 2, 256))
    assert torch.allclose(out, linear.bias.expand(1, 2, -1), atol=1e-6)


def test_integers_are_the_nearest_in_each_row() -> None:
    weight = torch.tensor([[1.27, -0.634, 0.0], [0.0, 0.0, 0.0], [-127.0, 126.4, 0.6]])
    integers, step = to_int8(weight)
    assert integers.tolist() == [[127, -63, 0], [0, 0, 0], [-127, 126, 1]]
    assert torch.allclose(step[[0, 2]], torch.tensor([0.01, 1.0]))


@pytest.mark.parametrize("name", WIDE_CONFIGS)
def test_large_matrices_of_the_blocks_are_replaced(
    name: str,
    precision: Precision,
    build: Callable[[PolicyConfig], Policy],
    make_requests: Callable[..., Any],
) -> None:
    config = PolicyConfig(denoiser=WIDE_CONFIGS[name])
    policy = build(config).eval()
    requests = make_requests(config)
    outside = {n for n, m in policy.denoiser.named_modules() if isinstance(m, nn.Linear)}
    want = policy.act_batch(requests)
    quantize(policy.denoiser, precision)
    kinds = {n: type(m) for n, m in policy.denoiser.named_modules()}
    replaced = {n for n, kind in kinds.items() if kind is PackedLinear}
    left = {n for n, kind in kinds.items() if kind is nn.Linear}
    stacks = [n for n, m in policy.denoiser.named_modules() if m in policy.denoiser.stacks()]
    assert replaced and all(n.startswith(tuple(stacks)) for n in replaced)
    assert left == {n for n in outside if not n.startswith(tuple(stacks))}
    assert (PackedExperts in kinds.values()) == name.startswith("mode")
    got = policy.act_batch(requests)
    off = np.array([a.actions - b.actions for a, b in zip(got, want, strict=True)])
    assert np.sqrt((off**2).mean()) < {Precision.fp32_packed: 1e-4}.get(precision, 0.1)
    if precision is not Precision.fp32_packed:  # another order may round to the same bits
        assert np.abs(off).max() > 0


def test_fp32_is_as_in_the_checkpoint(build: Callable[[PolicyConfig], Policy]) -> None:
    denoiser = build(PolicyConfig(denoiser=WIDE_CONFIGS["mdt"])).denoiser
    before = list(denoiser.modules())
    quantize(denoiser, precision_named("fp32"))
    assert list(denoiser.modules()) == before


def test_an_unknown_format_offers_the_near_one() -> None:
    with pytest.raises(ValueError, match=r"precision='w8a' is not one of .*did you mean w8a8\?"):
        precision_named("w8a")


def test_a_device_without_kernels_is_told() -> None:
    assert Precision.int8 not in available(torch.device("cuda"))
    with torch.device("meta"):
        linear = nn.Linear(256, 256)
    with pytest.raises(ValueError, match=r"precision=int8: torch .* has no kernel for it on meta"):
        packed(linear, Precision.int8)


def test_a_torch_without_fbgemm_has_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = type(torch.backends.quantized)
    monkeypatch.setattr(engines, "supported_engines", ["none", "qnnpack"])
    assert not {Precision.fp16, Precision.w8a8} & set(available(torch.device("cpu")))
    with pytest.raises(ValueError, match=r"precision=w8a8: torch .* no kernel .*on cpu; .*int8"):
        packed(nn.Linear(256, 256), Precision.w8a8)


def test_small_denoisers_are_told_that_nothing_would_change(
    build: Callable[[PolicyConfig], Policy],
) -> None:
    denoiser = build(PolicyConfig()).denoiser
    before = list(denoiser.modules())
    with pytest.raises(
        ValueError, match=r"precision=fp32_packed: no matrix of the denoiser is 256"
    ):
        quantize(denoiser, Precision.fp32_packed)
    assert list(denoiser.modules()) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", [Precision.bf16, Precision.w8a8])
def test_products_on_a_gpu(precision: Precision) -> None:
    linear = nn.Linear(256, 512, device="cuda").requires_grad_(False)
    for tokens in (1, 14, 67):
        x: Tensor = torch.randn(1, tokens, 256, device="cuda")
        off = packed(linear, precision)(x) - linear(x)
        assert off.norm() < REST[precision] * linear(x).norm()
