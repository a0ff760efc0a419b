"""What a measured number depends on besides the code: the machine and the versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("telic", "torch", "numpy", "mujoco", "gymnasium", "metaworld")


def machine() -> dict[str, str | int | float]:
    """Return processor, cores it may use, torch's threads, load before the run, GPU, system."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Return the versions of those of `packages` that are installed: what computes, simulates."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    """Return the processor's name; Linux tells it in /proc, and not always."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else ""
    return name if name and name != "unknown" else platform.processor() or platform.machine()
