"""Which device to compute on."""

from __future__ import annotations

from functools import cache

import torch


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`: auto (CUDA where there is one), cpu, cuda or cuda:1."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name} is not one of auto, cpu, cuda, cuda:1, ...") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name} is not one of auto, cpu, cuda, cuda:1, ...")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(
            f"device={name} is asked for, but torch {torch.__version__} sees {count} CUDA devices "
            "here; use device=cpu, or install a driver that fits this torch"
        )
    return device


@cache
def supports_bf16(device: torch.device) -> bool:
    """Return whether `device` multiplies bf16 matrices natively, so that bf16 is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
