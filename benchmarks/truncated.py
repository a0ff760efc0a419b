"""Truncated diffusion against plain sampling at the same number of steps: success and diversity.

    python benchmarks/truncated.py --task detour --out runs/truncated
    python benchmarks/truncated.py --task mt10 --out runs/truncated_mt10 --starts "best anchor" \
        --precision fp32 bf16 int8 w8a8

Collects, trains a plain policy and one with anchors on the same windows for as many steps, and
evaluates both on the same starts: plain; with the best anchor; with an anchor drawn as often as its
score says; with the best result of four anchors; each with the networks' matrices held in every
precision of --precision. All are compared to plain sampling in float32 with as many steps. What
is there already is kept, so a table interrupted goes on. Diversity is the entropy, in bits, of
which solution the successful episodes took, for tasks with two. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from variants import show

from telic import collect, evaluate, train
from telic.configs.launch import compose
from telic.envs.evaluation.statistics import wilson_interval
from telic.policy.diffusion.sampling import PRESETS
from telic.training import config as train_config

STARTS: dict[str, list[str]] = {  # of the policy with anchors
    "best anchor": [],
    "drawn anchor": ["temperature=1"],
    "best of 4": ["anchors=4"],
}
PLAIN = "plain"
COMMANDS: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
    "collect": (collect.CollectConfig, collect.run),
    "train": (train_config.TrainConfig, train.run),
    "evaluate": (evaluate.EvaluateConfig, evaluate.run),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """Overrides of the three commands, and of training with anchors."""

    collect: tuple[str, ...]
    train: tuple[str, ...]
    anchors: tuple[str, ...]
    evaluate: tuple[str, ...]


SETUPS = {
    "detour": Setup(
        collect=("tasks=[detour]", "episodes_per_task=200", "max_steps=80", "num_workers=0"),
        train=(
            "steps=2000",
            "batch_size=128",
            "policy.denoiser.width=64",
            "policy.denoiser.num_layers=3",
            "policy.denoiser.feed_forward=128",
        ),
        anchors=("policy.anchors.count=16",),
        evaluate=(
            "tasks=[detour]",
            "episodes_per_task=200",
            "max_steps=80",
            "num_workers=0",
            "envs_per_worker=100",
        ),
    ),
    "mt10": Setup(
        collect=("experiment=metaworld_mt10",),
        train=(
            "experiment=metaworld_mt10",
            "rollouts.tasks=[]",
            "steps=3000",
            "batch_size=128",
            "policy.denoiser.width=256",  # narrower matrices are held in float32 alone
            "policy.denoiser.num_layers=2",
        ),
        anchors=("policy.anchors.count=64",),
        evaluate=("tasks=[mt10]", "episodes_per_task=20"),
    ),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=list(SETUPS), default="detour")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--demos", type=Path, help="store of demonstrations; default: OUT's")
    parser.add_argument(
        "--steps", nargs="+", choices=list(PRESETS), default=["1", "2", "4", "10"], help="denoising"
    )
    parser.add_argument("--starts", nargs="+", choices=list(STARTS), default=list(STARTS))
    parser.add_argument("--precision", nargs="+", default=["fp32"], help="formats of the matrices")
    parser.add_argument("--train", nargs="*", default=[], help="more overrides of train-policy")
    parser.add_argument("--evaluate", nargs="*", default=[], help="... of evaluate-policy")
    options = parser.parse_args()
    try:
        show(rows_of(options))
    except ValueError as error:
        parser.error(str(error))


def rows_of(options: argparse.Namespace) -> list[dict[str, str]]:
    """Return the rows of the table; collects, trains and evaluates what is missing."""
    setup, out = SETUPS[options.task], options.out
    demos = options.demos or out / "demos.zarr"
    if options.demos is None:
        _run("collect", *setup.collect, f"out={demos}", "resume=true")
    for name, more in ((PLAIN, ()), ("truncated", setup.anchors)):
        data = (f"data.stores=[{demos}]", f"out={out / name}", "resume=true")
        _run("train", *setup.train, *more, *options.train, *data)
    rows = []
    for steps in options.steps:
        plain = out / PLAIN / f"eval_{steps}"
        for precision in options.precision:
            shared = [
                f"sampling={steps}",
                *setup.evaluate,
                *options.evaluate,
                f"precision={precision}",
            ]
            suffix = "" if precision == "fp32" else f"_{precision}"
            folder = plain.with_name(plain.name + suffix)
            to_plain = [f"compare={plain}"]
            more = to_plain if folder != plain else []
            rows.append(result_row(steps, PLAIN, precision, out / PLAIN, folder, [*shared, *more]))
            for start in options.starts:
                name = f"eval_{steps}_{start.replace(' ', '_')}{suffix}"
                asked = [*shared, *STARTS[start], *to_plain]
                trained = out / "truncated"
                rows.append(result_row(steps, start, precision, trained, trained / name, asked))
    return rows


def result_row(
    steps: str, name: str, precision: str, trained: Path, out: Path, overrides: list[str]
) -> dict[str, str]:
    """Evaluate one way of sampling; return its row of the table."""
    _run("evaluate", f"checkpoint={trained / 'checkpoints' / 'last'}", f"out={out}", *overrides)
    results = json.loads((out / "results.json").read_text())
    low, high = results["overall"]["interval"]
    row = {
        "steps": steps,
        "start": name,
        "precision": precision,
        "success": f"{results['overall']['success']:.3f} [{low:.3f}, {high:.3f}]",
    }
    if results["comparison"]:
        row["to plain"] = difference(results["comparison"]["overall"])
    taken = Counter(e["solution"] for e in results["episodes"] if e["success"] and e["solution"])
    if taken:
        row["solutions"] = ", ".join(f"{count} {way}" for way, count in sorted(taken.items()))
        row["entropy, bits"] = entropy(max(taken.values()), taken.total())
    row["chunk, median ms"] = f"{results['chunk_latency_ms']['median']:.1f}"
    return row


def difference(overall: dict[str, Any]) -> str:
    """Return the paired difference with its interval and p."""
    low, high = overall["interval"]
    return f"{overall['difference']:+.3f} [{low:+.3f}, {high:+.3f}], p = {overall['p']:.2g}"


def entropy(count: int, total: int) -> str:
    """Return the entropy of two solutions, one taken `count` times of `total`, with Wilson's 95 %.

    The ends are the least and the greatest entropy of a share inside the interval.
    """
    low, high = wilson_interval(count, total)
    least, greatest = sorted((_bits(low), _bits(high)))
    if low <= 0.5 <= high:
        greatest = 1.0
    return f"{_bits(count / total):.2f} [{least:.2f}, {greatest:.2f}]"


def _bits(share: float) -> float:
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)


def _run(command: str, *overrides: str) -> None:
    print("$", command, *overrides, file=sys.stderr)
    schema, run = COMMANDS[command]
    run(compose(schema, command, overrides))


if __name__ == "__main__":
    main()
