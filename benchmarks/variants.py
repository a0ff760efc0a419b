"""Several trainings that differ in a few settings, on the same data, steps and starts: one table.

    python benchmarks/variants.py --out runs/kinds --train "experiment=metaworld_mt10" \\
        mode="policy=mode" mdt="policy=mdt" rdt="policy=rdt"

Each NAME="overrides" is trained by train-policy into OUT/NAME and evaluated by evaluate-policy, the
first one being what the others are compared with (same seeds, Tango's interval, exact McNemar).
`--samplings 10 2 own` are numbers of denoising steps, or the sampling of the policy's own config.
What is there already is kept, so a table interrupted goes on. `--rate` times training alone, 40
steps of each: do that on a machine that does nothing else. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from telic import train
from telic.configs.launch import compose
from telic.policy.checkpoint import load_policy
from telic.policy.inference.machine import machine
from telic.policy.policy import Policy
from telic.training import config as train_config

WARM_UP, TIMED = 5, 40  # optimizer steps
OWN = "own"  # the sampling that a policy's own configuration names


def main() -> None:
    """Train and evaluate what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variants", nargs="+", metavar='NAME="overrides"')
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--train", default="experiment=metaworld_mt10", help="of all variants")
    parser.add_argument("--evaluate", default="tasks=[mt10]", help="evaluate-policy's overrides")
    parser.add_argument("--samplings", nargs="+", default=["10", "2"], help="steps, or own")
    parser.add_argument("--rate", action="store_true", help="time training steps, train nothing")
    options = parser.parse_args()
    variants = {}
    for text in options.variants:
        name, _, overrides = text.partition("=")
        variants[name] = [*shlex.split(options.train), *shlex.split(overrides)]
    if options.rate:
        show([rate_row(name, overrides) for name, overrides in variants.items()])
        return
    rows: list[dict[str, str]] = []
    first: Path | None = None
    for name, overrides in variants.items():
        folder = options.out / name
        _run("train", *overrides, f"out={folder}", "resume=true")
        rows.append(result_row(name, folder, options.samplings, options.evaluate, first))
        first = first or folder
    show(rows)


def result_row(
    name: str, folder: Path, samplings: list[str], evaluate: str, first: Path | None
) -> dict[str, str]:
    """Evaluate the best checkpoint of one run; return its row of the table."""
    checkpoint = folder / "checkpoints" / "best"
    policy = load_policy(checkpoint)
    assert isinstance(policy, Policy)
    row = {
        "policy": name,
        "parameters": f"{sum(p.numel() for p in policy.parameters()) / 1e6:.2f} M",
        **held_out(folder),
    }
    for sampling in samplings:
        out = folder / f"eval_{sampling}"
        compare = [] if first is None else [f"compare={first / f'eval_{sampling}'}"]
        _run(
            "evaluate",
            f"checkpoint={checkpoint}",
            *([] if sampling == OWN else [f"sampling={sampling}"]),
            f"out={out}",
            *shlex.split(evaluate),
            *compare,
        )
        results = json.loads((out / "results.json").read_text())
        low, high = results["overall"]["interval"]
        label = "its own sampling" if sampling == OWN else f"{sampling} steps"
        row[f"success, {label}"] = f"{results['overall']['success']:.3f} [{low:.3f}, {high:.3f}]"
        if results["comparison"]:
            row[f"to the first, {label}"] = difference(results["comparison"])
    return row


def held_out(folder: Path) -> dict[str, str]:
    """Return the held-out numbers of the step whose checkpoint was the best."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    measured = [record for record in records if "held_out_action_error" in record]
    best = min(measured, key=lambda record: record["held_out_action_error"])
    return {
        "held-out loss": f"{best['held_out_loss']:.4f}",
        "held-out action error": f"{best['held_out_action_error']:.4f}",
    }


def difference(comparison: dict[str, Any]) -> str:
    """Return the paired difference with its interval and p."""
    overall = comparison["overall"]
    low, high = overall["interval"]
    return f"{overall['difference']:+.3f} [{low:+.3f}, {high:+.3f}], p = {overall['p']:.2g}"


def rate_row(name: str, overrides: list[str]) -> dict[str, str]:
    """Return how many samples a second training takes in: the cost of TIMED more steps."""
    took = []
    for steps in (WARM_UP, WARM_UP + TIMED):
        with tempfile.TemporaryDirectory() as out:
            extra = [f"out={out}/run", f"steps={steps}", "validate_every=0", "rollouts.tasks=[]"]
            extra += ["data.held_out=0", "wandb.mode=disabled"]
            config = compose(train_config.TrainConfig, "train", [*overrides, *extra])
            began = time.perf_counter()
            train.run(config)
            took.append(time.perf_counter() - began)
    rate = TIMED * config.batch_size / (took[1] - took[0])
    return {"policy": name, "training samples/s": f"{rate:.0f}"}


def show(rows: list[dict[str, str]], last: str = "") -> None:
    """Print a Markdown table; a row lacks what does not apply to it. last: the last column."""
    columns = list(dict.fromkeys(column for row in rows for column in row if column != last))
    columns += [last] * bool(last)
    facts = ", ".join(f"{key} {value}" for key, value in machine().items())
    print(f"\n{facts}, {date.today()}\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row.get(column, "") for column in columns) + " |")


def _run(module: str, *overrides: str) -> None:
    print("$", module, *overrides, file=sys.stderr)
    subprocess.run([sys.executable, "-m", f"telic.{module}", *overrides], check=True)


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
