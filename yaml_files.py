"""YAML data: out of config objects, and out of files only where they are as large as they look."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from telic.text_files import read_text

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def require_no_aliases(path: Path) -> None:
    """Raise ValueError where a part of the YAML file `path` stands for another (`*name`).

    A few lines of them grow to any size. OSError, ValueError and YAMLError as from
    reading the file.
    """
    for token in yaml.scan(read_text(path), Loader=_LOADER):
        if isinstance(token, yaml.AliasToken):
            line = token.start_mark.line + 1
            raise ValueError(
                f"{path}: line {line}: *{token.value} repeats another part, and could grow to any "
                "size; write that part out"
            )


def plain(value: Any) -> Any:
    """Return `value` as YAML data: dataclasses to dict, enums to their names, paths to str."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value
