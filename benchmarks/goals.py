"""What a policy makes of a goal by sentence, by picture and by both, on the same episodes.

    python benchmarks/goals.py --out runs/goals_playtable \\
        --evaluate "experiment=playtable_image num_chains=200" \\
        mdt=runs/playtable_image/checkpoints/best mode=runs/playtable_image_mode/checkpoints/best
    python benchmarks/goals.py --out runs/goals_mt10 --evaluate "tasks=[mt10] state=robot" \\
        mdt=runs/mt10_goals_mdt/checkpoints/best mode=runs/mt10_goals_mode/checkpoints/best

Each NAME=CHECKPOINT is evaluated by evaluate-policy into OUT/NAME_GOAL with goal=text, image and
both; image and both are compared with text over the same episodes. `--store STORE` adds pictures
out of demonstrations. What is there already is kept, so a table interrupted goes on. Prints
Markdown with the intervals of the reports, and how many pictures show a goal that no expert
reached.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from variants import show

from telic.envs.evaluation.protocols import protocol_from_json

GOALS = ("text", "image", "both")
FROM_STORE = "image from the store"


def main() -> None:
    """Evaluate what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("policies", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--out", type=Path, required=True, help="folder of the evaluations")
    parser.add_argument("--evaluate", default="", help="evaluate-policy's overrides, for all")
    parser.add_argument("--store", help="a store whose pictures are goals too")
    options = parser.parse_args()
    rows: list[dict[str, str]] = []
    for text in options.policies:
        name, _, checkpoint = text.partition("=")
        if not checkpoint:
            parser.error(f"{text}: expected NAME=CHECKPOINT")
        given = [f"checkpoint={checkpoint}", *shlex.split(options.evaluate)]
        first = options.out / f"{name}_{GOALS[0]}"
        for goal in GOALS:
            compare = [] if goal == GOALS[0] else [f"compare={first}"]
            words = [*given, f"goal={goal}", *compare]
            rows.append(row(name, goal, options.out / f"{name}_{goal}", words))
        if options.store is not None:
            words = [*given, "goal=image", f"goal_store={options.store}", f"compare={first}"]
            rows.append(row(name, FROM_STORE, options.out / f"{name}_store", words))
    show(rows, last="goals not reached")


def row(name: str, goal: str, out: Path, overrides: list[str]) -> dict[str, str]:
    """Evaluate one policy with one kind of goal; return its row of the table."""
    print("$ evaluate-policy", *overrides, f"out={out}", file=sys.stderr)
    command = [sys.executable, "-m", "telic.evaluate", *overrides, f"out={out}"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    protocol = protocol_from_json(results["protocol"])
    overall, comparison = results["overall"], results["comparison"]
    found = {"policy": name, "goal": goal}
    if (score := protocol.score_name) is not None:
        found[score] = estimate(results[score.replace(" ", "_")], "mean")
        if comparison is not None:
            found[f"{score}, to text"] = estimate(comparison["score"], "mean", "+")
    found[protocol.overall] = estimate(overall, "success")
    if comparison is not None:
        p = comparison["overall"]["p"]
        found[f"{protocol.overall}, to text"] = (
            f"{estimate(comparison['overall'], 'difference', '+')}, p = {p:.2g}"
        )
    unreached = sum(episode["goals_unreached"] for episode in results["episodes"])
    return found | {protocol.what: str(overall["episodes"]), "goals not reached": str(unreached)}


def estimate(measured: dict[str, Any] | None, name: str, sign: str = "") -> str:
    """Return a number with its interval of 95 %."""
    if measured is None or measured[name] is None:
        return "-"
    low, high = measured["interval"]
    return f"{measured[name]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
