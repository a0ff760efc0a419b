"""Modules of other people that are named on a command line: `module:what`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType


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
