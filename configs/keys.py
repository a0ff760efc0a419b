"""The keys of a command, read from the source: name, kind, default, meaning, choices."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from telic.configs.source import ROOT, Class, ModuleSource, read, resolve, subclasses
from telic.configs.tables import entries, subclasses_of_plugins

UNITS = {"_hz": "Hz", "_s": "seconds", "_us": "microseconds", "_ns": "ns", "_mb": "MiB"}
CHOSEN_BY = ("kind", "name")  # fields by which a config is chosen; nobody sets them
Given = Mapping[str, tuple[ModuleSource, ast.expr]]  # field -> what a call gives it


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One setting. default: as it is typed on a command line; choices: name -> meaning."""

    name: str
    kind: str
    default: str
    meaning: str
    choices: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """The keys of one config class. choice: its name among those that may stand at its place."""

    name: str
    title: str
    keys: list[Key]
    choice: str = ""


def sections(
    schema: Class, prefix: str = "", given: Given | None = None, choice: str = "", title: str = ""
) -> Iterator[Section]:
    """The sections of a config class: its own keys, then those of each config within it."""
    own: list[Key] = []
    inner: list[Section] = []
    for name, (source, node, meaning) in fields_of(schema).items():
        dotted = f"{prefix}{name}"
        where, value = (given or {}).get(name, (source, default_of(node)))
        kind, known = kind_of(source, node.annotation)
        if name in CHOSEN_BY and schema.bases():
            continue
        if known is not None and not known.is_enum:
            inner += _sections_of(known, f"{dotted}.", meaning, call_arguments(where, value))
            continue
        choices = choices_of(source, node) if known is None else members(known)
        default = command_line_value(where, value)
        own.append(Key(name=dotted, kind=kind, default=default, meaning=meaning, choices=choices))
    yield Section(
        name=prefix.removesuffix("."), title=title or schema.summary, keys=own, choice=choice
    )
    yield from inner


def _sections_of(known: Class, prefix: str, meaning: str, given: Given) -> Iterator[Section]:
    """The sections of a config within another: of each of its kinds, where it has several."""
    kinds = subclasses(known) + subclasses_of_plugins(known)
    for kind in kinds:
        yield from sections(kind, prefix, choice=name_of(kind))
    if not kinds:
        yield from sections(known, prefix, given, title=meaning)


def name_of(schema: Class) -> str:
    """The name by which a kind of config is chosen."""
    for name, (source, node, _) in fields_of(schema).items():
        if name in CHOSEN_BY:
            return command_line_value(source, default_of(node))
    return schema.name


def fields_of(schema: Class) -> dict[str, tuple[ModuleSource, ast.AnnAssign, str]]:
    """The fields of a dataclass, those of its bases first: where, statement, meaning."""
    found: dict[str, tuple[ModuleSource, ast.AnnAssign, str]] = {}
    for base in reversed(schema.bases()):
        found |= fields_of(base)
    for node in schema.node.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(node.annotation):
            found.pop(node.target.id, None)
            continue
        name = node.target.id
        inherited = found[name][2] if name in found else ""
        meaning = schema.source.note(node) or schema.documented(name) or inherited
        found[name] = (schema.source, node, as_typed(meaning))
    return found


def members(choice: Class) -> dict[str, str]:
    """The members of an Enum by name, each with the comment beside it."""
    found = {}
    for node in choice.node.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            found[name] = as_typed(choice.source.note(node) or choice.documented(name))
    return found


def choices_of(source: ModuleSource, node: ast.AnnAssign) -> dict[str, str]:
    """The parts of the table that `field(metadata={"choices": TABLE})` names, with meanings.

    TABLE may be the dotted name, as text, of one whose module a config does without.
    """
    given = node.value.keywords if isinstance(node.value, ast.Call) else []
    for argument in given:
        if argument.arg == "metadata" and isinstance(argument.value, ast.Dict):
            for key, value in zip(argument.value.keys, argument.value.values, strict=True):
                if key is not None and ast.literal_eval(key) == "choices":
                    if not isinstance(value, ast.Constant):
                        return entries(source, ast.unparse(value))
                    *module, table = str(value.value).split(".")
                    return entries(read(ROOT.joinpath(*module[1:]).with_suffix(".py")), table)
    return {}


def kind_of(source: ModuleSource, annotation: ast.expr) -> tuple[str, Class | None]:
    """What an annotation allows, in words, and the class of this package that it names."""
    if isinstance(annotation, ast.BinOp):
        left, known = kind_of(source, annotation.left)
        return (f"{left} or null", known)
    if isinstance(annotation, ast.Subscript):
        outer = ast.unparse(annotation.value)
        inner = annotation.slice
        if outer == "list":
            return f"list of {kind_of(source, inner)[0]}", None
        return outer, None
    name = ast.unparse(annotation)
    found = resolve(source, name)
    if isinstance(found, Class):
        return ("choice" if found.is_enum else found.name), found
    words = {"int": "integer", "float": "number", "bool": "true or false", "str": "text"}
    return words.get(name, name), None


def default_of(node: ast.AnnAssign) -> ast.expr | None:
    """The expression of a field's default, that of its factory included."""
    value = node.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        for argument in value.keywords:
            if argument.arg in ("default", "default_factory"):
                value = argument.value
                return value.body if isinstance(value, ast.Lambda) else value
    return value


def call_arguments(source: ModuleSource, value: ast.expr | None) -> Given:
    """What `SomeConfig(key=value)` gives the fields of that config."""
    if not isinstance(value, ast.Call):
        return {}
    return {k.arg: (source, k.value) for k in value.keywords if k.arg is not None}


def command_line_value(source: ModuleSource, value: ast.expr | None) -> str:
    """An expression as a command line has it: `null`, `true`, `[a,b]`, an Enum's member."""
    if value is None:
        return ""
    if isinstance(value, ast.List | ast.Tuple):
        return f"[{','.join(command_line_value(source, entry) for entry in value.elts)}]"
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("list", "tuple"):
        return command_line_value(source, value.args[0])
    if isinstance(value, ast.Attribute):
        return value.attr
    if isinstance(value, ast.Name):
        if value.id in ("list", "dict"):
            return {"list": "[]", "dict": "{}"}[value.id]
        found = resolve(source, value.id)
        return command_line_value(*found) if isinstance(found, tuple) else value.id
    try:
        return plain(ast.literal_eval(value))
    except ValueError:
        return ast.unparse(value)


def plain(value: object) -> str:
    """A plain value as a command line has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if value != "" else "''"


def as_typed(meaning: str) -> str:
    """A comment with Python's constants as a command line has them."""
    for python, typed in (("None", "null"), ("True", "true"), ("False", "false")):
        meaning = re.sub(rf"\b{python}\b", typed, meaning)
    return meaning


def unit(name: str) -> str:
    """The unit that a key's name ends in, or ""."""
    for suffix, word in UNITS.items():
        if name.endswith(suffix) and not name.endswith(f"_per{suffix}"):
            return word
    return ""


def schema_of(source: ModuleSource) -> tuple[Class, str]:
    """The config class and the command that an entry point gives to `launch`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "launch":
            schema = resolve(source, ast.unparse(node.args[0]))
            command = ast.literal_eval(node.args[2])
            assert isinstance(schema, Class)
            return schema, command
    raise ValueError(f"{source.path}: launches no command")
