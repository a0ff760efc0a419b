"""How a checkpoint came to be: command, seed, steps, hours, machine, stores, as far as recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telic.configs.launch import CONFIGS, compose
from telic.configs.words import command_line, word
from telic.datasets.store import EpisodeStore
from telic.policy.checkpoint import TRAIN_STATE, Parts, load_train_state
from telic.recipe import RecipeConfig, stages
from telic.store_facts import StoreFacts
from telic.train import TrainConfig
from telic.training.config import RECORDED
from telic.training.resume import StoreRecord, differing, note_of
from telic.yaml_files import plain

_UNRECORDED = "not recorded"
_DECIDES = ("steps", "init_from")  # free where a training goes on, and yet part of its result


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFacts:
    """How a checkpoint came to be; "" and None where nothing says it.

    command: of the recipe, or of train-policy. started_from: the checkpoint whose weights the
    training began with, "" where they were drawn. hours: up to this checkpoint, or by the summary
    of the recipe. stores: those that are still there; lost: names of the others.
    """

    command: str
    seed: int | None
    step: int | None
    steps: int | None
    batch_size: int | None
    started_from: str
    hours: str
    machine: str
    commit: str
    stores: tuple[StoreFacts, ...]
    lost: tuple[str, ...]

    @classmethod
    def of(cls, parts: Parts) -> TrainingFacts:
        """What checkpoint and folder of the training say; ValueError where they contradict."""
        folder, config = parts.folder, parts.config
        train: dict[str, Any] = config.get("train") or {}
        has_state = (folder / TRAIN_STATE).is_dir()
        progress = load_train_state(folder).progress if has_state else {}
        stores, lost = _stores(parts)
        return cls(
            command=_training_command(train),
            seed=train.get("seed"),
            step=progress.get("step"),
            steps=train.get("steps"),
            batch_size=train.get("batch_size"),
            started_from=str(train.get("init_from") or ""),
            hours=_hours(run_folder(folder), progress),
            machine=machine_line(config.get("machine")),
            commit=str(config.get("git_commit") or ""),
            stores=stores,
            lost=lost,
        )

    @property
    def licences(self) -> set[str]:
        """The licences of the data; "" is in it where some store does not state one."""
        return {store.licence for store in self.stores} | {"" for _ in self.lost}

    def rows(self) -> list[tuple[str, str]]:
        """What is known of the training and what of it is not, as rows of a table."""
        steps = _UNRECORDED if self.steps is None else f"{self.steps} of {self.batch_size} windows"
        if self.step is not None and self.step != self.steps:
            steps += f"; this checkpoint is of step {self.step}"
        return [
            ("seed", _UNRECORDED if self.seed is None else str(self.seed)),
            ("started from", f"the weights of {self.started_from}" if self.started_from else "new"),
            ("optimizer steps", steps),
            ("hours", self.hours or _UNRECORDED),
            ("machine", self.machine or _UNRECORDED),
            ("git commit", self.commit or _UNRECORDED),
        ]


def run_folder(checkpoint: Path) -> Path:
    """The folder of the training that wrote a checkpoint: out/checkpoints/NAME."""
    return checkpoint.parent.parent


def store_paths(parts: Parts) -> Iterator[tuple[StoreRecord, Path | None]]:
    """Yield each store that a checkpoint was trained on, and where it lies, if it is there.

    It is looked for by its path, then in the folder of the training.
    """
    for record in _records(parts.config):
        near = run_folder(parts.folder) / Path(record.path).name
        paths = (path for path in (Path(record.path), near) if path.is_dir())
        yield record, next(paths, None)


def _records(config: Mapping[str, Any]) -> Iterator[StoreRecord]:
    """Yield what a checkpoint says of its stores; of old ones it says the path alone."""
    if "run" in config:
        yield from (StoreRecord(**entry) for entry in config["run"]["stores"])
        return
    for path in ((config.get("train") or {}).get("data") or {}).get("stores", ()):
        yield StoreRecord(path=path, episodes=0, content="")


def _stores(parts: Parts) -> tuple[tuple[StoreFacts, ...], tuple[str, ...]]:
    """The facts of the stores that are there, and the names of those that are not."""
    found, lost = [], []
    for record, path in store_paths(parts):
        if path is None:
            lost.append(Path(record.path).name)
            continue
        store = EpisodeStore.open(path)
        if not record.begins(store):
            raise ValueError(
                f"{path}: is not the store of {record.episodes} episodes that {parts.folder} was "
                "trained on; put that one in its place, or move this one away"
            )
        found.append(StoreFacts.of(store, record.episodes or None))
    return tuple(found), tuple(lost)


def _training_command(train: Mapping[str, Any]) -> str:
    """The recipe whose training this is, or else the line of train-policy with all that differs."""
    recipes = sorted(path.stem for path in (CONFIGS / "recipe" / "experiment").glob("*.yaml"))
    for recipe in recipes:
        planned = stages(compose(RecipeConfig, "recipe", [f"experiment={recipe}"]))
        arguments = next(stage.arguments for stage in planned if stage.command == "train")
        if not list(_other(train, compose(TrainConfig, "train", arguments))):
            return command_line("run-recipe", {"experiment": recipe})
    kind = ((train.get("policy") or {}).get("denoiser") or {}).get("kind")
    chosen = {} if kind is None else {"policy": kind}
    stores = [Path(path).name for path in (train.get("data") or {}).get("stores", ())]
    given = [*(f"{key}={value}" for key, value in chosen.items()), f"data.stores={word(stores)}"]
    usual = compose(TrainConfig, "train", given)
    own = {key: value for key, value in _other(train, usual) if key != "policy.denoiser.kind"}
    return command_line("train-policy", {**chosen, "data.stores": stores, **own})


def _other(train: Mapping[str, Any], config: TrainConfig) -> Iterator[tuple[str, Any]]:
    """Yield what of a training's settings decides its result and differs from `config`."""
    for key, was, _ in differing(train, plain(config)):
        free = note_of(key) is not None and key not in _DECIDES
        if not free and key not in RECORDED:
            yield key, was


def _hours(folder: Path, progress: Mapping[str, Any]) -> str:
    """Hours up to the checkpoint; else those of the recipe's last sitting, as its summary says."""
    if seconds := progress.get("seconds"):
        return f"{float(seconds) / 3600:.2f}"
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return f"{float(summary['seconds']['train']) / 3600:.2f} (last sitting of the recipe)"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def machine_line(facts: Any) -> str:
    """A machine as `policy.inference.machine` describes it, in one line; "" for anything else."""
    if not isinstance(facts, Mapping):
        return ""
    cores, gpu = facts.get("cores"), facts.get("gpu")
    return f"{facts.get('cpu')}, {cores} cores, GPU {gpu}, {facts.get('system')}"
