"""What a table of parts offers, read from its source: each name and what it means.

Nothing is imported but where there are plug-ins, whose parts are known to the running tables alone.
"""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path

from telic.configs.source import PACKAGE, ROOT, Class, ModuleSource, first_sentence, read, resolve
from telic.plugins import load_plugins, plugins

PLUGGED = "of a plug-in"


def entries(source: ModuleSource, name: str) -> dict[str, str]:
    """The parts of the table that a name stands for in a file, each with its meaning."""
    table = resolve(source, name)
    if not isinstance(table, tuple):
        return {}
    where, value = table
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Registry":
        own = _entries_of(where, value.args[1])
        return own | {part: PLUGGED for part in _running(where, name) if part not in own}
    return _entries_of(where, value)


def subclasses_of_plugins(base: Class) -> list[Class]:
    """The classes outside of this package that are made from one of its own."""
    if not plugins():
        return []
    running = getattr(import_module(_module_name(base.source)), base.name)
    load_plugins()
    found = []
    for made in running.__subclasses__():
        if made.__module__.partition(".")[0] != PACKAGE:
            source = read(Path(inspect.getfile(made)))
            found += [known for known in source.classes() if known.name == made.__name__]
    return found


def _entries_of(source: ModuleSource, table: ast.expr) -> dict[str, str]:
    if not isinstance(table, ast.Dict):
        return {}
    pairs = zip(table.keys, table.values, strict=True)
    return {_name(source, key): _meaning(source, key, value) for key, value in pairs if key}


def _running(source: ModuleSource, name: str) -> list[str]:
    """The parts of a table as it is in this process, with those of plug-ins."""
    return list(getattr(import_module(_module_name(source)), name)) if plugins() else []


def _module_name(source: ModuleSource) -> str:
    return ".".join([PACKAGE, *source.path.relative_to(ROOT).with_suffix("").parts])


def _name(source: ModuleSource, key: ast.expr) -> str:
    if isinstance(key, ast.Name) and isinstance(found := resolve(source, key.id), tuple):
        key = found[1]
    return str(ast.literal_eval(key))


def _meaning(source: ModuleSource, key: ast.expr, value: ast.expr) -> str:
    """The comment at an entry, or what the file of its class opens with."""
    meaning = source.note(key) or source.note(value)
    known = resolve(source, value.id) if isinstance(value, ast.Name) else None
    if not meaning and isinstance(known, Class):
        meaning = first_sentence(ast.get_docstring(known.source.tree) or "")
    return meaning
