"""YAML files of other people: read only where they are as large as they look."""

from __future__ import annotations

from pathlib import Path

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def require_no_aliases(path: Path) -> None:
    """Raise ValueError where a part of the YAML file `path` stands for another (`*name`).

    A few lines of them grow to any size. OSError and YAMLError as from reading the file.
    """
    for token in yaml.scan(path.read_text(encoding="utf-8"), Loader=_LOADER):
        if isinstance(token, yaml.AliasToken):
            line = token.start_mark.line + 1
            raise ValueError(
                f"{path}: line {line}: *{token.value} repeats another part, and could grow to any "
                "size; write that part out"
            )
