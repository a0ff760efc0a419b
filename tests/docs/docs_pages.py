"""The pages of the documentation, and what stands in their fenced blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))]


class CodeBlock(NamedTuple):
    """A fenced block. name: the file that a program is to be saved as, if it is one."""

    page: str
    line: int
    language: str
    name: str
    text: str


def blocks(page: Path) -> Iterator[CodeBlock]:
    """Yield the fenced blocks of a page."""
    name, fence, start, lines = "", None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if marked := re.fullmatch(r"<!-- program: (\S+) -->", line):
            name = marked.group(1)
        elif (mark := re.fullmatch(r" *```(\w*).*", line)) and fence is None:
            fence, start, lines = mark.group(1), number, []
        elif mark and fence is not None:
            yield CodeBlock(
                str(page.relative_to(REPOSITORY)), start, fence, name, "\n".join(lines) + "\n"
            )
            name, fence = "", None
        elif fence is not None:
            lines.append(line)


def program(page: str, name: str) -> str:
    """Return the text of a program of a page."""
    found = [block.text for block in blocks(REPOSITORY / page) if block.name == name]
    assert len(found) == 1, f"{page} has {len(found)} programs {name}"
    return found[0]


def command_lines(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of ours in the shell blocks of a page: where, and its words."""
    for block in blocks(page):
        if block.language not in ("", "bash", "sh"):
            continue
        joined = re.sub(r"\\\n\s*", " ", block.text)
        for line in joined.splitlines():
            try:
                words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            except ValueError:  # not a command line
                continue
            yield f"{block.page}:{block.line}", words
