"""Checkpoints: a directory of plain files, replaced as a whole.

model.safetensors       averaged weights        config.yaml   kind, policy, how it was trained
stats.safetensors       statistics it scales by spec.json     observations, actions, units
embeddings.safetensors  vectors of the sentences it knows
train_state/            raw weights, average, optimizer, progress (train_state.py)
language/               the text tower itself, where an imported checkpoint brought it along
digests.json            of all these files; loading checks those that it reads (digests.py)
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file
from torch import Tensor

from telic.embodiment import unified_interface
from telic.policy import digests
from telic.policy.atomic import existing_directory, replacing_directory
from telic.policy.auxiliary import OBJECTIVES
from telic.policy.checkpoint_files import (
    load_embeddings,
    load_stats,
    readable,
    require_stats,
    save_embeddings,
    save_stats,
)
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.kinds import KINDS, require_kind
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.inference.device import pick_device
from telic.policy.layers.built_within import built_within
from telic.policy.layers.tensors import WeightsToCome, load_exactly, save_tensors
from telic.policy.policy import Policy
from telic.policy.pretrained import SHELF, require_card
from telic.policy.renamed import renamed_settings, renamed_tensors
from telic.policy.routing.routings import ROUTINGS
from telic.policy.train_state import load_tree, save_tree
from telic.spec import Array, ChunkPolicy, FieldStats, Interface, ManyRobots
from telic.typed_keys import to_object
from telic.yaml_files import plain, require_bounded

FORMAT = 1
LANGUAGE, TRAIN_STATE = "language", "train_state"
_FILES = ("spec.json", "stats.safetensors", "model.safetensors", "embeddings.safetensors")
# Kinds that are no `Policy`: kind -> module with `load(parts, device) -> ChunkPolicy`.
OTHER_KINDS: dict[str, str] = {"robomimic": "telic.training.robomimic_baseline"}


@runtime_checkable
class Saveable(Protocol):
    """What a policy offers to be written as a checkpoint."""

    interface: Interface
    stats: dict[str, FieldStats]
    obs_horizon: int
    action_horizon: int

    @property
    def config(self) -> Any:
        """Return the config dataclass that built it."""
        ...

    @property
    def kind(self) -> str:
        """Return the key of KINDS or OTHER_KINDS by which it is loaded."""
        ...

    @property
    def known_embeddings(self) -> dict[str, Array]:
        """Return the vectors of the sentences it knows."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return its weights."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a checkpoint directory holds besides `train_state`."""

    folder: Path
    config: dict[str, Any]
    interface: Interface
    robots: dict[str, Interface]  # of the unified space
    stats: dict[str, FieldStats]
    weights: dict[str, Tensor]
    embeddings: dict[str, Array]


@dataclass(kw_only=True, slots=True)
class TrainState:
    """What training goes on from: state dicts, and the trainer's own record of progress."""

    weights: dict[str, Any]
    ema: dict[str, Any]
    optimizer: dict[str, Any]
    progress: dict[str, Any]


def save_checkpoint(
    path: str | Path,
    policy: Saveable,
    train_state: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    write_language: Callable[[Path], None] | None = None,
    overwrite: bool = True,
) -> None:
    """Write the checkpoint directory `path`, replacing the one there only when all is on disk.

    policy: with the weights to run, that is the averaged ones. train_state: the fields of
    TrainState. extra: anything to keep in config.yaml. write_language: writes the text tower into
    the folder it is given. overwrite: whether there may be one. ValueError if it cannot be written.
    """
    config = {
        "kind": policy.kind,
        "git_commit": git_commit(),
        "policy": plain(policy.config),
        **plain(extra or {}),
        "digests": digests.ALGORITHM,
        "format": FORMAT,  # last: a file cut short lacks it
    }
    spec = {
        "interface": policy.interface.to_json(),
        "obs_horizon": policy.obs_horizon,
        "action_horizon": policy.action_horizon,
    }
    if isinstance(policy, ManyRobots) and policy.robots:
        spec["robots"] = {name: robot.to_json() for name, robot in policy.robots.items()}
    with replacing_directory(Path(path), overwrite) as folder:
        save_tensors(_weights(policy), folder / "model.safetensors")
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
        (folder / "spec.json").write_text(json.dumps(spec, indent=1))
        save_stats(folder / "stats.safetensors", policy.stats)
        save_embeddings(folder / "embeddings.safetensors", policy.known_embeddings)
        if write_language is not None:
            write_language(folder / LANGUAGE)
            usual = (folder / "config.yaml").stat().st_mode & 0o777
            for file in (folder / LANGUAGE).rglob("*.safetensors"):
                file.chmod(usual)
        if train_state is not None:
            state = TrainState(**train_state)
            tree = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
            save_tree(folder / TRAIN_STATE, tree)
        digests.write_digests(folder)


def load_policy(path: str | Path, device: str | torch.device = "cpu") -> ChunkPolicy:
    """Return the policy in checkpoint directory `path`, ready to act.

    ValueError names what is missing or does not fit: a file, a kind, a tensor, a shape.
    """
    return policy_of(read_parts(path), device)


def policy_of(parts: Parts, device: str | torch.device = "cpu") -> ChunkPolicy:
    """Return the policy that a checkpoint's parts describe; ValueError as `load_policy`."""
    place = pick_device(str(device))
    size = sum(tensor.nbytes for tensor in parts.weights.values())
    with built_within(size, str(parts.folder)):
        if (kind := parts.config["kind"]) in OTHER_KINDS:
            module = importlib.import_module(OTHER_KINDS[kind])
            return cast(ChunkPolicy, module.load(parts, place))
        return _load_diffusion(parts, place)


def read_config(path: str | Path) -> dict[str, Any]:
    """Return config.yaml of checkpoint directory `path`: kind, git_commit, policy, training."""
    return _read_config(_checkpoint(path))


def load_train_state(path: str | Path) -> TrainState:
    """Return what `save_checkpoint` was given, tensors on the CPU."""
    folder = _checkpoint(path)
    if not (folder / TRAIN_STATE).is_dir():
        raise ValueError(f"{folder}: holds no train_state, so training cannot go on from it")
    digests.require_intact(folder, TRAIN_STATE)
    with readable(folder / TRAIN_STATE):
        state = TrainState(**load_tree(folder / TRAIN_STATE))
    state.weights, state.ema = renamed_tensors(state.weights), renamed_tensors(state.ema)
    return state


@cache
def git_commit() -> str:
    """Return the commit of this code, with "+" if files were changed; "" outside a repository."""
    where = Path(__file__).resolve().parent
    git = ["git", "-C", str(where)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")


def read_parts(path: str | Path) -> Parts:
    """Return what checkpoint directory `path` holds besides `train_state`, tensors on the CPU."""
    folder = _checkpoint(path)
    config = _read_config(folder)
    require_kind(str(config.get("kind")), [*KINDS, *OTHER_KINDS], str(folder / "config.yaml"))
    if config.get("digests") and not (folder / digests.FILE).is_file():
        raise ValueError(f"{folder}: {digests.FILE} is missing; the checkpoint is incomplete")
    digests.require_intact(folder, *_FILES)
    require_card(folder)
    with readable(folder / "spec.json"):
        spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        interface = Interface.from_json(spec["interface"])
        robots = {k: Interface.from_json(v) for k, v in spec.get("robots", {}).items()}
    with readable(folder / "model.safetensors"):
        weights = renamed_tensors(load_file(folder / "model.safetensors"))
    parts = Parts(
        folder=folder,
        config=config,
        interface=interface,
        robots=robots,
        stats=load_stats(folder / "stats.safetensors"),
        weights=weights,
        embeddings=load_embeddings(folder / "embeddings.safetensors"),
    )
    _require_whole(parts, spec)
    return parts


def _load_diffusion(parts: Parts, device: torch.device) -> Policy:
    config = policy_config(parts.config.get("policy"), str(parts.folder / "config.yaml"))
    interface = unified_interface(parts.robots) if parts.robots else parts.interface
    with WeightsToCome():
        policy = Policy(config, interface, parts.stats, parts.robots)
    load_exactly(policy, parts.weights, str(parts.folder / "model.safetensors"))
    policy.set_embeddings(parts.embeddings)
    if (parts.folder / LANGUAGE).is_dir():
        policy.use_language_folder(parts.folder / LANGUAGE)
    return policy.to(device).eval()


def policy_config(plain: Any, where: str) -> PolicyConfig:
    """Return the config that `plain` data (of a YAML file) describe; ValueError if they do not."""
    plain = plain or {}  # damaged files have null
    try:
        plain = renamed_settings(plain)
        kind = str((plain.get("denoiser") or {}).get("kind") or "")
        require_kind(kind, KINDS, where)
        formulation = str((plain.get("formulation") or {}).get("name") or "")
        require_kind(formulation, FORMULATIONS, where, "formulation")
        routing = plain["denoiser"].get("routing")
    except AttributeError as error:
        raise ValueError(f"{where}: policy does not describe a policy ({error})") from error
    try:
        schema = OmegaConf.structured(
            PolicyConfig(denoiser=KINDS[kind](), formulation=FORMULATIONS[formulation]())
        )
        if routing is not None:
            require_kind(str(routing.get("name") or ""), ROUTINGS, where, "routing")
            schema.denoiser.routing = ROUTINGS[routing["name"]]()
        for name in plain.get("auxiliary") or {}:
            require_kind(str(name), OBJECTIVES, where, "objective")
            schema.auxiliary[name] = OBJECTIVES[name]()
        merged = cast(DictConfig, OmegaConf.merge(schema, dict(plain)))
        return cast(PolicyConfig, to_object(merged, "policy"))
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError) as error:
        line = str(error).partition("\n")[0].removeprefix(f"{where}: ")
        raise ValueError(f"{where}: {line}") from error


def _checkpoint(path: str | Path) -> Path:
    folder = existing_directory(Path(path))
    if not folder.is_dir():
        if folder.parts[:1] == (SHELF,):
            raise ValueError(
                f"{folder}: not there; {SHELF}/ lies in the repository, not in the installed "
                "package: run in a clone of it, or give the path"
            )
        raise ValueError(f"{folder}: no checkpoint directory there; train-policy writes one")
    return folder


def _read_config(folder: Path) -> dict[str, Any]:
    digests.require_intact(folder, "config.yaml")
    with readable(folder / "config.yaml"):
        require_bounded(folder / "config.yaml")
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise ValueError(
            f"{folder / 'config.yaml'}: format {found}, expected {FORMAT}; "
            "the checkpoint was written by another version"
        )
    return cast(dict[str, Any], config)


def _require_whole(parts: Parts, spec: Mapping[str, Any]) -> None:
    """Raise ValueError unless spec.json, stats.safetensors and config.yaml belong together."""
    where = parts.folder / "spec.json"
    described = {"interface": parts.interface, **parts.robots}
    for name, interface in described.items():
        for part in ("state", "action"):
            array = getattr(interface, part)
            if not 0 < interface.rate_hz < math.inf:
                raise ValueError(f"{where}: {name}: rate_hz={interface.rate_hz} must be above 0")
            if len(array.shape) != 1 or not array.shape[0]:
                raise ValueError(f"{where}: {name}: {part} has shape {array.shape}, expected [n]")
    policy = parts.config.get("policy")
    for key in ("obs_horizon", "action_horizon"):
        stated = policy.get(key) if isinstance(policy, Mapping) else None
        if stated is not None and spec.get(key) != stated:
            raise ValueError(
                f"{where}: {key} is {spec.get(key)!r}, expected {stated} by config.yaml; one of "
                "them is damaged or another checkpoint's"
            )
    whole = unified_interface(parts.robots) if parts.robots else parts.interface
    for name, entry in parts.stats.items():
        size = getattr(whole, name).shape if name in ("state", "action") else entry.mean.shape
        require_stats(f"{parts.folder / 'stats.safetensors'}: {name}", entry, size)


def _weights(policy: Saveable) -> dict[str, Tensor]:
    """Return the weights on the CPU; what two names share is copied, as safetensors wants it."""
    weights: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in policy.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        weights[name] = tensor.clone() if tensor.data_ptr() in places else tensor
        places.add(tensor.data_ptr())
    return weights
