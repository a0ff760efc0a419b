"""Published weights in our networks, and the check that they give the published values.

`python -m telic.policy.published.check check PATH...` compares with golden files (safetensors with
metadata `kind` and `config`, tensors `state_dict.*`, `input.*`, `output.*`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from telic.policy.denoisers.kinds import require_kind
from telic.policy.published.mdt import denoiser as published_mdt
from telic.policy.published.mode import denoiser as published_mode
from telic.policy.published.rdt import denoiser as published_rdt
from telic.policy.published.weights import edm_outputs
from telic.spec import near_misses

TOLERANCE = 1e-5

# kind -> (config, published state_dict) -> the network in eval mode
BUILDERS: dict[str, Callable[[Mapping[str, Any], dict[str, Tensor]], nn.Module]] = {
    "mode": published_mode.build,
    "mdt": published_mdt.build_mdt,
    "mdtv": published_mdt.build_mdtv,
    "rdt": published_rdt.build,
}
# kind -> (network, config, inputs) -> outputs by name
OUTPUTS: dict[str, Callable[[Any, Mapping[str, Any], dict[str, Tensor]], dict[str, Tensor]]] = {
    "mode": edm_outputs,
    "mdt": edm_outputs,
    "mdtv": edm_outputs,
    "rdt": published_rdt.outputs,
}


def build(kind: str, config: Mapping[str, Any], state_dict: dict[str, Tensor]) -> nn.Module:
    """Return the denoiser of `kind` with the weights of `state_dict`, which has published names.

    ValueError for an unknown kind, a config without a size, a missing or unknown name, or a tensor
    of another shape.
    """
    require_kind(kind, BUILDERS, "published")
    try:
        return BUILDERS[kind](config, state_dict).eval()
    except KeyError as error:
        name = str(error.args[0])
        raise ValueError(
            f"published {kind}: the config has no {name}{near_misses(name, config)}"
        ) from error


def check_golden(path: str | Path) -> dict[str, float]:
    """Return the largest absolute difference of each output in the golden file at `path`."""
    kind, config, tensors = _read(Path(path))
    network = build(kind, config, tensors["state_dict"])
    with torch.inference_mode():
        outputs = OUTPUTS[kind](network, config, tensors["input"])
    return {
        name: float(
            (output.reshape_as(tensors["output"][name]) - tensors["output"][name]).abs().max()
        )
        for name, output in outputs.items()
        if name in tensors["output"]
    }


def _read(path: Path) -> tuple[str, dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Return a golden file's kind, config and tensors by group (state_dict, input, output)."""
    groups: dict[str, dict[str, Tensor]] = {"state_dict": {}, "input": {}, "output": {}}
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                group, _, name = key.partition(".")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    if "kind" not in metadata or "config" not in metadata:
        raise ValueError(f"{path}: no golden file, its metadata lack kind and config")
    return metadata["kind"], json.loads(metadata["config"]), groups


def main(arguments: Sequence[str] | None = None) -> int:
    """Check golden files; return 0, 1 if a number is off by more than 1e-5, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m telic.policy.published.check")
    commands = parser.add_subparsers(required=True)
    check = commands.add_parser("check", help="compare our values with golden files")
    check.add_argument("paths", nargs="+", metavar="PATH")
    paths: list[str] = parser.parse_args(arguments).paths
    agrees = True
    try:
        for path in paths:
            differences = check_golden(path)
            good = all(value <= TOLERANCE for value in differences.values())  # NaN is not
            agrees &= good
            listed = ", ".join(f"{name} {value:.2e}" for name, value in differences.items())
            print(f"{path}: {listed} {'ok' if good else f'ABOVE {TOLERANCE:g}'}")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
