"""A module's source as text: classes, constants, and the comments beside them. Nothing is imported.

What a config key means is written once, beside its field, and read from there: so `--help` needs
no torch, and help and reference pages cannot differ.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = "telic"
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleSource:
    """One file, parsed."""

    path: Path
    tree: ast.Module
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> (module, name)

    def note(self, node: ast.AST) -> str:
        """The comment beside a statement's or an expression's end, or else that above it."""
        comments, above = comments_of(self.path)
        first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)
        if beside := comments.get(last) or comments.get(first):
            return beside
        lines = []
        while (first := first - 1) in above:
            lines.append(above[first])
        return " ".join(reversed(lines))

    def assigned(self, name: str) -> ast.expr | None:
        """The value that a module-level constant is given."""
        for node in self.tree.body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                value: ast.expr | None = getattr(node, "value", None)
                return value
        return None

    def classes(self) -> Iterator[Class]:
        """Every class of the file."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef):
                yield Class(self, node)


@dataclass(frozen=True, slots=True)
class Class:
    """A class and the file that it stands in."""

    source: ModuleSource
    node: ast.ClassDef

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.name

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return first_sentence(ast.get_docstring(self.node) or "")

    @property
    def details(self) -> list[str]:
        """The further paragraphs of its docstring, each as one line."""
        text = ast.get_docstring(self.node) or ""
        return [" ".join(part.split()) for part in text.split("\n\n")[1:]]

    def documented(self, name: str) -> str:
        """What its docstring has about a member or a field, in a line that begins `name: `."""
        text = ast.get_docstring(self.node) or ""
        found = re.search(rf"^{name}: (.+?)(?=^\w+: |^\s*$|\Z)", text, re.S | re.M)
        return " ".join(found.group(1).split()) if found else ""

    def bases(self) -> list[Class]:
        """The classes of this package that it is made from, nearest first."""
        names = [base.id for base in self.node.bases if isinstance(base, ast.Name)]
        found = [resolve(self.source, name) for name in names]
        return [base for base in found if isinstance(base, Class)]

    @property
    def is_enum(self) -> bool:
        """Whether it lists choices."""
        return any(isinstance(base, ast.Name) and base.id == "Enum" for base in self.node.bases)

    @property
    def is_dataclass(self) -> bool:
        """Whether it has fields."""
        return any("dataclass" in ast.unparse(mark) for mark in self.node.decorator_list)


def plain_comment(text: str) -> str:
    """A comment without its mark, and without what it has for a linter alone."""
    found = re.fullmatch(r"# (?:noqa|type): \S+(?: \((.*)\))?", text)
    return (found.group(1) or "") if found else text.lstrip("# ")


def first_sentence(text: str) -> str:
    """The first paragraph of a docstring, as one line."""
    return " ".join(text.partition("\n\n")[0].split())


@cache
def read(path: Path) -> ModuleSource:
    """The source of a file."""
    source = ModuleSource(path=path, tree=ast.parse(path.read_text()))
    for node in source.tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                source.imports[alias.asname or alias.name] = (node.module, alias.name)
    return source


@cache
def comments_of(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """The comments of a file by line: those beside code, and those on lines of their own."""
    beside: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            own = not token.line[: token.start[1]].strip()
            (alone if own else beside)[token.start[0]] = plain_comment(token.string)
    return beside, alone


def module(name: str) -> ModuleSource | None:
    """The source of a module of this package; None for another one's."""
    if name.partition(".")[0] != PACKAGE:
        return None
    path = ROOT.joinpath(*name.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return read(candidate)
    return None


def resolve(source: ModuleSource, name: str) -> Class | tuple[ModuleSource, ast.expr] | None:
    """The class or the constant that a name stands for in a file; None where it is another's."""
    for known in source.classes():
        if known.name == name:
            return known
    if (value := source.assigned(name)) is not None:
        return source, value
    if name in source.imports:
        where, original = source.imports[name]
        inner = module(where)
        return None if inner is None else resolve(inner, original)
    return None


def subclasses(base: Class) -> list[Class]:
    """The classes beside a base (in its folder) that are made from it, by file."""
    found = []
    for path in sorted(base.source.path.parent.glob("*.py")):
        if f"({base.name}" not in path.read_text():
            continue
        for known in read(path).classes():
            if any(b.node is base.node for b in known.bases()):
                found.append(known)
    return found
