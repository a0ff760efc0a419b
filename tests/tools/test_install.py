"""`tools/install.sh` in a scratch repository: two at once, Ctrl-C, and what a rebuild says.

Shell, lock, virtual environment and pip are the real ones. The scratch package needs nothing, and
its build waits for a file, so that a second installation finds the first one at work.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMANDS = ("sh", "dirname", "id", "mkdir", "ln", "rm", "touch")
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "scratch"
version = "1"
dependencies = []

[project.optional-dependencies]
dev = []
robomimic = []
"""
BACKEND = """
import time
import zipfile
from pathlib import Path

def build_editable(folder, config_settings=None, metadata_directory=None):
    with Path("builds.txt").open("a") as builds:
        builds.write("build\\n")
    while not Path("go").exists():
        time.sleep(0.02)
    name = "scratch-1-py3-none-any.whl"
    about = "Metadata-Version: 2.1\\nName: scratch\\nVersion: 1\\n"
    about += "Provides-Extra: dev\\nProvides-Extra: robomimic\\n"
    with zipfile.ZipFile(Path(folder) / name, "w") as wheel:
        wheel.writestr("scratch-1.dist-info/METADATA", about)
        wheel.writestr("scratch-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("scratch-1.dist-info/RECORD", "")
    return name
"""


class Scratch:
    """A repository with our installer and a package that needs nothing."""

    def __init__(self, root: Path, repository: Path) -> None:
        self.root = root
        self.started: list[subprocess.Popen[str]] = []
        (root / "tools").mkdir()
        for name in ("install.sh", "install_lock.py", "requirement_changes.py"):
            shutil.copy(repository / "tools" / name, root / "tools" / name)
        (root / "pyproject.toml").write_text(PYPROJECT)
        (root / "constraints.txt").write_text("# pins\nnumpy==2.0\ntorch==2.9\n")
        (root / "backend.py").write_text(BACKEND)
        commands = root / "bin"  # and no apt-get: nothing is installed on this machine
        commands.mkdir()
        for name in COMMANDS:
            (commands / name).symlink_to(shutil.which(name) or name)
        for name in ("cmake", "c++", "make"):
            (commands / name).symlink_to(shutil.which("true") or "true")

    def start(self) -> subprocess.Popen[str]:
        """Start an installation in a process group of its own."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "INSTALL_LOCK")}
        self.started.append(
            process := subprocess.Popen(
                ["/bin/sh", "tools/install.sh"],
                cwd=self.root,
                env=kept | {"PATH": str(self.root / "bin"), "PYTHON": sys.executable},
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return process

    def builds(self) -> int:
        """Return how often pip has built the package."""
        file = self.root / "builds.txt"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def until_built(self, times: int) -> None:
        """Wait until pip builds the package for that time."""
        deadline = time.monotonic() + 120
        while self.builds() < times:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that an installation says."""
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.fixture
def scratch(tmp_path: Path, repository: Path) -> Iterator[Scratch]:
    """Yield a repository where nothing is installed; end what was started in it."""
    made = Scratch(tmp_path, repository)
    yield made
    for process in made.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_two_at_once_and_what_a_rebuild_says(scratch: Scratch) -> None:
    first = scratch.start()
    scratch.until_built(1)
    second, third = scratch.start(), scratch.start()
    for waiting in (second, third):
        assert "another installation is at work in" in line(waiting)
    os.killpg(third.pid, signal.SIGINT)
    says = third.communicate(timeout=60)[1]
    assert says == "install: stopped while waiting; nothing was changed\n"
    assert third.returncode == 130
    assert second.poll() is None and not (scratch.root / ".venv/installed").exists()
    (scratch.root / "go").touch()
    says = first.communicate(timeout=120)[1]
    assert first.returncode == 0, says
    assert "install: off-screen rendering" in says and "- " not in says
    assert second.communicate(timeout=60)[1] == "install: the other installation has done it\n"
    assert second.returncode == 0 and scratch.builds() == 1
    listed = (scratch.root / ".venv/installed").read_text().splitlines()
    assert listed == ["constraints.txt: numpy==2.0", "constraints.txt: torch==2.9"]

    (scratch.root / "constraints.txt").write_text("# pins\nnumpy==2.1\ntorch==2.9\n")
    project = PYPROJECT.replace("dev = []", 'dev = ["ruff>=1"]')
    (scratch.root / "pyproject.toml").write_text(project)
    (scratch.root / "go").unlink()
    rebuild = scratch.start()
    assert [line(rebuild) for _ in range(3)] == [
        "install: - constraints.txt: numpy==2.0\n",
        "install: + constraints.txt: numpy==2.1\n",
        "install: + pyproject.toml [dev]: ruff>=1\n",
    ]
    scratch.until_built(2)
    os.killpg(rebuild.pid, signal.SIGINT)  # as Ctrl-C does
    says = rebuild.communicate(timeout=60)[1]
    assert rebuild.returncode == 130 and "install: stopped; make install goes on" in says
    assert (scratch.root / ".venv/installed").read_text().splitlines() == listed
    (scratch.root / "pyproject.toml").write_text(PYPROJECT)
    (scratch.root / "go").touch()
    again = scratch.start()  # nothing of the stopped one is in the way
    says = again.communicate(timeout=120)[1]
    assert again.returncode == 0, says
    assert "+ constraints.txt: numpy==2.1" in says and "ruff" not in says
    assert "constraints.txt: numpy==2.1" in (scratch.root / ".venv/installed").read_text()
