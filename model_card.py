"""The card of a policy, out of its checkpoint, the folder of its training and its evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from telic.cards import Card, CardSection, command, paragraphs, table
from telic.configs.words import command_line
from telic.envs.evaluation.results import Evaluation, Score, SuccessRow
from telic.evaluate import changed_keys
from telic.policy.checkpoint import Parts
from telic.policy.policy import Policy
from telic.policy.pretrained import DIGEST
from telic.spec import GoalKinds
from telic.training_facts import TrainingFacts, machine_line

_WEAKEST = 5  # rows named among the limits
# keys of evaluate-policy that change no result, or hold only where the evaluation was run
_LOCAL = {
    *("checkpoint", "out", "resume", "overwrite", "videos", "compare", "runtime", "device"),
    *("num_workers", "envs_per_worker", "threads", "goal_store", "goal_cache", "language_file"),
}


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
    data = [f"{s.family or 'store'}-{Path(s.name).stem}" for s in training.stores]
    opening = (
        f"Diffusion policy of kind {kind}, {count / 1e6:.2f} M parameters. In: "
        f"{policy.interface.state.shape[0]} numbers of state{_cameras(policy)} and a goal by "
        f"{goals}. Out: chunks of {policy.action_horizon} actions of "
        f"{policy.interface.action.shape[0]} numbers at {policy.interface.rate_hz:g} Hz."
    )
    head = {
        "license": licence.lower(),
        "library_name": "telic",
        "pipeline_tag": "robotics",
        "tags": ["robotics", "imitation-learning", "diffusion-policy", kind, *families],
        **({"datasets": data} if data else {}),
        "metrics": list(dict.fromkeys(m for e in evaluations for m, _ in _metrics(e))),
        "model-index": [{"name": name, "results": [_indexed(e) for e in evaluations]}],
        DIGEST: digest,
    }
    sections = (
        CardSection(heading="How to use", lines=_use(name)),
        CardSection(heading="Training", lines=_training(training)),
        CardSection(heading="Training data", lines=_data(training)),
        CardSection(heading="Evaluation", lines=_evaluation(name, evaluations)),
        CardSection(heading="Limits", lines=tuple(_limits(policy, parts, training, evaluations))),
        CardSection(heading="Licence", lines=(f"Weights: {licence}.", *_data_licences(training))),
    )
    return Card(head=head, title=name, opening=opening, sections=sections)


def _cameras(policy: Policy) -> str:
    return "".join(f", pictures of {camera}" for camera in policy.interface.images)


def _use(name: str) -> tuple[str, ...]:
    line = f"evaluate-policy checkpoint=pretrained/{name}"
    return paragraphs(
        command(line),
        (
            "That repeats the first evaluation below: `evaluate.yaml` has its keys, and a key that "
            "is given counts instead. `chunks.safetensors` has recorded requests and the chunks "
            f"that answer them; `save-pretrained --check pretrained/{name}` compares.",
        ),
    )


def _training(training: TrainingFacts) -> tuple[str, ...]:
    return paragraphs(command(training.command), table(("what", "value"), training.rows()))


def _data(training: TrainingFacts) -> tuple[str, ...]:
    rows = [
        (s.name, str(s.episodes), str(s.steps), s.robot, s.source, s.physics or "-", s.licence)
        for s in training.stores
    ]
    columns = ("store", "episodes", "steps", "robot", "source", "physics", "licence")
    collected = [store.command for store in training.stores if store.command]
    lost = f"No longer there when this was written: {', '.join(training.lost)}."
    return paragraphs(
        table(columns, rows) if rows else (),
        command(*collected) if collected else (),
        (lost,) if training.lost else (),
    ) or ("Not recorded.",)


def _evaluation(name: str, evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    lines: tuple[str, ...] = ()
    for evaluation in evaluations:
        about = evaluation.about
        keys = {"checkpoint": f"pretrained/{name}", **evaluation_keys(evaluation)}
        facts = (
            ("date", about.get("date")),
            ("machine", machine_line(about.get("machine"))),
            ("git commit", about.get("code")),
            ("physics", about.get("physics")),
            ("versions", _listed(about.get("versions"))),
        )
        lines = paragraphs(
            lines,
            (f"### {evaluation.policy}: {evaluation.protocol.title()}",),
            command(command_line("evaluate-policy", keys)),
            table(("row", "value", "95 %", "of"), list(_results(evaluation))),
            [f"- {what}: {value}" for what, value in facts if value],
        )
    return lines


def _results(evaluation: Evaluation) -> Iterator[tuple[str, str, str, str]]:
    score, protocol = Score.of(list(evaluation.scores().values())), evaluation.protocol
    if score is not None and protocol.score_name is not None:
        value, interval = f"{score.mean:.3f}", _interval(score.interval)
        yield protocol.score_name, value, interval, f"{score.episodes} {protocol.what}"
    rows, tasks = evaluation.rows(), protocol.rows().get("per_task", [])
    for row in sorted(rows, key=lambda row: row in tasks):  # what sums up comes first
        found = rows[row]
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
        yield "- No camera: every entry of the state that `spec.json` names must be measured."
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


def _listed(facts: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in facts.items()) if isinstance(facts, Mapping) else ""


def _interval(interval: Sequence[float]) -> str:
    low, high = interval
    return f"[{low:.3f}, {high:.3f}]"
