"""Cards: a README.md that says what lies beside it, in Hugging Face's layout, as text.

A card opens with YAML between two lines of `---`, which programs read, and goes on in Markdown.
What a card says is computed by those who make one; here it gets its form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from telic.text_files import read_text

FILE = "README.md"
_FENCE = "---"


@dataclass(frozen=True, kw_only=True, slots=True)
class CardSection:
    """A part of a card: its heading and its lines of Markdown."""

    heading: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A card. head: what programs read, as YAML data, in order; opening: a sentence or two."""

    head: dict[str, Any]
    title: str
    opening: str
    sections: tuple[CardSection, ...]

    def to_text(self) -> str:
        """The card as it stands in README.md."""
        head = yaml.safe_dump(self.head, sort_keys=False, allow_unicode=True, width=1000)
        lines = [_FENCE, *head.splitlines(), _FENCE, "", f"# {self.title}", "", self.opening]
        for section in self.sections:
            lines += ["", f"## {section.heading}", "", *section.lines]
        return "\n".join(lines) + "\n"


def read_head(file: Path) -> dict[str, Any]:
    """The YAML data that a card opens with; nothing where the file opens with none.

    ValueError where the file cannot be read or what stands between the `---` is no YAML.
    """
    try:
        opening, fence, rest = read_text(file).partition(f"{_FENCE}\n")
        head, end, _ = rest.partition(f"\n{_FENCE}\n")
        if opening or not fence or not end:
            return {}
        data = yaml.safe_load(head)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: damaged ({line})") from error
    return data if isinstance(data, dict) else {}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The lines of a Markdown table; a `|` in a cell stays one."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return (line(columns), f"|{'---|' * len(columns)}", *map(line, rows))


def command(*lines: str) -> tuple[str, ...]:
    """The lines of a block of shell commands."""
    return ("```bash", *lines, "```")


def paragraphs(*blocks: Sequence[str]) -> tuple[str, ...]:
    """The lines of the blocks that have any, with an empty line between two."""
    lines: list[str] = []
    for block in filter(None, blocks):
        lines += ["", *block] if lines else block
    return tuple(lines)
