"""Seeded attacks on stores, checkpoints, HDF5 files and what writes: each ends as promised.

`python -m telic.tests.attacks.run KIND --first N --cases 1 --folder DIR` repeats case N.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHORT = {"stores": 45, "checkpoints": 40, "hdf5_files": 54, "published": 24, "kills": 21}
LONG = {
    "stores": 540,
    "checkpoints": 500,
    "hdf5_files": 540,
    "published": 504,
    "kills": 210,
    "commands": 27,
}


def attack(kind: str, cases: int, folder: Path) -> None:
    """Run the first `cases` cases in a process of their own; fail with what went wrong."""
    command = [sys.executable, "-m", "telic.tests.attacks.run", kind, "--cases", str(cases)]
    done = subprocess.run(
        [*command, "--folder", str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [
        f"{kind} case {r['case']} ({r['mutation']}): {line}" for r in results for line in r["wrong"]
    ]
    assert len(results) == cases, done.stderr[-3000:]
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("kind", SHORT)
def test_every_attack_loads_equal_or_ends_in_one_line(kind: str, tmp_path: Path) -> None:
    attack(kind, SHORT[kind], tmp_path)


@pytest.mark.attack
@pytest.mark.slow
@pytest.mark.parametrize("kind", LONG)
def test_hundreds_of_attacks(kind: str, tmp_path: Path) -> None:
    attack(kind, LONG[kind], tmp_path)
