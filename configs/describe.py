"""What a command says of itself: `--help`, `--version` and the reference pages, from its source."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

from telic.configs.examples import EXAMPLES
from telic.configs.keys import Key, Section, schema_of, sections, unit
from telic.configs.source import read
from telic.configs.tables import PLUGGED, entries
from telic.plugins import plugins

CONFIGS = Path(__file__).resolve().parent
HYDRA = (
    ("--cfg job", "print the whole configuration and stop"),
    ("-m KEY=A,B", "one run after the other for each value"),
    ("-sc install=bash|zsh|fish", "print what completes keys and values in a shell"),
    ("--help PART", "only keys that begin with PART"),
    ("--version", "the version"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Whole configs by name: `policy=mdt`. default: "null" where none is chosen."""

    name: str
    default: str
    choices: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandDescription:
    """A command: script and name (`train-policy`, `train`), what it does, keys, groups."""

    script: str
    name: str
    what: list[str]
    sections: list[Section]
    groups: list[Group]

    @property
    def examples(self) -> tuple[tuple[str, str], ...]:
        """Command lines, each with what it does."""
        return EXAMPLES.get(self.name, ())


def describe(entry: Path) -> CommandDescription:
    """The description of the command whose entry point is a file such as `train.py`."""
    source = read(entry)
    schema, name = schema_of(source)
    paragraphs = [
        " ".join(part.split()) for part in (ast.get_docstring(source.tree) or "").split("\n\n")
    ]
    script = re.match(r"`([\w-]+)`: ", paragraphs[0])
    title = script.group(1) if script else name
    kept = [paragraphs[0].partition(": ")[2] if script else paragraphs[0], *paragraphs[1:]]
    return CommandDescription(
        script=title,
        name=name,
        what=[part for part in kept if not part.startswith(f"{title} ")] + schema.details,
        sections=list({(s.name, s.choice): s for s in sections(schema)}.values()),
        groups=groups(name),
    )


def groups(name: str) -> list[Group]:
    """The groups of a command: those of `configs/<name>/config.yaml`, in its order."""
    root = CONFIGS / name / "config.yaml"
    text = root.read_text() if root.is_file() else ""
    found = []
    for group, default in re.findall(r"^  - ([\w/]+): (\S+)$", text, re.M):
        files = sorted((CONFIGS / name / group).glob("*.yaml"))
        choices = {file.stem: _comment(file) for file in files} or registered(group)
        if choices:
            found.append(Group(name=group, default=default, choices=choices))
    return found


def registered(group: str) -> dict[str, str]:
    """The choices that `register_choices(group, TABLE)` makes, each with its meaning."""
    source = read(CONFIGS / "policy_choices.py")
    found: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "register_choices"
            and isinstance(node.args[0], ast.Constant)
            and node.args[0].value == group
        ):
            for name in ast.walk(node.args[1]):
                if isinstance(name, ast.Name):
                    found |= entries(source, name.id)
    return found | {name: PLUGGED for name in _plugged(group) if name not in found}


def _plugged(group: str) -> list[str]:
    """The choices of a group in this process, where there are plug-ins that may add some."""
    if not plugins():
        return []
    import_module("telic.configs.policy_choices")
    return list(import_module("telic.configs.launch").choices(group))


def _comment(file: Path) -> str:
    """What a recipe's file opens with."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
    opening = []
    for line in lines:
        if not line.startswith("#"):
            break
        opening.append(line.lstrip("# "))
    return first_clause(" ".join(opening))


def first_clause(text: str) -> str:
    """The text up to its first full stop."""
    return re.split(r"(?<=[^.\d])\. |; ", text)[0].rstrip(".")


def answered(entry: Path, arguments: Sequence[str]) -> bool:
    """Whether a command line asks for help, the version or completions; they are then printed."""
    asked = [n for n, word in enumerate(arguments) if word in ("--help", "-h", "--version")]
    if asked:
        about = describe(entry)
        part = [word for word in arguments[asked[0] + 1 :] if re.fullmatch(r"[\w.]+", word)]
        width = shutil.get_terminal_size((100, 24)).columns
        version = f"{about.script} {metadata.version('telic')}"
        _show(version if "--version" in arguments else help_text(about, width, "".join(part[:1])))
        return True
    if any(word.startswith("query=") for word in arguments) and "COMP_LINE" in os.environ:
        _show(" ".join(completions(describe(entry), os.environ["COMP_LINE"])))
        return True
    return False


def _show(text: str) -> None:
    """Print `text`; whoever reads no further, as `head`, ends it without a word."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


def completions(about: CommandDescription, line: str) -> list[str]:
    """What the last word of `line` may go on as: keys up to their next dot, or values."""
    word = "" if line.endswith(" ") else line.split()[-1]
    values = {f"{g.name}=": list(g.choices) for g in about.groups}
    for section in about.sections:
        for key in section.keys:
            truth = ["true", "false"] if key.kind == "true or false" else []
            values[f"{key.name}="] = list(key.choices) or truth
    if "=" in word:
        name = word.partition("=")[0] + "="
        return [name + v for v in values.get(name, []) if (name + v).startswith(word)]
    found = [key for key in values if key.startswith(word)]
    level = word.count(".") + 1
    cut = {".".join(key.split(".")[:level]) + "." * (key.count(".") >= level) for key in found}
    return found if len(cut) == 1 and len(found) < 2 else sorted(cut)


def help_text(about: CommandDescription, width: int, part: str = "") -> str:
    """Help that fits `width` columns; `part`: keys that begin so, and nothing else."""
    width = max(40, width)
    if part:
        return "\n".join(_keys(about, width, part) or [f"{about.script} has no key {part}"])
    lines = [*textwrap.wrap(f"{about.script}: {about.what[0]}", width), ""]
    lines += [*command_lines(f"{about.script} [KEY=VALUE ...] [GROUP=NAME ...]", width), ""]
    for line, what in about.examples:
        lines += [*command_lines(line, width), *_wrapped(f"    {what}", width, "    ")]
    lines += ["", "KEYS", *_keys(about, width)]
    if about.groups:
        lines += ["", "GROUPS: whole configurations by name", *_groups(about.groups, width)]
    lines += ["", "MORE", *(line for pair in HYDRA for line in _row(*pair, width))]
    for paragraph in about.what[1:]:
        lines += ["", *textwrap.wrap(paragraph, width)]
    return "\n".join(lines)


def command_lines(line: str, width: int) -> list[str]:
    """A command line broken between its words, as a shell reads it."""
    lines = [""]
    for word in re.findall(r"(?:'[^']*'|\S)+", line):
        if lines[-1] and len(lines[-1]) + len(word) + 5 > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}"
    return [f" {text}" for text in lines]


def _keys(about: CommandDescription, width: int, part: str = "") -> list[str]:
    lines: list[str] = []
    for section in about.sections:
        kept = [key for key in section.keys if key.name.startswith(part)]
        if not kept:
            continue
        if section.name or section.choice:
            lines += ["", *_wrapped(f"  {heading(about, section)}", width, "    ")]
        for key in kept:
            lines += _row(f"{key.name}={key.default}", meaning(key), width)
            for choice, what in key.choices.items():
                if what:
                    lines += _wrapped(
                        f"{'':{_column(width)}}  {choice}: {what}",
                        width,
                        " " * (_column(width) + 4),
                    )
    return lines


def heading(about: CommandDescription, section: Section) -> str:
    """The line over a section's keys: where they are, by what they are chosen, what they are."""
    group = section.name.replace(".", "/")
    if group in {known.name for known in about.groups}:
        return f"{section.name}, where {group}={section.choice}: {section.title}"
    return f"{section.name}{section.choice and f' of {section.choice}'}: {section.title}"


def meaning(key: Key) -> str:
    """What stands beside a key: its meaning, unit, kind of value and choices."""
    bare = [name for name, what in key.choices.items()]
    kind = " | ".join(bare) if bare else key.kind
    parts = [key.meaning] if key.meaning else []
    if (word := unit(key.name)) and word not in key.meaning:
        kind = f"{kind}, {word}"
    return " ".join([*parts, f"[{kind}]"])


def _groups(found: Sequence[Group], width: int) -> list[str]:
    lines = []
    for group in found:
        lines += ["", f"  {group.name}={group.default}"]
        for name, what in group.choices.items():
            lines += _row(f"  {name}", what, width)
    return lines


def _column(width: int) -> int:
    """Where the meanings begin."""
    return min(44, width // 2)


def _row(left: str, right: str, width: int) -> list[str]:
    """A row of two columns; a left one that is too long stands on a line of its own."""
    column = _column(width)
    texts = textwrap.wrap(right, width - column) or [""]
    first = f"  {left}"
    if len(first) >= column:
        return [first, *(f"{'':{column}}{text}" for text in texts)]
    return [f"{first:{column}}{texts[0]}".rstrip(), *(f"{'':{column}}{text}" for text in texts[1:])]


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, width, subsequent_indent=indent, initial_indent="", drop_whitespace=True
    ) or [""]
