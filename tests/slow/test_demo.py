"""The recipe of `make demo` reaches its success rate: a quarter of an hour on two CPU cores."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_demo_learns_mt10(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "telic.recipe", "experiment=metaworld_mt10", f"out={out}"]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            assert process.wait(timeout=3600) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["episodes"] == {"10": 100, "2": 100}
    assert summary["crashed"] == {"10": 0, "2": 0}
    assert min(summary["success"].values()) >= 0.9
    assert summary["control"]["ended"]["failed"] is False
    assert (out / "checkpoints" / "best" / "model.safetensors").is_file()
