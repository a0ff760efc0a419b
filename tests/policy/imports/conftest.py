"""Tensors with published names and shapes; the values are random."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

LISTS = Path(__file__).parent / "state_dicts"


def listed(name: str) -> dict[str, Tensor]:
    """Return a published list of tensors (state_dicts/NAME.txt) on the meta device."""
    tensors = {}
    for line in (LISTS / f"{name}.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        key, shape, dtype, *_ = line.split("\t")
        sizes = [int(n) for n in shape.strip("()").split(",") if n.strip()]
        tensors[key] = torch.empty(sizes, dtype=getattr(torch, dtype), device="meta")
    return tensors


def fill(tensors: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Return random values of the same names, shapes and dtypes, sized so that signals survive."""
    generator = torch.Generator().manual_seed(seed)
    filled = {}
    for name, tensor in tensors.items():
        shape = tensor.shape
        if not tensor.is_floating_point():
            filled[name] = torch.zeros(shape, dtype=tensor.dtype)
            continue
        value = torch.randn(shape, generator=generator) / math.sqrt(max(1, shape[1:].numel()))
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith((".weight", ".g"))):
            value = torch.rand(shape, generator=generator) + 0.5  # variances and gains
        filled[name] = value.to(tensor.dtype)
    return filled


def clip_shapes(
    prefix: str, width: int, layers: int, vocabulary: int, out: int
) -> dict[str, Tensor]:
    """Return OpenAI's names of a small CLIP: both halves of `layers` layers."""
    half, full = torch.float16, torch.float32
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "positional_embedding": ((77, width), full),
        "text_projection": ((width, out), half),
        "logit_scale": ((), full),
        "token_embedding.weight": ((vocabulary, width), full),
        "ln_final.weight": ((width,), full),
        "ln_final.bias": ((width,), full),
        "visual.class_embedding": ((width,), full),
        "visual.positional_embedding": ((50, width), full),
        "visual.proj": ((width, out), half),
        "visual.conv1.weight": ((width, 3, 32, 32), half),
    }
    for name in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{name}.{part}": ((width,), full) for part in ("weight", "bias")}
    for at in ("transformer", "visual.transformer"):
        for layer in range(layers):
            block = f"{at}.resblocks.{layer}"
            shapes |= {
                f"{block}.attn.in_proj_weight": ((3 * width, width), half),
                f"{block}.attn.in_proj_bias": ((3 * width,), half),
                f"{block}.attn.out_proj.weight": ((width, width), half),
                f"{block}.attn.out_proj.bias": ((width,), half),
                f"{block}.mlp.c_fc.weight": ((4 * width, width), half),
                f"{block}.mlp.c_fc.bias": ((4 * width,), half),
                f"{block}.mlp.c_proj.weight": ((width, 4 * width), half),
                f"{block}.mlp.c_proj.bias": ((width,), half),
            }
            for name in ("ln_1", "ln_2"):
                shapes |= {
                    f"{block}.{name}.{part}": ((width,), full) for part in ("weight", "bias")
                }
    return {
        f"{prefix}{name}": torch.empty(shape, dtype=dtype, device="meta")
        for name, (shape, dtype) in shapes.items()
    }


@pytest.fixture(name="listed")
def _listed() -> Callable[[str], dict[str, Tensor]]:
    return listed


@pytest.fixture(name="fill")
def _fill() -> Callable[..., dict[str, Tensor]]:
    return fill


@pytest.fixture(name="clip_shapes")
def _clip_shapes() -> Callable[..., dict[str, Tensor]]:
    return clip_shapes
