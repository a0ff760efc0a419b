"""A processor that rounds otherwise at every size: `pytest -p telic.tests.another_rounding`.

What is computed at one size comes out the same each time; at another size (a batch, a length, a
width) it is off in the last bit, as where a library picks its kernel by the size. A comparison of
bits that passes here compares what was computed the same way.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.utils._python_dispatch import TorchDispatchMode

_NAMES = """
    mm addmm bmm baddbmm mv addmv dot convolution _scaled_dot_product_flash_attention_for_cpu
    _weight_int8pack_mm _linear_pointwise linear_dynamic linear_dynamic_fp16
    sum mean var var_mean native_layer_norm _softmax _log_softmax linalg_vector_norm logsumexp
    exp tanh sin cos gelu silu sigmoid erf log rsqrt pow softplus log1p expm1
"""
_ROUNDED = frozenset(_NAMES.split())
_SHARE = 0.02  # of the 16-bit numbers: most stay when the float32 sum before them moves by one bit


@pytest.fixture(autouse=True)
def another_rounding() -> Iterator[None]:
    """Round otherwise at every size, in this process."""
    with _Rounding():
        yield


class _Rounding(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name.startswith("_foreach_") and name.endswith("_"):
            increment_version(args[0])  # as it does outside such a mode
        first = out[0] if isinstance(out, (tuple, list)) and out else out
        if name in _ROUNDED and isinstance(first, Tensor) and first.device.type == "cpu":
            _nudge(first, zlib.crc32(repr((name, _sizes(args))).encode()))
        return out


def _sizes(value: Any) -> Any:
    """Shapes of all tensors in an argument."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return tuple(map(_sizes, value)) if isinstance(value, (list, tuple)) else None


def _nudge(out: Tensor, seed: int) -> None:
    """Move entries by -1, 0 or 1 unit in the last place; whole numbers are exact and stay."""
    if out.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return
    step = torch.finfo(out.dtype).eps * _pattern(seed, tuple(out.shape), out.dtype is torch.float32)
    with torch.no_grad():
        exact = out.float()
        out.detach().copy_(exact.where(exact == exact.round(), exact * (1 + step)))


@lru_cache(maxsize=4096)
def _pattern(seed: int, shape: tuple[int, ...], every: bool) -> Tensor:
    """-1, 0 or 1 for each entry, the same at each call."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(-1, 2, shape, generator=generator).float()
    return signs if every else signs * (torch.rand(shape, generator=generator) < _SHARE)
