"""A path to the policy that acts by it: an exported folder, opened without torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from telic.policy.exported.manifest import Manifest
from telic.policy.exported.policy import ExportedPolicy
from telic.policy.exported.runtimes import AUTO
from telic.policy.inference_config import InferenceConfig


def open_exported(
    folder: str | Path,
    inference: InferenceConfig | None = None,
    threads: int = 1,
    embodiment: str | None = None,
) -> ExportedPolicy:
    """Open an exported folder, acting as `inference` says.

    ValueError where that is not what the graph was made for, the folder is damaged, or the runtime
    is not there.
    """
    inference = inference or InferenceConfig()
    policy = ExportedPolicy.open(folder, inference.runtime or AUTO, threads)
    _require_made_for(policy.manifest, inference, str(folder))
    if embodiment is not None:
        raise ValueError(
            f"embodiment={embodiment}: the graph in {folder} is one robot's; export-policy "
            f"--embodiment {embodiment} makes that one's"
        )
    return policy


def _require_made_for(manifest: Manifest, inference: InferenceConfig, folder: str) -> None:
    """Raise ValueError for a choice that the graph was not made with."""
    again = f"the graph in {folder} was made with"
    made: dict[str, Any] = {"precision": manifest.precision, **(manifest.sampling["start"] or {})}
    for name, key in (("precision", "precision"), ("anchors", "best"), ("temperature",) * 2):
        wanted = getattr(inference, name)
        if wanted is not None and wanted != made.get(key):
            raise ValueError(f"{name}={wanted}: {again} {made.get(key)}; export it anew")
    way = "trained" if manifest.max_delay else "none"
    if inference.prefixing not in (None, way):
        raise ValueError(f"prefixing={inference.prefixing}: {again} {way}; export it anew")
    if given := inference.sampling.given:
        _require_schedule(manifest, inference, f"sampling.{min(given)}={given[min(given)]}")


def _require_schedule(manifest: Manifest, inference: InferenceConfig, key: str) -> None:
    """Raise ValueError unless the sampling chosen is the one that the graph walks."""
    from telic.policy.diffusion.sampling import SamplingConfig

    made = dict(manifest.sampling)
    sigmas = made["sigmas"]
    wanted = inference.sampling.of(SamplingConfig(sigmas=sigmas, sampler=made["sampler"]))
    levels = wanted.levels()[:-1].tolist()
    same = len(levels) == len(sigmas) and all(map(math.isclose, levels, sigmas))
    if not same or wanted.sampler != made["sampler"]:
        listed = ", ".join(f"{sigma:.4g}" for sigma in sigmas)
        raise ValueError(
            f"{key.replace('sampling.preset', 'sampling')}: the graph was made for "
            f"{made['sampler']} over sigmas {listed}; leave it out, or export another graph"
        )
