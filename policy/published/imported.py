"""What an importer makes of a published checkpoint, and how it reads the published files.

Each source is one file (import_mode.py, import_mdt.py, import_rdt.py) and one entry in
import_checkpoint.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from yaml import YAMLError

from telic.policy.config import PolicyConfig
from telic.policy.layers.tensors import WeightsToCome, load_exactly
from telic.policy.policy import Policy
from telic.spec import FieldStats, Interface, near_misses
from telic.text_files import read_text
from telic.yaml_files import require_bounded


@dataclass(kw_only=True, slots=True)
class CheckpointImportOptions:
    """What a published checkpoint does not say, and what the user may choose."""

    interface: Interface | None = None  # None: the robot that it was published for
    raw: bool = False  # the raw weights, where averaged ones lie beside them
    language: Path | None = None  # folder of a text model that is published elsewhere
    vision: Path | None = None  # and of a vision model


@dataclass(kw_only=True, slots=True)
class Imported:
    """A policy not built yet. `dead`: names (or prefixes, ending in *) of published tensors that
    have no place in it, with the reason; `language`: its text tower, as `transformers` has it;
    `robots`: of the unified space; `kept`: prefix of what it loads from elsewhere when built."""

    config: PolicyConfig
    interface: Interface
    weights: dict[str, Tensor]
    source: str
    dead: dict[str, str] = field(default_factory=dict)
    language: Any = None
    stats: dict[str, FieldStats] = field(default_factory=dict)
    robots: dict[str, Interface] = field(default_factory=dict)
    kept: str | None = None

    def build(self) -> Policy:
        """Return the policy with the published weights; ValueError where they do not fit."""
        with WeightsToCome():
            policy = Policy(self.config, self.interface, self.stats, self.robots)
        own = policy.state_dict() if self.kept else {}
        kept = {k: v for k, v in own.items() if k.startswith(self.kept or "")}
        load_exactly(policy, self.weights | kept, self.source)
        return policy.eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it belongs to the published checkpoint")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


def read_hydra(path: Path) -> DictConfig:
    """Return the Hydra config at `path`, its interpolations as they are."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it belongs to the published checkpoint")
    try:
        require_bounded(path)
        config = OmegaConf.load(path)
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: no readable YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(config, DictConfig):
        raise ValueError(f"{path}: holds no mapping")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in the JSON file at `path`."""
    try:
        data = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no readable JSON ({error!s:.120})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: holds no object")
    return data


def section(config: DictConfig, keys: set[str], path: Path) -> dict[str, Any]:
    """Return the first mapping of `config`, however deep, that has all `keys`.

    Its values are plain and their interpolations resolved; nested mappings are left out.
    """
    found = _find(config, keys)
    if found is None:
        raise ValueError(
            f"{path}: no section has {', '.join(sorted(keys))}; it is no config of this kind"
        )
    try:
        values = {str(key): found[key] for key in found if not OmegaConf.is_missing(found, key)}
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error
    return {key: value for key, value in values.items() if not OmegaConf.is_config(value)}


def _find(config: DictConfig, keys: set[str]) -> DictConfig | None:
    if keys <= {str(key) for key in config}:
        return config
    for key in config:
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_interpolation()):
            found = _find(node, keys)
            if found is not None:
                return found
    return None


def split_off(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def require_prefixes(tensors: Mapping[str, Tensor], known: Sequence[str], where: str) -> None:
    """Raise ValueError for a tensor whose name begins with none of the `known` prefixes."""
    for name, tensor in tensors.items():
        if not name.startswith(tuple(known)):
            raise ValueError(
                f"{where}: unknown tensor {name} {tuple(tensor.shape)}{near_misses(name, known)}"
            )


def shapes_of(
    tensors: Mapping[str, Tensor], ranks: Mapping[str, int], where: str, prefix: str = ""
) -> list[torch.Size]:
    """Return the shapes of the tensors named in `ranks`, in its order.

    ValueError for one that is absent or has another number of axes; `prefix` is what its name
    begins with in the file.
    """
    for name, rank in ranks.items():
        if name not in tensors:
            raise ValueError(f"{where}: no tensor {prefix}{name}{near_misses(name, tensors)}")
        if tensors[name].ndim != rank:
            shape = tuple(tensors[name].shape)
            raise ValueError(f"{where}: {prefix}{name} is {shape}, expected {rank} axes")
    return [tensors[name].shape for name in ranks]


def require_switches(stated: Mapping[str, Any], only: Mapping[str, Any], where: object) -> None:
    """Raise ValueError where a config states a switch at another value than the `only` one."""
    for key, value in only.items():
        if key in stated and type(value)(stated[key]) != value:
            raise ValueError(f"{where}: {key}={stated[key]} is not supported, only {value} is")


def require_kinds(stated: Mapping[str, Any], examples: Mapping[str, Any], where: object) -> None:
    """Raise ValueError where a config states something else than a value like the example's."""
    for key, example in examples.items():
        value = stated.get(key, example)
        kind = (int, float) if isinstance(example, float) else type(example)
        fits = isinstance(value, kind) and isinstance(value, bool) == isinstance(example, bool)
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{where}: {key}={value!r}, expected a value such as {example!r}")


def require_same(stated: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError where the config at `path` states another size than its tensors have."""
    for key, value in found.items():
        if key in stated and stated[key] != value:
            raise ValueError(
                f"{path}: {key}={stated[key]}, but the tensors have {value}; "
                "config and weights belong to different checkpoints"
            )


def with_bounds(interface: Interface, action_dim: int, num_cameras: int, source: str) -> Interface:
    """Return `interface`; ValueError unless a network of these sizes fits it."""
    if (got := interface.action.shape) != (action_dim,):
        raise ValueError(f"{source}: makes {action_dim} actions, the interface takes {got}")
    if len(interface.images) < num_cameras:
        names = ", ".join(interface.images) or "none"
        raise ValueError(
            f"{source}: looks through {num_cameras} cameras, the interface has {names}"
        )
    cameras = dict(list(interface.images.items())[:num_cameras])
    return dataclasses.replace(interface, images=cameras)
