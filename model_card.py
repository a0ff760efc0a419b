"""The card of a policy, out of its checkpoint, the folder of its training and its evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telic.cards import Card, Section, command, table
from telic.configs.launch import CONFIGS, compose
from telic.configs.words import command_line
from telic.datasets.store import EpisodeStore
from telic.envs.evaluation.results import Evaluation, Score, SuccessRow
from telic.evaluate import changed_keys
from telic.policy.checkpoint import TRAIN_STATE, Parts, load_train_state
from telic.policy.policy import Policy
from telic.policy.pretrained import DIGEST
from telic.recipe import RecipeConfig, stages
from telic.spec import GoalKinds
from telic.store_facts import StoreFacts
from telic.train import TrainConfig
from telic.training.config import FREE, RECORDED
from telic.training.resume import StoreRecord, content_digest, differing
from telic.yaml_files import plain

_UNRECORDED = "not recorded"
_WEAKEST = 5  # rows named among the limits
# keys of evaluate-policy that change no result, or hold only where the evaluation was run
_LOCAL = {
    *("checkpoint", "out", "resume", "overwrite", "videos", "compare", "runtime", "device"),
    *("num_workers", "envs_per_worker", "threads", "goal_store", "goal_cache", "language_file"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFacts:
    """How a checkpoint came to be; "" and None where nothing says it.

    command: of the recipe, or of train-policy. hours: up to this checkpoint, or of the whole
    training where the recipe's summary says it. stores: those that are still there; lost: names of
    the others.
    """

    command: str
    seed: int | None
    step: int | None
    steps: int | None
    batch_size: int | None
    hours: float | None
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
            hours=_hours(run_folder(folder), progress),
            machine=_machine(config.get("machine")),
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
            ("optimizer steps", steps),
            ("hours", _UNRECORDED if self.hours is None else f"{self.hours:.2f}"),
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
    for entry in (parts.config.get("run") or {}).get("stores", ()):
        record = StoreRecord(**entry)
        near = run_folder(parts.folder) / Path(record.path).name
        paths = (path for path in (Path(record.path), near) if path.is_dir())
        yield record, next(paths, None)


def evaluation_keys(evaluation: Evaluation) -> dict[str, Any]:
    """The keys of evaluate-policy that the results of an evaluation depend on."""
    changed = changed_keys(evaluation.about.get("config") or {})
    return {key: value for key, value in changed.items() if key not in _LOCAL}


def model_card(
    name: str,
    policy: Policy,
    parts: Parts,
    training: TrainingFacts,
    evaluations: Sequence[Evaluation],
    licence: str,
    digest: str,
) -> Card:
    """The card of the policy in pretrained/`name`."""
    count = sum(p.numel() for p in policy.parameters())
    families = sorted({store.family for store in training.stores} - {""})
    kind = parts.config["kind"]
    goals = GoalKinds.of(policy)
    opening = (
        f"A {kind} diffusion policy of {count / 1e6:.2f} M parameters: "
        f"{policy.interface.state.shape[0]} numbers of state"
        f"{_cameras(policy)} and a goal by {goals} in, chunks of {policy.action_horizon} actions "
        f"of {policy.interface.action.shape[0]} numbers at {policy.interface.rate_hz:g} Hz out."
    )
    head = {
        "license": licence.lower(),
        "library_name": "telic",
        "pipeline_tag": "robotics",
        "tags": ["robotics", "imitation-learning", "diffusion-policy", kind, *families],
        "datasets": [f"{s.family or 'store'}-{Path(s.name).stem}" for s in training.stores],
        "metrics": list(dict.fromkeys(m for e in evaluations for m, _ in _metrics(e))),
        "model-index": [{"name": name, "results": [_indexed(e) for e in evaluations]}],
        DIGEST: digest,
    }
    sections = (
        Section(heading="How to use", lines=_use(name)),
        Section(heading="Training", lines=_training(training)),
        Section(heading="Training data", lines=_data(training)),
        Section(heading="Evaluation", lines=_evaluation(name, evaluations)),
        Section(heading="Limits", lines=tuple(_limits(policy, parts, training, evaluations))),
        Section(heading="Licence", lines=(f"Weights: {licence}.", *_data_licences(training))),
    )
    return Card(head=head, title=name, opening=opening, sections=sections)


def _cameras(policy: Policy) -> str:
    return "".join(f", pictures of {camera}" for camera in policy.interface.images)


def _use(name: str) -> tuple[str, ...]:
    line = f"evaluate-policy checkpoint=pretrained/{name}"
    return (
        *command(line),
        "",
        "That repeats the first evaluation below: `evaluate.yaml` has its keys, and a key that is "
        "given counts instead. `chunks.safetensors` has recorded requests and the chunks that "
        f"answer them; `save-pretrained --check pretrained/{name}` compares.",
    )


def _training(training: TrainingFacts) -> tuple[str, ...]:
    return (*command(training.command), "", *table(("what", "value"), training.rows()))


def _data(training: TrainingFacts) -> tuple[str, ...]:
    rows = [
        (s.name, str(s.episodes), str(s.steps), s.robot, s.source, s.physics or "-", s.licence)
        for s in training.stores
    ]
    columns = ("store", "episodes", "steps", "robot", "source", "physics", "licence")
    lines = list(table(columns, rows)) if rows else []
    if collected := [store.command for store in training.stores if store.command]:
        lines += ["", *command(*collected)]
    if training.lost:
        lines += ["", f"No longer there when this was written: {', '.join(training.lost)}."]
    return tuple(lines) or ("Not recorded.",)


def _evaluation(name: str, evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    lines: list[str] = []
    for evaluation in evaluations:
        about = evaluation.about
        line = command_line(
            "evaluate-policy",
            {"checkpoint": f"pretrained/{name}", **evaluation_keys(evaluation)},
        )
        lines += ["", f"### {evaluation.policy}: {evaluation.protocol.title()}", "", *command(line)]
        lines += ["", *table(("row", "value", "95 %", "of"), list(_results(evaluation))), ""]
        facts = (
            ("date", about.get("date")),
            ("machine", _machine(about.get("machine"))),
            ("git commit", about.get("code")),
            ("physics", about.get("physics")),
            ("versions", _listed(about.get("versions"))),
        )
        lines += [f"- {what}: {value}" for what, value in facts if value]
    return tuple(lines[1:])


def _results(evaluation: Evaluation) -> Iterator[tuple[str, str, str, str]]:
    score, protocol = Score.of(list(evaluation.scores().values())), evaluation.protocol
    if score is not None and protocol.score_name is not None:
        value, interval = f"{score.mean:.3f}", _interval(score.interval)
        yield protocol.score_name, value, interval, f"{score.episodes} {protocol.what}"
    for row, found in evaluation.rows().items():
        if found.success is not None:
            value, interval = f"{found.success:.3f}", _interval(found.interval)
            yield row, value, interval, f"{found.successes} of {found.episodes}"


def _limits(
    policy: Policy, parts: Parts, training: TrainingFacts, evaluations: Sequence[Evaluation]
) -> Iterator[str]:
    yield (
        f"- One training, of seed {training.seed}: the intervals are of the evaluation's episodes "
        "and leave out how trainings differ."
    )
    yield "- Evaluated in simulation alone."
    if physics := policy.interface.action.physics:
        yield f"- Physics `{physics}`; another one is warned of, and the figures do not hold in it."
    if not policy.interface.images:
        names = ", ".join(policy.interface.state.names)
        yield f"- No camera: all of the state must be measured ({names})."
    if policy.goal_kinds.text:
        encoder = policy.config.goal.language.encoder
        yield (
            f"- {len(parts.embeddings)} sentences come with their vectors; others are encoded by "
            f"{encoder} when they are given."
        )
    for evaluation in evaluations[:1]:
        if crashed := evaluation.overall().crashed:
            yield f"- {crashed} of the {evaluation.protocol.what} crashed and are not counted."
        if weakest := _weakest(evaluation):
            yield f"- Weakest: {weakest}."


def _weakest(evaluation: Evaluation) -> str:
    """The tasks with the lowest rates, with their counts."""
    rows, tasks = evaluation.rows(), evaluation.protocol.rows().get("per_task", [])
    known: list[tuple[float, str, SuccessRow]] = [
        (rows[task].success or 0.0, task, rows[task])
        for task in tasks
        if rows[task].success is not None
    ]
    worst = sorted(known, key=lambda entry: entry[:2])[:_WEAKEST]
    return ", ".join(f"{task} ({row.successes} of {row.episodes})" for _, task, row in worst)


def _data_licences(training: TrainingFacts) -> tuple[str, ...]:
    stated = sorted({store.licence for store in training.stores} - {""})
    return ("", f"Data: {', '.join(stated)}.") if stated else ()


def _metrics(evaluation: Evaluation) -> Iterator[tuple[str, float]]:
    """Name and value of what the head states."""
    score, name = Score.of(list(evaluation.scores().values())), evaluation.protocol.score_name
    if score is not None and name is not None:
        yield name.replace(" ", "_"), round(score.mean, 4)
    if (success := evaluation.overall().success) is not None:
        yield "success_rate", round(success, 4)


def _indexed(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as an entry of Hugging Face's model-index."""
    protocol = evaluation.protocol
    return {
        "task": {"type": "robotics", "name": protocol.title()},
        "dataset": {"type": protocol.name, "name": protocol.title()},
        "metrics": [{"type": m, "name": m, "value": v} for m, v in _metrics(evaluation)],
    }


def _stores(parts: Parts) -> tuple[tuple[StoreFacts, ...], tuple[str, ...]]:
    """The facts of the stores that are there, and the names of those that are not."""
    found, lost = [], []
    for record, path in store_paths(parts):
        if path is None:
            lost.append(Path(record.path).name)
            continue
        store = EpisodeStore.open(path)
        if store.num_episodes < record.episodes or (
            record.content and content_digest(store, record.episodes) != record.content
        ):
            raise ValueError(
                f"{path}: is not the store of {record.episodes} episodes that {parts.folder} was "
                "trained on; put that one in its place, or move this one away"
            )
        found.append(StoreFacts.of(store, record.episodes))
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
    usual = compose(TrainConfig, "train", [f"{key}={value}" for key, value in chosen.items()])
    stores = [Path(path).name for path in (train.get("data") or {}).get("stores", ())]
    own = {key: value for key, value in _other(train, usual) if key != "policy.denoiser.kind"}
    return command_line("train-policy", {**chosen, "data.stores": stores, **own})


def _other(train: Mapping[str, Any], config: TrainConfig) -> Iterator[tuple[str, Any]]:
    """Yield what of a training's settings decides its result and differs from `config`."""
    for key, was, _ in differing(train, plain(config)):
        free = any(key == name or key.startswith(f"{name}.") for name in FREE if name != "steps")
        if not free and key not in RECORDED:
            yield key, was


def _hours(folder: Path, progress: Mapping[str, Any]) -> float | None:
    """Hours up to the checkpoint, or those of the whole training by the recipe's summary."""
    if seconds := progress.get("seconds"):
        return float(seconds) / 3600
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return float(summary["seconds"]["train"]) / 3600
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _machine(facts: Any) -> str:
    if not isinstance(facts, Mapping):
        return ""
    cores, gpu = facts.get("cores"), facts.get("gpu")
    return f"{facts.get('cpu')}, {cores} cores, GPU {gpu}, {facts.get('system')}"


def _listed(facts: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in facts.items()) if isinstance(facts, Mapping) else ""


def _interval(interval: Sequence[float]) -> str:
    low, high = interval
    return f"[{low:.3f}, {high:.3f}]"
