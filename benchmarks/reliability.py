"""`python benchmarks/reliability.py`: what damage, kills, full disks and signals come to: a table.

It runs the seeded attacks of tests/attacks and prints a row for each kind of attack: how often it
was tried, how often everything ended as promised, what happened, and after how many milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TITLES = {
    "stores": "Episode stores, damaged: opened to read, to write, to train, validated, converted",
    "checkpoints": "Checkpoints, damaged: loaded, acted with, resumed",
    "hdf5_files": "HDF5 files, damaged or hostile: converted to a store",
    "published": "Published checkpoints, damaged or hostile: imported",
    "kills": "What writes: killed, on a full disk, beside other writers",
    "commands": "Running commands: signals to them, to a child, to their group",
}
CASES = {"stores": 540, "checkpoints": 500, "hdf5_files": 540, "published": 504}
CASES |= {"kills": 210, "commands": 27}
REFUSALS = ("refused", "found")
IN_WORDS = {
    "before": "as before",
    "refused": "one line",
    "deep": "found by `validate --deep` alone",
    "data": "other data",
    "whole": "whole, and again",
    "ended": "ended in words, and again",
}


def results_of(kind: str, cases: int) -> Iterator[dict[str, Any]]:
    """Yield what became of each case of a kind, run in a process of its own."""
    command = [sys.executable, "-m", "telic.tests.attacks.run", kind, "--cases", str(cases)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout, 1):
            print(f"\r{kind}: {number} of {cases} ", end="", file=sys.stderr, flush=True)
            yield json.loads(line)
    print(file=sys.stderr)


def what_happened(kind: str, result: dict[str, Any]) -> str:
    """Return the key of IN_WORDS under which a case is counted, or what went wrong."""
    if result["wrong"]:
        return f"**{result['wrong'][0].partition(':')[0]}**"
    outcomes = Counter(step["outcome"] for step in result["steps"])
    if kind in ("kills", "commands"):
        return "whole" if kind == "kills" else "ended"
    if outcomes["other"]:
        return "deep" if kind == "stores" else "data"
    return "refused" if any(outcomes[o] for o in REFUSALS) else "before"


def milliseconds(kind: str, results: Iterable[dict[str, Any]]) -> str:
    """Return median and longest time from a use to its answer."""
    first = ("end",) if kind == "commands" else ()
    times = [
        step["ms"]
        for result in results
        for step in result["steps"]
        if step["ms"] and (not first or step["verb"] in first)
    ]
    return f"{statistics.median(times):.0f}, {max(times):.0f}" if times else ""


def row(kind: str, attack: str, results: Sequence[dict[str, Any]]) -> str:
    """Return the table's row of one attack."""
    counts = Counter(what_happened(kind, result) for result in results)
    happened = ", ".join(f"{n} {IN_WORDS.get(key, key)}" for key, n in counts.most_common())
    survived = sum(not result["wrong"] for result in results)
    name = attack.partition(": ")[2] if kind in ("hdf5_files", "published") else attack
    return f"| {name} | {len(results)} | {survived} | {happened} | {milliseconds(kind, results)} |"


def machine() -> str:
    """Return cores, processor, vector width and GPU in words."""
    text = Path("/proc/cpuinfo").read_text()
    lines = dict(line.split("\t: ", 1) for line in text.splitlines() if "\t: " in line)
    flags = text[text.find("flags") :].split("\n", 1)[0].split()
    wide = next((n for n, f in (("AVX-512", "avx512f"), ("AVX2", "avx2")) if f in flags), "no AVX")
    name = lines.get("model name\t", lines.get("model name", "processor")).strip()
    gpu = "with a GPU" if any(Path("/dev").glob("nvidia[0-9]")) else "no GPU"
    return f"{len(os.sched_getaffinity(0))} cores, {name} with {wide}, {gpu}"


def table(kinds: Sequence[str], share: float) -> Iterator[str]:
    """Yield the lines of the document's table."""
    tried = survived = 0
    for kind in kinds:
        by_attack: dict[str, list[dict[str, Any]]] = {}
        for result in results_of(kind, max(1, round(CASES[kind] * share))):
            by_attack.setdefault(result["attack"], []).append(result)
            tried, survived = tried + 1, survived + (not result["wrong"])
        yield f"\n### {TITLES[kind]}\n"
        yield "| attack | tries | survived | what happens | ms: median, longest |"
        yield "|---|---|---|---|---|"
        for attack, results in by_attack.items():
            yield row(kind, attack, results)
    yield f"\n{survived} of {tried} ended as promised: {machine()}, {datetime.now(UTC):%Y-%m-%d}."


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[[], *TITLES], default=[])
    parser.add_argument("--share", type=float, default=1.0, help="of the cases; 0.1 for a look")
    args = parser.parse_args()
    for line in table(args.kinds or list(TITLES), args.share):
        print(line, flush=True)


if __name__ == "__main__":
    main()
