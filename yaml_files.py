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
_DEEPEST = 100  # lists and mappings within each other
_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def read_yaml(path: Path) -> Any:
    """Return the data in the YAML file `path`; errors as of `require_bounded`."""
    return yaml.safe_load(_bounded(path))


def require_bounded(path: Path) -> None:
    """Raise ValueError where the YAML file `path` could take far more to read than it looks.

    That is where it is larger than such files are, where a part stands for another (`*name`), as a
    few lines of them grow to any size, and where parts lie more than 100 deep in each other.
    OSError, UnicodeDecodeError and YAMLError as from reading the file.
    """
    _bounded(path)


def _bounded(path: Path) -> str:
    """Return the text of the file, of which `require_bounded` holds."""
    try:
        text = read_text(path)
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    depth = 0
    for token in yaml.scan(text, Loader=_LOADER):
        line = token.start_mark.line + 1
        if isinstance(token, yaml.AliasToken):
            raise ValueError(
                f"{path}: line {line}: *{token.value} repeats another part, and could grow to any "
                "size; write that part out"
            )
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > _DEEPEST:
            raise ValueError(
                f"{path}: line {line}: nested more than {_DEEPEST} deep; it is damaged"
            )
    return text


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
