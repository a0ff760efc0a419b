"""`evaluate-policy`: a checkpoint in simulated tasks -> success with intervals, report, videos.

Every policy meets the same episodes (task, seed), so that two results compare pair by pair.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from telic.agreement import other_physics
from telic.configs.launch import launch, register_preparation
from telic.configs.pretrained import with_pretrained_keys
from telic.configs.words import command_line
from telic.envs.evaluation.episode_log import EpisodeLog
from telic.envs.evaluation.filming import can_film, film
from telic.envs.evaluation.outputs import Outputs
from telic.envs.evaluation.progress import with_progress
from telic.envs.evaluation.protocol import EvaluationProtocol, ProtocolSettings
from telic.envs.evaluation.protocols import build_protocol
from telic.envs.evaluation.report import table, write_report
from telic.envs.evaluation.results import (
    Evaluation,
    Latency,
    compare,
    read_comparable,
    results_file,
    write_evaluation,
)
from telic.envs.registry import entry
from telic.envs.rollout.demos import expert_results
from telic.envs.rollout.goals import EpisodeGoals
from telic.envs.rollout.rollout import (
    EpisodeJob,
    EpisodeResult,
    RolloutConfig,
    crash_list,
    run_rollouts,
)
from telic.goal_choice import GoalKeys, any_goal
from telic.policy.checkpoint import git_commit, load_policy, read_config
from telic.policy.exported.manifest import is_exported
from telic.policy.exported.opened import open_exported
from telic.policy.exported.policy import ExportedPolicy
from telic.policy.inference.device import pick_device
from telic.policy.inference.latency import chunk_latency_ms
from telic.policy.inference.machine import machine, versions
from telic.policy.inference_config import InferenceKeys, SamplingChoice
from telic.policy.policy import Policy
from telic.policy.pretrained import ADDED
from telic.ranges import LAST_SEED, require_range, require_text
from telic.spec import ChunkPolicy
from telic.training.robomimic_baseline import RobomimicPolicy
from telic.yaml_files import plain

EXPERT = "expert"
STDOUT, STDERR = Console(markup=False), Console(stderr=True, markup=False)


@dataclass(kw_only=True, slots=True)
class EvaluateConfig(InferenceKeys, GoalKeys, ProtocolSettings):
    """One policy, the episodes it meets (`ProtocolSettings`), and where the report goes."""

    checkpoint: str = ""  # a checkpoint directory, or "expert": the tasks' scripted experts
    execute_horizon: int = 4  # actions run of each chunk (all, if the policy gives fewer)
    num_workers: int = 2  # simulator processes; 0 simulates in this one
    envs_per_worker: int = 10  # episodes that a simulator process runs at a time
    device: str = "auto"  # device of the policy: auto, cpu, cuda
    threads: int | None = None  # CPU threads of the policy; None leaves torch's choice
    out: str = "runs/evaluate"  # folder of the report, results.json and videos
    resume: bool = True  # go on where `out` holds a part of the same evaluation
    overwrite: bool = False  # start again where `out` holds one; other files are never replaced
    videos: int = 0  # episodes per task filmed, failed ones first, where pictures can be drawn
    compare: str | None = None  # results.json, or its folder, of another policy

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ValueError(
                "checkpoint is empty; give a directory (checkpoint=runs/demo/checkpoints/best) or "
                "checkpoint=expert"
            )
        require_text(self, "checkpoint", "out", "compare", "language_file", "env")
        counts = ("episodes_per_task", "max_steps", "execute_horizon", "envs_per_worker", "threads")
        require_range(self, *counts, "num_chains", at_least=1)
        require_range(self, "videos", "num_workers", at_least=0)
        require_range(self, "seed", at_least=0, at_most=LAST_SEED)
        require_range(self, "temperature")
        self.inference().require_known()
        self.require_goals()
        build_protocol(self)
        if self.checkpoint == EXPERT and self.videos:
            raise ValueError(f"videos={self.videos}: the scripted experts are not filmed")
        if self.checkpoint == EXPERT and self.goal.shows:
            raise ValueError(
                f"goal={self.goal.value}: the scripted experts read the simulator and take no goal"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """Who acts. identity: all that its actions depend on; policy None: the scripted experts.

    goals: what it is given in each episode.
    """

    title: str
    identity: dict[str, Any]
    policy: ChunkPolicy | None
    goals: EpisodeGoals = field(default_factory=EpisodeGoals)

    def results(
        self, jobs: list[EpisodeJob], max_steps: int, config: EvaluateConfig
    ) -> Iterator[EpisodeResult]:
        """Return an iterator of the results of `jobs`, limited to `max_steps`, as they finish."""
        rollout = RolloutConfig(
            num_workers=config.num_workers,
            envs_per_worker=config.envs_per_worker,
            max_steps=max_steps,
        )
        if self.policy is None:
            return expert_results(jobs, rollout)
        horizon = min(config.execute_horizon, self.policy.action_horizon)
        rollout = replace(rollout, execute_horizon=horizon)
        return run_rollouts(jobs, self.policy, rollout, goals=self.goals)


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate as `config` says; return what `out`/results.json then holds.

    Also leaves `out`/episodes.jsonl, report.md, success.png and videos/. A stop (Ctrl-C) leaves
    them for the episodes that were finished and raises KeyboardInterrupt. ValueError on bad input.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    protocol = build_protocol(config)
    other = None if config.compare is None else read_comparable(Path(config.compare), protocol)
    who = contestant(config, protocol)
    about = _physics(protocol) | _about(config, who)
    evaluation = Evaluation(policy=who.title, protocol=protocol, about=about)
    log, outputs = _begin(config, who, protocol)
    if config.goal.says and isinstance(who.policy, Policy | RobomimicPolicy | ExportedPolicy):
        who.policy.embed(protocol.sentences())  # not in the middle of the first episodes
    try:
        _run_episodes(config, who, evaluation, log)
        if who.policy is not None:
            goal = any_goal(who.policy, config.goal, protocol.sentences()[0])
            evaluation.chunk_latency_ms = Latency.of(chunk_latency_ms(who.policy, goal))
        if config.videos and can_film(config.out):
            filmed = partial(who.results, max_steps=protocol.max_steps, config=config)
            evaluation.videos = film(evaluation, config.videos, outputs, filmed)
    except (KeyboardInterrupt, ValueError) as error:
        if evaluation.episodes or isinstance(error, KeyboardInterrupt):
            _report(evaluation, other, outputs)  # what was finished stands
        raise
    data = _report(evaluation, other, outputs)
    if evaluation.overall().episodes == 0:
        raise ValueError(
            f"all {len(evaluation.episodes)} {protocol.what} crashed: "
            f"{crash_list(evaluation.episodes, limit=1)}"
        )
    return data


def contestant(config: EvaluateConfig, protocol: EvaluationProtocol) -> Contestant:
    """Return who is evaluated; ValueError where checkpoint, sampling or goals do not fit."""
    inference = config.inference()
    if config.checkpoint == EXPERT:
        inference.refuse("the scripted expert")
        return Contestant(title="scripted expert", identity={"checkpoint": EXPERT}, policy=None)
    folder = Path(config.checkpoint)
    if is_exported(folder):
        return _exported(config, open_exported(folder, inference, config.threads or 1), protocol)
    policy = load_policy(folder, pick_device(config.device))
    title = str(read_config(folder)["kind"])
    identity: dict[str, Any] = {
        "checkpoint": evaluated_digest(folder),
        "execute_horizon": min(config.execute_horizon, policy.action_horizon),
    }
    title = policy.title if isinstance(policy, RobomimicPolicy) else title
    inference.apply(policy, f"{config.checkpoint} ({title})")
    if isinstance(policy, Policy):
        title = f"{title}, {policy.sampling.title}"
        identity["sampling"] = plain(policy.sampling)
        if policy.truncated is not None:
            identity["start"] = plain(policy.start)
        if config.prefixing is not None:
            identity["prefixing"] = config.prefixing
        if config.precision is not None:
            title, identity["precision"] = f"{title}, {config.precision}", config.precision
    goals = config.goals(policy, f"the policy in {config.checkpoint}", protocol)
    title += config.goal_title(policy)
    identity |= config.goal_identity()
    return Contestant(title=title, identity=identity, policy=policy, goals=goals)


def _exported(
    config: EvaluateConfig, policy: ExportedPolicy, protocol: EvaluationProtocol
) -> Contestant:
    """Return the contestant that an exported folder is."""
    STDERR.print(policy.opened.note, highlight=False)
    identity: dict[str, Any] = {
        "checkpoint": evaluated_digest(Path(config.checkpoint)),
        "execute_horizon": min(config.execute_horizon, policy.action_horizon),
        "sampling": policy.manifest.sampling,
        "precision": policy.manifest.precision,
        "runtime": policy.opened.name,
    }
    goals = config.goals(policy, f"the graph in {config.checkpoint}", protocol)
    identity |= config.goal_identity()
    title = policy.title + config.goal_title(policy)
    return Contestant(title=title, identity=identity, policy=policy, goals=goals)


def _begin(
    config: EvaluateConfig, who: Contestant, protocol: EvaluationProtocol
) -> tuple[EpisodeLog, Outputs]:
    """Return the list of episodes to go on with and what else `out` will hold.

    Raises ValueError where `out` holds what is not to be written over.
    """
    out = Path(config.out)
    identity = {**protocol.to_json(), **who.identity, **_physics(protocol)}
    jobs = {(job.task, job.seed) for job in protocol.jobs()}
    log = EpisodeLog(out / "episodes.jsonl", identity, jobs, config.resume, config.overwrite)
    read = [] if config.compare is None else [results_file(Path(config.compare))]
    outputs = Outputs(
        folder=out,
        overwrite=config.overwrite or log.resumed,  # what is gone on with is rewritten
        sources=read if who.policy is None else [*read, config.checkpoint],
    )
    outputs.require(films=config.videos > 0)
    return log, outputs


def _run_episodes(
    config: EvaluateConfig, who: Contestant, evaluation: Evaluation, log: EpisodeLog
) -> None:
    """Add every episode to `evaluation`, those of an earlier run first, in the protocol's order."""
    protocol = evaluation.protocol
    order = {(job.task, job.seed): n for n, job in enumerate(protocol.jobs())}
    try:
        with log:
            evaluation.episodes = log.finished
            done = {(episode.task, episode.seed) for episode in log.finished}
            jobs = [j for j in protocol.jobs() if (j.task, j.seed) not in done]
            if done:
                STDERR.print(f"{len(done)} of {len(order)} {protocol.what} were run before")
            for result in with_progress(who.results(jobs, protocol.max_steps, config), evaluation):
                log.append(result)
    finally:
        evaluation.episodes.sort(key=lambda episode: order[episode.task, episode.seed])
        waits = [ms for episode in evaluation.episodes for ms in episode.policy_latency_ms]
        evaluation.batch_latency_ms = Latency.of(waits)


def _physics(protocol: EvaluationProtocol) -> dict[str, str]:
    """Return {"physics": the simulators' versions}, or nothing where none states one."""
    stated = {entry(job.task).physics for job in protocol.jobs()} - {""}
    return {"physics": ", ".join(sorted(stated))} if stated else {}


def _report(evaluation: Evaluation, other: Evaluation | None, outputs: Outputs) -> dict[str, Any]:
    """Write results.json and report.md, show the table; return what results.json holds."""
    if other is not None:
        mine, theirs = (str(one.about.get("physics", "")) for one in (evaluation, other))
        if line := other_physics(mine, theirs, "this evaluation", f"compare: {other.policy}"):
            warnings.warn(line, stacklevel=2)
    comparison = (
        None if other is None else compare(evaluation, _distinctly_named(other, evaluation))
    )
    data = write_evaluation(evaluation, comparison, outputs.folder, outputs.overwrite)
    write_report(evaluation, comparison, outputs.folder, outputs.overwrite)
    STDOUT.print(table(evaluation, comparison))
    written = f"{outputs.report.path}\n{outputs.results.path}"
    STDOUT.print(written, highlight=False, soft_wrap=True)
    return data


def _distinctly_named(other: Evaluation, evaluation: Evaluation) -> Evaluation:
    """Return `other`; under its checkpoint's name too, where its title is that of `evaluation`."""
    if other.policy != evaluation.policy:
        return other
    found = other.about.get("checkpoint", {})
    path = found.get("path") if isinstance(found, dict) else None
    return replace(other, policy=f"{other.policy} ({path or 'the other one'})")


def _about(config: EvaluateConfig, who: Contestant) -> dict[str, Any]:
    """Return what the result depends on and where it is from, as JSON data."""
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "code": git_commit(),
        **who.identity,
    }
    if who.policy is not None:
        facts["goal"] = config.goal.value
        if isinstance(who.policy, ExportedPolicy):
            made = who.policy.manifest
            trained = {"kind": made.kind, "git_commit": made.checkpoint["git_commit"]}
        else:
            trained = read_config(config.checkpoint)
        facts["checkpoint"] = {
            "path": config.checkpoint,
            "sha256": who.identity["checkpoint"],
            "kind": trained["kind"],
            "git_commit": trained["git_commit"],
        }
    return facts | {"command": _command(config), "config": plain(config)}


def _command(config: EvaluateConfig) -> str:
    """Return the command line of which `config` is made."""
    return command_line(
        "evaluate-policy", {"checkpoint": config.checkpoint, **changed_keys(plain(config))}
    )


def changed_keys(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a config's YAML data that are not as they are by default.

    A key of which nothing is known here is left out: the data may be of another version.
    """
    default = plain(EvaluateConfig(checkpoint=EXPERT))
    changed = {k: v for k, v in given.items() if k in default and v != default[k]}
    choice = changed.pop("sampling", {})
    sampling = {f"sampling.{key}": value for key, value in choice.items() if value is not None}
    if (preset := sampling.pop(f"sampling.{SamplingChoice.shorthand}", None)) is not None:
        sampling = {"sampling": preset, **sampling}
    changed.pop("checkpoint", None)
    return changed | sampling


def evaluated_digest(checkpoint: Path) -> str:
    """Return the SHA-256 of all that acts: weights, statistics, config; not of `train_state`."""
    digest = hashlib.sha256()
    files = (path for path in checkpoint.iterdir() if path.is_file() and path.name not in ADDED)
    for path in sorted(files):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


register_preparation("evaluate", with_pretrained_keys)


def main() -> None:
    """Entry point of `evaluate-policy`."""
    launch(EvaluateConfig, run, "evaluate")


if __name__ == "__main__":
    main()
