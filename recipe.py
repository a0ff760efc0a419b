"""`run-recipe`: collect, train, evaluate, control, one command after the other, and a summary.

    run-recipe experiment=playtable_state train.policy=mode collect.play.episodes_per_task=300

A recipe, configs/recipe/experiment/NAME.yaml, says what each command is given. Every stage is one
of the project's own commands, printed as it is run, so that any of them can be run again by hand.
A recipe interrupted goes on where it stopped when it is run again.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from telic.collect import CollectConfig
from telic.configs.launch import USER_ERRORS, compose, launch, one_line, register_preparation
from telic.configs.words import word
from telic.control import ControlConfig
from telic.envs import registry
from telic.envs.evaluation.outputs import Outputs
from telic.evaluate import EvaluateConfig
from telic.policy.diffusion.sampling import preset
from telic.ranges import require_range, require_text
from telic.real_robot.summary_file import CONTROL
from telic.replacement import Kind, Replacement
from telic.spec import near_misses
from telic.text_files import read_text
from telic.train import TrainConfig

STDOUT = Console(soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCommand:
    """A command of ours. decided: what run-recipe alone gives it, last of all."""

    script: str
    schema: type[Any]
    decided: tuple[str, ...]


COMMANDS = {
    "collect": StageCommand(
        script="collect-demos", schema=CollectConfig, decided=("out", "resume", "overwrite")
    ),
    "train": StageCommand(
        script="train-policy",
        schema=TrainConfig,
        decided=("out", "data.stores", "resume", "overwrite"),
    ),
    "evaluate": StageCommand(
        script="evaluate-policy",
        schema=EvaluateConfig,
        decided=("checkpoint", "sampling", "sampling.preset", "sampling.steps", "out"),
    ),
    "control": StageCommand(script="control-daemon", schema=ControlConfig, decided=()),
}
_TAKE_MORE = ("collect", "train", "evaluate")


@dataclass(kw_only=True, slots=True)
class RecipeConfig:
    """What each command is given besides where things lie, which is all below `out`.

    `experiment=NAME` sets all of it. On a command line `train.KEY=VALUE` and `evaluate.KEY=VALUE`
    are given to those commands after what the recipe gives them, `collect.STORE.KEY=VALUE` to the
    collection of one store and `collect.KEY=VALUE` to that of each.
    """

    out: str = ""  # folder of all that the recipe writes
    # store -> what collect-demos is given for it
    collect: dict[str, list[str]] = field(default_factory=dict)
    train: list[str] = field(default_factory=list)  # what train-policy is given
    evaluate: list[str] = field(default_factory=list)  # what evaluate-policy is given
    # denoising steps, one evaluation each
    samplings: list[str] = field(default_factory=lambda: ["10", "2"])
    control_task: str | None = None  # task of the control run; None: no control run
    control_sampling: str = "2"  # denoising steps of the control run
    control_s: float = 10.0  # length of the control run
    # what a command line adds, by stage (train.KEY=VALUE)
    more: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.out and self.collect and self.samplings):
            raise ValueError(
                "out, collect and samplings must not be empty; choose a recipe by experiment=NAME"
            )
        require_text(self, "out", "control_task")
        require_range(self, "control_s", above=0)
        for name in [*self.samplings, self.control_sampling]:
            preset(name)
        if self.control_task is not None:
            registry.entry(self.control_task)
        for stage, arguments in self.more.items():
            command, _, store = stage.partition(".")
            if store and store not in self.collect:
                raise ValueError(
                    f"{stage}: the recipe collects {', '.join(self.collect)}"
                    f"{near_misses(store, self.collect)}"
                )
            for argument in arguments:
                key = argument.partition("=")[0].lstrip("+")
                if stage == "collect" and key in self.collect:
                    raise ValueError(f"collect.{key} is a store; give it collect.{key}.KEY=VALUE")
                if key in COMMANDS[command].decided:
                    raise ValueError(
                        f"{stage}.{argument}: run-recipe says where things lie and goes on with "
                        "what is there; give it out=DIR, or samplings=[...]"
                    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One command and what it is given."""

    name: str
    command: str
    arguments: list[str]

    def require_composes(self) -> None:
        """Raise ValueError for arguments that the command would refuse, before hours have gone."""
        schema = COMMANDS[self.command].schema
        try:
            compose(schema, self.command, self.arguments)
        except USER_ERRORS as error:
            raise ValueError(f"{self.name}: {one_line(error, schema)}") from error

    def run(self) -> float:
        """Run it to its end; return its seconds. A failure ends this process alike."""
        command = [sys.executable, "-m", f"telic.{self.command}", *self.arguments]
        command_line = shlex.join([COMMANDS[self.command].script, *self.arguments])
        STDOUT.rule(Text(self.command, style="bold"), align="left")
        STDOUT.print(f"$ {command_line}", highlight=False)
        began = time.monotonic()
        with subprocess.Popen(command) as process:
            while True:
                try:
                    code = process.wait()
                    break
                except KeyboardInterrupt:  # the stage got the signal too and is leaving cleanly
                    continue
        if code:
            sys.exit(code if code > 0 else 128 - code)
        return round(time.monotonic() - began, 1)


def is_summary(path: Path) -> bool:
    """Return whether the summary of a recipe stands at `path`."""
    try:
        summary = json.loads(read_text(path))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and "seconds" in summary


SUMMARY = Kind("the summary of a recipe", is_summary)


def run(config: RecipeConfig) -> dict[str, Any]:
    """Run the stages that are not done yet; return and write `out`/summary.json."""
    out = Path(config.out)
    planned = list(stages(config))
    for stage in planned:
        stage.require_composes()
    written = Replacement(out / "summary.json", SUMMARY, overwrite=True)  # of an earlier run of it
    written.require()
    for folder in _evaluated(config).values():
        Outputs(folder=folder, overwrite=True).require()
    if config.control_task:
        Replacement(_control_json(config), CONTROL, overwrite=True).require()
    out.mkdir(parents=True, exist_ok=True)
    seconds = {stage.name: stage.run() for stage in planned}
    results: dict[str, dict[str, Any]] = {
        name: json.loads((folder / "results.json").read_text())
        for name, folder in _evaluated(config).items()
    }
    control = json.loads(_control_json(config).read_text()) if config.control_task else None
    summary = summarize(results, control) | {"seconds": seconds}
    with written.writing() as fresh:
        fresh.write_text(json.dumps(summary, indent=1))
    STDOUT.rule(Text(str(out), style="bold"), align="left")
    STDOUT.print(table(summary))
    for name, folder in _evaluated(config).items():
        films = f", videos: {folder / 'videos'}" if (folder / "videos").is_dir() else ""
        report = f"report, {summary['policy'][name]}: {folder / 'report.md'}{films}"
        STDOUT.print(report, highlight=False)
    STDOUT.print(f"summary: {out / 'summary.json'}")
    return summary


def stages(config: RecipeConfig) -> Iterator[Stage]:
    """Yield the recipe's stages in order; what run-recipe decides comes last in each."""
    out, more = Path(config.out), config.more
    stores = {name: out / f"{name}.zarr" for name in config.collect}
    for name, path in stores.items():
        added = [*more.get("collect", []), *more.get(f"collect.{name}", [])]
        arguments = [*config.collect[name], *added, f"out={path}", "resume=true"]
        yield Stage(name=f"collect_{name}", command="collect", arguments=arguments)
    listed = word([str(path) for path in stores.values()])
    decided = [f"out={out}", f"data.stores={listed}", "resume=true"]
    arguments = [*config.train, *more.get("train", []), *decided]
    yield Stage(name="train", command="train", arguments=arguments)
    checkpoint = f"checkpoint={out / 'checkpoints' / 'best'}"
    for name, folder in _evaluated(config).items():
        decided = [checkpoint, f"sampling={name}", f"out={folder}"]
        arguments = [*config.evaluate, *more.get("evaluate", []), *decided]
        yield Stage(name=f"evaluate_{name}", command="evaluate", arguments=arguments)
    if config.control_task is not None:
        arguments = [
            checkpoint,
            f"task={config.control_task}",
            f"sampling={config.control_sampling}",
            f"duration_s={config.control_s}",
            f"out={_control_json(config)}",
            "overwrite=true",
        ]
        yield Stage(name="control", command="control", arguments=arguments)


def _evaluated(config: RecipeConfig) -> dict[str, Path]:
    """Return sampling -> the folder of its evaluation."""
    return {name: Path(config.out) / f"eval_{name}" for name in config.samplings}


def _control_json(config: RecipeConfig) -> Path:
    return Path(config.out) / "control.json"


def summarize(results: dict[str, dict[str, Any]], control: dict[str, Any] | None) -> dict[str, Any]:
    """Return what one looks at first, by sampling: policy, success, latency; the control run.

    Of chains also their average length, and the shares that did 1 to 5 tasks in a row; `success`
    is that of whole chains.
    """
    summary: dict[str, Any] = {
        "policy": {name: result["policy"] for name, result in results.items()},
        "success": {name: result["overall"]["success"] for name, result in results.items()},
        "intervals": {name: result["overall"]["interval"] for name, result in results.items()},
        "episodes": {name: result["overall"]["episodes"] for name, result in results.items()},
        "crashed": {name: result["overall"]["crashed"] for name, result in results.items()},
        "per_task": {
            name: {task: row["success"] for task, row in result["per_task"].items()}
            for name, result in results.items()
        },
        "chunk_latency_ms": {name: result["chunk_latency_ms"] for name, result in results.items()},
        "control": control,
    }
    if all("average_length" in result for result in results.values()):
        summary["average_length"] = {name: r["average_length"] for name, r in results.items()}
        summary["in_a_row"] = {
            name: [*(row["success"] for row in r["in_a_row"].values()), r["overall"]["success"]]
            for name, r in results.items()
        }
    return summary


def table(summary: dict[str, Any]) -> Table:
    """Return the summary for people: a column for each policy, named with sampler and steps."""
    names = list(summary["success"])
    table = Table("task", *(summary["policy"][name] for name in names))
    for task in summary["per_task"][names[0]]:
        rates = [summary["per_task"][name][task] for name in names]  # None: it never came up
        table.add_row(task, *("-" if rate is None else f"{rate:.2f}" for rate in rates))
    table.add_section()
    if "average_length" in summary:
        for index in range(len(summary["in_a_row"][names[0]])):
            rates = [summary["in_a_row"][name][index] for name in names]
            table.add_row(f"{index + 1} in a row", *(f"{rate:.3f}" for rate in rates))
        lengths = [summary["average_length"][name] for name in names]
        table.add_row(
            "average length [95 %]",
            *(_with_interval(length["mean"], length["interval"]) for length in lengths),
        )
    else:
        success, intervals = summary["success"], summary["intervals"]
        means = [_with_interval(success[name], intervals[name]) for name in names]
        table.add_row("all (Wilson 95 %)", *means)
    table.add_row(
        "chunk latency, median ms",
        *(f"{summary['chunk_latency_ms'][name]['median']:.1f}" for name in names),
    )
    return table


def _with_interval(mean: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def gather(overrides: Sequence[str]) -> list[str]:
    """Return `overrides` with those for a stage (`train.KEY=VALUE`) in one setting, `more`."""
    kept: list[str] = []
    more: dict[str, list[str]] = {}
    for override in overrides:
        stage, dot, argument = override.partition(".")
        if not dot or stage not in _TAKE_MORE:
            kept.append(override)
            continue
        store, dot, inner = argument.partition(".")
        if stage == "collect" and dot and "=" not in store:
            stage, argument = f"collect.{store}", inner
        more.setdefault(stage, []).append(argument)
    if not more:
        return kept
    return [*kept, f"more={word(more)}"]


register_preparation("recipe", gather)


def main() -> None:
    """Entry point of `run-recipe`."""
    launch(RecipeConfig, run, "recipe")


if __name__ == "__main__":
    main()
