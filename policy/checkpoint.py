"""Checkpoints: a directory of plain files, replaced as a whole.

model.safetensors       averaged weights        config.yaml   kind, policy, how it was trained
stats.safetensors       statistics it scales by spec.json     observations, actions, units
embeddings.safetensors  vectors of the sentences it knows
train_state/            raw weights, average, optimizer, progress (train_state.py)
language/               the text tower itself, where an imported checkpoint brought it along
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from yaml import YAMLError

from telic.embodiment import unified_interface
from telic.policy.atomic import existing_directory, replacing_directory
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.kinds import KINDS, require_kind
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.inference.device import pick_device
from telic.policy.layers.tensors import load_exactly
from telic.policy.policy import Policy
from telic.policy.renamed import renamed_settings, renamed_tensors
from telic.policy.routing.routings import ROUTINGS
from telic.policy.train_state import load_tree, save_tree
from telic.spec import Array, ChunkPolicy, FieldStats, Interface, ManyRobots

FORMAT = 1
LANGUAGE = "language"
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
) -> None:
    """Write the checkpoint directory `path`, replacing the one there only when all is on disk.

    policy: with the weights to run, that is the averaged ones. train_state: the fields of
    TrainState. extra: anything to keep in config.yaml. write_language: writes the text tower into
    the folder it is given. ValueError if it cannot be written.
    """
    config = {
        "kind": policy.kind,
        "git_commit": git_commit(),
        "policy": plain(policy.config),
        **plain(extra or {}),
        "format": FORMAT,  # last: a file cut short lacks it
    }
    spec = {
        "interface": policy.interface.to_json(),
        "obs_horizon": policy.obs_horizon,
        "action_horizon": policy.action_horizon,
    }
    if isinstance(policy, ManyRobots) and policy.robots:
        spec["robots"] = {name: robot.to_json() for name, robot in policy.robots.items()}
    with replacing_directory(Path(path)) as folder:
        save_file(_weights(policy), folder / "model.safetensors")
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
        (folder / "spec.json").write_text(json.dumps(spec, indent=1))
        save_file(_stats_to_tensors(policy.stats), folder / "stats.safetensors")
        _save_embeddings(folder / "embeddings.safetensors", policy.known_embeddings)
        if write_language is not None:
            write_language(folder / LANGUAGE)
        if train_state is not None:
            state = TrainState(**train_state)
            tree = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
            save_tree(folder / "train_state", tree)


def load_policy(path: str | Path, device: str | torch.device = "cpu") -> ChunkPolicy:
    """Return the policy in checkpoint directory `path`, ready to act.

    ValueError names what is missing or does not fit: a file, a kind, a tensor, a shape.
    """
    parts = read_parts(path)
    place = pick_device(str(device))
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
    if not (folder / "train_state").is_dir():
        raise ValueError(f"{folder}: holds no train_state, so training cannot go on from it")
    with _readable(folder):
        state = TrainState(**load_tree(folder / "train_state"))
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
    with _readable(folder):
        spec = json.loads((folder / "spec.json").read_text())
        return Parts(
            folder=folder,
            config=config,
            interface=Interface.from_json(spec["interface"]),
            robots={k: Interface.from_json(v) for k, v in spec.get("robots", {}).items()},
            stats=_stats_from_tensors(load_file(folder / "stats.safetensors")),
            weights=renamed_tensors(load_file(folder / "model.safetensors")),
            embeddings=load_embeddings(folder / "embeddings.safetensors"),
        )


def _load_diffusion(parts: Parts, device: torch.device) -> Policy:
    config = policy_config(parts.config.get("policy") or {}, str(parts.folder / "config.yaml"))
    interface = unified_interface(parts.robots) if parts.robots else parts.interface
    policy = Policy(config, interface, parts.stats, parts.robots)
    load_exactly(policy, parts.weights, str(parts.folder / "model.safetensors"))
    policy.set_embeddings(parts.embeddings)
    if (parts.folder / LANGUAGE).is_dir():
        policy.use_language_folder(parts.folder / LANGUAGE)
    return policy.to(device).eval()


def policy_config(plain: Mapping[str, Any], where: str) -> PolicyConfig:
    """Return the config that `plain` data (of a YAML file) describe; ValueError if they do not."""
    plain = renamed_settings(plain)
    kind = (plain.get("denoiser") or {}).get("kind") or ""  # damaged files have null
    require_kind(kind, list(KINDS), where)
    formulation = (plain.get("formulation") or {}).get("name") or ""
    require_kind(formulation, list(FORMULATIONS), where, "formulation")
    routing = plain["denoiser"].get("routing")
    try:
        schema = OmegaConf.structured(
            PolicyConfig(denoiser=KINDS[kind](), formulation=FORMULATIONS[formulation]())
        )
        if routing is not None:
            require_kind(routing.get("name") or "", list(ROUTINGS), where, "routing")
            schema.denoiser.routing = ROUTINGS[routing["name"]]()
        return cast(PolicyConfig, OmegaConf.to_object(OmegaConf.merge(schema, dict(plain))))
    except OmegaConfBaseException as error:
        raise ValueError(f"{where}: {str(error).splitlines()[0]}") from error


def _checkpoint(path: str | Path) -> Path:
    folder = existing_directory(Path(path))
    if not folder.is_dir():
        raise ValueError(f"{folder}: no checkpoint directory there; train-policy writes one")
    return folder


def _read_config(folder: Path) -> dict[str, Any]:
    with _readable(folder):
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise ValueError(
            f"{folder / 'config.yaml'}: format {found}, expected {FORMAT}; "
            "the checkpoint was written by another version"
        )
    return cast(dict[str, Any], config)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turn what reading a damaged or incomplete checkpoint raises into one line."""
    try:
        yield
    except FileNotFoundError as error:
        name = Path(error.filename or "").name or str(error)
        raise ValueError(f"{folder}: {name} is missing; the checkpoint is incomplete") from error
    except KeyError as error:
        raise ValueError(f"{folder}: damaged checkpoint ({error} is not in it)") from error
    except (OSError, SafetensorError, json.JSONDecodeError, YAMLError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"{folder}: damaged checkpoint ({line})") from error


def _weights(policy: Saveable) -> dict[str, Tensor]:
    """Return the weights on the CPU; what two names share is copied, as safetensors wants it."""
    weights: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in policy.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        weights[name] = tensor.clone() if tensor.data_ptr() in places else tensor
        places.add(tensor.data_ptr())
    return weights


def plain(value: Any) -> Any:
    """Return `value` as YAML data: dataclasses to dict, enums to their names, paths to str."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value


def _stats_to_tensors(stats: Mapping[str, FieldStats]) -> dict[str, Tensor]:
    """Return {"state/mean": ...}; field names may hold slashes themselves."""
    return {
        f"{name}/{part.name}": torch.from_numpy(np.array(getattr(entry, part.name)))
        for name, entry in stats.items()
        for part in dataclasses.fields(entry)
    }


def _stats_from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, FieldStats]:
    parts: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("/")
        parts.setdefault(name, {})[part] = int(tensor) if part == "count" else tensor.numpy()
    return {name: FieldStats(**entry) for name, entry in parts.items()}


def _save_embeddings(path: Path, vectors: Mapping[str, Array]) -> None:
    """Write vectors by sentence; a sentence may hold any character, so it is no tensor name.

    `vectors` f32 [n dim], or, with a vector for each word, `words` f32 [all dim] and their number
    in each sentence, `lengths` i64 [n].
    """
    rows = list(vectors.values())
    if rows and rows[0].ndim == 2:
        lengths = np.array([len(row) for row in rows], np.int64)
        arrays = {"words": np.concatenate(rows), "lengths": lengths}
    else:
        arrays = {"vectors": np.stack(rows) if rows else np.zeros((0, 0), np.float32)}
    sentences = {"sentences": json.dumps(list(vectors))}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_file(tensors, path, metadata=sentences)


def load_embeddings(path: Path) -> dict[str, Array]:
    """Return the vectors, [dim] or [words dim], by sentence in an embeddings.safetensors."""
    with _readable(path.parent), safe_open(path, "np") as file:
        sentences = json.loads((file.metadata() or {}).get("sentences", "[]"))
        if "lengths" not in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            rows = file.get_tensor("vectors")
        else:
            ends = file.get_tensor("lengths").cumsum()
            rows = np.split(file.get_tensor("words"), ends)
            if len(rows.pop()):
                raise ValueError(f"{path}: holds more words than its lengths say")
        if len(rows) != len(sentences):
            raise ValueError(f"{path}: {len(rows)} vectors for {len(sentences)} sentences")
        return dict(zip(sentences, rows, strict=True))
