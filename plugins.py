"""Modules of other people: those named on a command line, `module:what`, and plug-ins.

A plug-in is a module that registers parts when it is imported (registry.py). An installed package
names its own as an entry point of the group `telic.plugins`; the environment variable
TELIC_PLUGINS names others, such as a file in the working folder, with commas between them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

GROUP = "telic.plugins"
VARIABLE = "TELIC_PLUGINS"
_LOADED: set[str] = set()


def load_plugins() -> None:
    """Import the plug-ins that were not imported before; ValueError for one that cannot be."""
    for module, where in plugins().items():
        if module in _LOADED:
            continue
        _LOADED.add(module)  # first: what it registers is looked up while it is imported
        try:
            import_named(module, where)
        except ValueError:
            _LOADED.discard(module)
            raise


def plugins() -> dict[str, str]:
    """Module of each plug-in -> where it is named."""
    given = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    return _installed() | {name: f"{VARIABLE}={name}" for name in given if name}


@cache
def _installed() -> dict[str, str]:
    return {entry.module: f"{GROUP} {entry.name}" for entry in metadata.entry_points(group=GROUP)}


def import_named(module: str, where: str) -> ModuleType:
    """Return the module `module`; one that lies beside the user, in the working folder, is found.

    A console script has its own folder on `sys.path` in the place of the working folder, so that
    is added behind all others where the module is in none of them, unless Python was told not to
    (`-P`, PYTHONSAFEPATH). Raises ValueError, which begins with `where`, if it cannot be imported.
    """
    here = str(Path.cwd())
    try:
        if not _is_there(module) and here not in sys.path and not sys.flags.safe_path:
            sys.path.append(here)
            importlib.invalidate_caches()
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if missing == module or module.startswith(f"{missing}."):
            way_out = f"put the folder of {missing}.py on PYTHONPATH, or start the command there"
        else:
            way_out = f"{module} needs it: install it"
        raise ValueError(f"{where}: no module {missing!r} to import; {way_out}") from error
    except Exception as error:  # whatever somebody's code raises while it is imported
        at = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())
        raise ValueError(
            f"{where}: module {module!r} cannot be imported: {type(error).__name__}: {text} "
            f"({Path(at.filename).name}:{at.lineno})"
        ) from error


def _is_there(module: str) -> bool:
    """Return whether the module's outermost package, or it itself, is on the path."""
    outermost = module.partition(".")[0]
    return outermost in sys.modules or importlib.util.find_spec(outermost) is not None
