"""What the requirements were when `.venv` was installed, and what has changed since.

`python tools/requirement_changes.py show .venv/installed` prints a line for each requirement that
came or went; `record` in place of `show` writes down those of now.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def requirements(root: Path) -> list[str]:
    """Every requirement of pyproject.toml and constraints.txt, each with where it stands."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    groups = {"pyproject.toml": project.get("dependencies", [])}
    for extra, lines in project.get("optional-dependencies", {}).items():
        groups[f"pyproject.toml [{extra}]"] = lines
    bare = (line.partition("#")[0].strip() for line in (root / "constraints.txt").open())
    groups["constraints.txt"] = [line for line in bare if line]
    return [f"{place}: {line}" for place, lines in groups.items() for line in lines]


def changes(before: list[str], now: list[str]) -> list[str]:
    """Lines "- gone" and "+ new", those of one package beside each other."""
    gone = [(line, "-") for line in before if line not in now]
    new = [(line, "+") for line in now if line not in before]
    return [f"{sign} {line}" for line, sign in sorted(gone + new)]


def main() -> None:
    """Show or record."""
    doing, record = sys.argv[1], Path(sys.argv[2])
    now = requirements(ROOT)
    if doing == "record":
        fresh = record.with_name(f"{record.name}.new")
        fresh.write_text("".join(f"{line}\n" for line in now))
        fresh.replace(record)
        return
    before = record.read_text().splitlines() if record.exists() else []
    if not before:
        return
    changed = changes(before, now)
    if not changed:
        print("install: the requirements are those that are installed")
    for line in changed:
        print(f"install: {line}")


if __name__ == "__main__":
    main()
