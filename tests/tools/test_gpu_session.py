"""`tools/gpu_session.sh`: it parses, refuses in one line, and without time skips every part."""

from __future__ import annotations

import subprocess
from pathlib import Path

PARTS = [
    *("machine", "cuda_tests", "latency", "runtimes"),
    *("collect", "throughput", "train"),
]


def session(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    script = str(repository / "tools/gpu_session.sh")
    return subprocess.run(["bash", script, *arguments], capture_output=True, text=True)


def test_bad_arguments_are_one_line(repository: Path) -> None:
    for arguments, line in (((), "name a folder"), (("out", "--fast"), "--fast is not an option")):
        done = session(repository, *arguments)
        assert done.returncode == 2 and line in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_part_for_which_no_time_is_left_is_skipped(repository: Path, tmp_path: Path) -> None:
    done = session(repository, str(tmp_path / "out"), "--dry-run", "--minutes", "0")
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in (tmp_path / "out/parts.tsv").read_text().splitlines()]
    assert rows == [[part, "skipped", "0"] for part in PARTS]
