"""Values on a command line: plain text in, as a user types it, and out again, as it can be typed.

Hydra reads the value of an override by a grammar of its own, in which an apostrophe, a parenthesis,
an umlaut, an equals sign or a comma is syntax. The schema knows which keys hold text: their values
are quoted here before Hydra reads them, so that `goal=what's there (now)` is what it looks like.
"""

from __future__ import annotations

import re
import shlex
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final, Union, cast, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse as parse_interpolation

_ASSIGNMENT: Final = re.compile(r"(\+{0,2}([^\s=+~-][^\s=]*)=)(.*)", re.DOTALL)
_QUOTED: Final = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ENTRY: Final = re.compile(rf"\s*({_QUOTED}|[^,]*?)\s*(,|$)", re.DOTALL)
_SIMPLE: Final = re.compile(r"[A-Za-z_./][A-Za-z0-9_./:-]*")
_OTHER_THAN_TEXT: Final = ("null", "true", "false", "nan", "inf", "infinity")
_MULTIRUN: Final = ("-m", "--multirun")


def as_hydra(arguments: Sequence[str], schema: type[object]) -> list[str]:
    """Return the command line with values as Hydra reads them; what it reads already is kept.

    Kept are values in quotes, `null`, interpolations (`${...}`), and with `-m` what is swept
    (`a,b`, `range(1,3)`). Other values of a key that holds text are that text, and so are the
    entries of a list of texts (`[a,b]`). A value given to a group of keys whose config has a
    `shorthand` is that key's, unless it is a mapping: `sampling=2` is `sampling.preset=2`. A list
    of texts that its group names as `repeated` may be given an entry at a time:
    `goal.image=a:1.png goal.image=b:2.png`.
    """
    kinds = key_types(schema)
    sweeping = any(argument in _MULTIRUN for argument in arguments)
    return [_as_hydra(a, kinds, sweeping) for a in _gathered(arguments, kinds)]


def _gathered(arguments: Sequence[str], kinds: Mapping[str, Any]) -> list[str]:
    """Return the arguments with the entries of each `repeated` list as one list, at the first."""
    kept: list[str] = []
    places: dict[str, int] = {}
    entries: dict[str, list[str]] = {}
    for argument in arguments:
        assigned = _ASSIGNMENT.fullmatch(argument)
        key = "" if assigned is None else assigned.group(2)
        group, _, name = key.rpartition(".")
        is_entry = name in getattr(_inner(kinds.get(group)), "repeated", ())
        if assigned is None or not is_entry or assigned.group(3).lstrip().startswith("["):
            kept.append(argument)
            continue
        if key not in places:
            places[key] = len(kept)
            kept.append(key)
        entries.setdefault(key, []).append(_text(assigned.group(3), False))
    for key, place in places.items():
        kept[place] = f"{key}=[{','.join(entries[key])}]"
    return kept


def _as_hydra(argument: str, kinds: Mapping[str, Any], sweeping: bool) -> str:
    assigned = _ASSIGNMENT.fullmatch(argument)
    if assigned is None:
        return argument
    head, key, value = assigned.groups()
    kind = _inner(kinds.get(key))
    short = getattr(kind, "shorthand", None)
    override = _parsed(value)
    if short is not None and not (override and isinstance(override._value, dict)):
        return _as_hydra(f"{head[:-1]}.{short}={value}", kinds, sweeping)
    if kind is str:
        return head + _text(value, sweeping)
    if sweeping and override is not None and override.is_sweep_override():
        return argument
    body = re.fullmatch(r"\s*\[(.*)\]\s*", value, re.DOTALL)
    if get_origin(kind) is list and get_args(kind) == (str,) and body is not None:
        return f"{head}[{','.join(_text(entry, False) for entry in _entries(body.group(1)))}]"
    return argument if override is not None else head + quoted(value)


def sweeps(arguments: Sequence[str], key: str) -> bool:
    """Return whether the command line gives `key` several values to run through."""
    for argument in arguments:
        assigned = _ASSIGNMENT.fullmatch(argument)
        if assigned is not None and assigned.group(2) == key:
            override = _parsed(assigned.group(3))
            return override is not None and override.is_sweep_override()
    return False


def _text(value: str, sweeping: bool) -> str:
    """Return text as Hydra reads it."""
    override = _parsed(value)
    if value.strip().lower() == "null" or (
        override is not None and isinstance(override._value, QuotedString)
    ):
        return value
    if sweeping and override is not None and override.is_sweep_override():
        return value
    if sweeping and override is None and "," in value:
        return ",".join(_text(entry, False) for entry in _entries(value))
    return quoted(value, interpolates=_interpolates(value))


def text_of(value: str) -> str | None:
    """Return the text that the value of a key of text is typed for; None for `null`."""
    override = _parsed(_text(value, False))
    read = None if override is None else override.value()
    return None if read is None else str(read)


def quoted(text: str, interpolates: bool = False) -> str:
    """Return `text` in the quotes in which Hydra reads exactly it, unless it `interpolates`."""
    if not interpolates:  # "${" begins an interpolation even in quotes
        text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return str(QuotedString(text=text, quote=Quote.single).with_quotes())


def word(value: Any) -> str:
    """Return JSON data as Hydra reads it back, in a list or after `key=`."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{word(k)}:{word(entry)}" for k, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(word, value))}]"
    if isinstance(value, str):
        simple = _SIMPLE.fullmatch(value) and value.lower() not in _OTHER_THAN_TEXT
        return value if simple else quoted(value)
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def command_line(script: str, given: Mapping[str, Any]) -> str:
    """Return the line that runs `script` with the values `given`, to be pasted into a shell.

    A value that is text stands as it is, unless it would be read as something else.
    """

    def typed(value: Any) -> str:
        plain = isinstance(value, str) and _text(value, False) == quoted(value)
        return value if plain else word(value)

    return shlex.join([script, *(f"{key}={typed(value)}" for key, value in given.items())])


def key_types(schema: type[Any], prefix: str = "") -> dict[str, Any]:
    """Return the type of every config key below `schema`, by its dotted name."""
    kinds: dict[str, Any] = {}
    hints = get_type_hints(schema)
    for entry in fields(cast(Any, schema)):
        kinds[prefix + entry.name] = hint = hints[entry.name]
        for option in _options(hint):
            if is_dataclass(option) and isinstance(option, type):
                kinds |= key_types(option, f"{prefix}{entry.name}.")
    return kinds


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)


def _inner(hint: Any) -> Any:
    """Return the type without its None, where that leaves one."""
    options = [option for option in _options(hint) if option is not type(None)]
    return options[0] if len(options) == 1 else None


def _parsed(value: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return None


def _interpolates(value: str) -> bool:
    if "${" not in value:
        return False
    try:
        parse_interpolation(value)
    except GrammarParseError:
        return False
    return True


def _entries(text: str) -> Iterator[str]:
    """Yield what stands between the commas, quotes aside."""
    at = 0
    while at < len(text):
        found = _ENTRY.match(text, at)
        assert found is not None, "an entry ends at a comma or at the end"
        yield found.group(1)
        at = found.end()
