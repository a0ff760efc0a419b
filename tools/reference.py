"""Writes docs/reference/commands/: a page for each command, from its config classes.

python tools/reference.py            # writes the pages
python tools/reference.py --check    # exit code 1 where a page is not what it would write
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from telic.configs.describe import CommandDescription, command_lines, describe, heading, meaning
from telic.configs.pretrained_arguments import parser as save_pretrained_parser
from telic.datasets.cli import demo_store_parser
from telic.policy.exported.arguments import parser as export_policy_parser
from telic.policy.published.import_arguments import parser as import_checkpoint_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs/reference/commands"
ENTRIES = ("collect", "train", "evaluate", "control", "recipe", "build_anchors", "train_baseline")


def pages() -> dict[Path, str]:
    """Every page and its text."""
    made = {}
    for entry in ENTRIES:
        about = describe(ROOT / f"{entry}.py")
        made[PAGES / f"{about.script}.md"] = of_keys(about)
    os.environ["COLUMNS"] = "90"  # argparse wraps there
    made[PAGES / "demo-store.md"] = of_arguments(demo_store_parser())
    made[PAGES / "import-checkpoint.md"] = of_arguments(import_checkpoint_parser())
    made[PAGES / "export-policy.md"] = of_arguments(export_policy_parser())
    made[PAGES / "save-pretrained.md"] = of_arguments(save_pretrained_parser())
    return made


def of_keys(about: CommandDescription) -> str:
    """The page of a command that is given keys."""
    lines = [f"# {about.script}", "", f"{sentence(about.what[0])}", "", "```bash"]
    for line, what in about.examples:
        lines += [f"# {what}", *(text.removeprefix("  ") for text in command_lines(line, 96))]
    lines += ["```", "", f"`{about.script} --help` prints this page."]
    lines += [part for paragraph in about.what[1:] for part in ("", escaped(paragraph))]
    for section in about.sections:
        if not section.keys:
            continue
        title = heading(about, section).partition(": ")
        lines += ["", f"## {f'`{title[0]}`' if section.name else 'Keys'}", "", escaped(title[2])]
        lines += ["", "| key | default | meaning |", "|---|---|---|"]
        for key in section.keys:
            choices = [f"`{name}`: {escaped(what)}" for name, what in key.choices.items() if what]
            text = "<br>".join([escaped(meaning(key)), *choices])
            default = key.default.replace("|", "\\|")
            lines.append(f"| `{key.name}` | `{default}` | {text} |")
    for group in about.groups:
        default = "" if group.default == "null" else f" The default is `{group.default}`."
        lines += ["", f"## `{group.name}=`", "", f"Whole configurations by name.{default}", ""]
        lines += ["| name | what |", "|---|---|"]
        lines += [f"| `{name}` | {escaped(what)} |" for name, what in group.choices.items()]
    return "\n".join(lines) + "\n"


def of_arguments(parser: argparse.ArgumentParser) -> str:
    """The page of a command that is given arguments: what `--help` prints, of each part."""
    lines = [f"# {parser.prog}", "", "```text", parser.format_help().rstrip(), "```"]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, part in action.choices.items():
                lines += ["", f"## {parser.prog} {name}", "", "```text"]
                lines += [part.format_help().rstrip(), "```"]
    return "\n".join(lines) + "\n"


def sentence(text: str) -> str:
    """A text that begins with a capital and ends with a full stop."""
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def escaped(text: str) -> str:
    """A text as a cell of a table can hold it; what stands in backticks stays as it is."""
    parts = text.split("`")
    for n, part in enumerate(parts):
        marks = "|" if n % 2 else "|<>*"
        parts[n] = "".join(f"\\{c}" if c in marks else c for c in part)
    return "`".join(parts)


def main() -> int:
    """Write or check the pages; the process's exit code."""
    stale = [
        path for path, text in pages().items() if not path.is_file() or path.read_text() != text
    ]
    for path in stale:
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages()[path])
        print(path.relative_to(ROOT))
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
