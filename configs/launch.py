"""From a command line to a plain config object, and from an error to one line.

Each command has a folder here: `configs/<command>/config.yaml` is its root, the folders in it are
its groups: `train-policy experiment=debug` reads `configs/train/experiment/debug.yaml`.
Hydra is known in this file alone: what runs gets a dataclass instance.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from telic.configs.describe import answered
from telic.configs.renamed import with_new_names
from telic.configs.words import as_hydra, key_types, sweeps
from telic.spec import near_misses, warnings_in_one_line
from telic.typed_keys import to_object

Config = TypeVar("Config")
USER_ERRORS = (ValueError, OSError, HydraException, OmegaConfBaseException)
CONFIGS = Path(__file__).resolve().parent
_PREPARATIONS: dict[str, Callable[[Sequence[str]], list[str]]] = {}


def launch(schema: type[Config], body: Callable[[Config], object], name: str) -> None:
    """Run `body` with the config that the command line and `configs/<name>/` compose.

    Ends the process with status 0; 2 after one line on stderr when the input is at fault
    (ValueError, a bad config key or value, a missing file); 130 after Ctrl-C, 143 after SIGTERM.
    HYDRA_FULL_ERROR=1 shows the traceback instead of the line.
    """
    entry = sys.modules[body.__module__].__file__
    if entry is not None and answered(Path(entry), sys.argv[1:]):
        return
    given = os.environ.get("HYDRA_FULL_ERROR", "0")
    full_error = given == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    warnings_in_one_line()
    _register(schema, name)

    @contextmanager
    def one_line_errors() -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt as stop:
            code = signal.SIGINT if not stop.args else int(stop.args[0])
            print(f"{name}: stopped by {signal.Signals(code).name}", file=sys.stderr)
            sys.exit(128 + code)
        except AssertionError:  # what OmegaConf makes of a setting of a part that is None
            if full_error or (line := _unchosen(sys.argv[1:])) is None:
                raise
            print(f"{name}: {line}", file=sys.stderr)
            sys.exit(2)
        except USER_ERRORS as error:
            if full_error:
                raise
            print(f"{name}: {one_line(error, schema)}", file=sys.stderr)
            sys.exit(2)

    def compose_and_run(cfg: DictConfig) -> None:
        with one_line_errors():  # inside the job too: Hydra adds lines of its own to what escapes
            config = _to_object(cfg, schema)
            _give_own_out(config, name, sys.argv[1:])
            os.environ["HYDRA_FULL_ERROR"] = given  # for the commands that `body` starts
            try:
                body(config)
            finally:
                os.environ["HYDRA_FULL_ERROR"] = "1"

    with one_line_errors():
        sys.argv[1:] = _prepared(name, sys.argv[1:], schema)
        hydra.main(version_base="1.3", config_path=str(CONFIGS / name), config_name="config")(
            compose_and_run
        )()


def _give_own_out(config: Any, name: str, arguments: Sequence[str]) -> None:
    """Have each job of a sweep (`-m`) write to an `out` of its own, and say to which.

    A folder X becomes X/0, X/1, ...; a file or a store x.zarr becomes x_0.zarr. Nothing is changed
    where `out` itself is swept, or where there is none.
    """
    job = HydraConfig.get()
    out = getattr(config, "out", None)
    if job.mode != RunMode.MULTIRUN or not out or sweeps(arguments, "out"):
        return
    path, number = Path(out), job.job.num
    is_file = re.fullmatch(r"\.[a-z][a-z0-9]*", path.suffix) is not None
    own = path.with_stem(f"{path.stem}_{number}") if is_file else path / str(number)
    config.out = str(own)
    given = [text for text in job.overrides.task if not text.startswith("out=")]
    print(f"{name}: job {number}, {', '.join(given)}: out={own}", file=sys.stderr)


def compose(schema: type[Config], name: str, overrides: Sequence[str] = ()) -> Config:
    """Return the config object of command `name` with `overrides`, as its command line would."""
    _register(schema, name)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS / name), version_base="1.3"):
        prepared = _prepared(name, overrides, schema)
        return _to_object(hydra.compose("config", overrides=prepared), schema)


def _to_object(cfg: DictConfig, schema: type[Config]) -> Config:
    try:
        return cast(Config, to_object(cfg))
    except AttributeError as error:  # a key that `+key=value` added to a slotted dataclass
        key = str(error).rsplit("'", 2)[-2] if "no attribute" in str(error) else str(error)
        raise ValueError(
            f"{key} is not a config key{near_misses(key, key_types(schema))}"
        ) from error


def register_choices(group: str, choices: Mapping[str, object]) -> None:
    """Make `group=name` on a command line choose among config objects, where a root asks for it."""
    for name, node in choices.items():
        ConfigStore.instance().store(group=group, name=name, node=node)


def choices(group: str) -> list[str]:
    """The names that `register_choices` was given for a group."""
    node: Any = ConfigStore.instance().repo
    for part in group.split("/"):
        node = node.get(part, {}) if isinstance(node, dict) else {}
    return [key.removesuffix(".yaml") for key in node if key.endswith(".yaml")]


def register_preparation(name: str, prepare: Callable[[Sequence[str]], list[str]]) -> None:
    """Have `prepare` turn the overrides of command `name` into those that are composed.

    It may register choices that only they name.
    """
    _PREPARATIONS[name] = prepare


def _prepared(name: str, overrides: Sequence[str], schema: type[Any]) -> list[str]:
    return as_hydra(_PREPARATIONS.get(name, list)(with_new_names(overrides)), schema)


def _register(schema: type[object], name: str) -> None:
    """Make `schema` known to Hydra; a field that is a plain dict takes any keys."""
    node = OmegaConf.structured(schema)
    for key in node:
        value = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(value, DictConfig) and OmegaConf.get_type(value) is dict:
            OmegaConf.set_struct(value, False)
    ConfigStore.instance().store(name=f"{name}_schema", node=node)


def one_line(error: Exception, schema: type[Any]) -> str:
    """Return what `error` tells the user as one line; an unknown name gets its near misses."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = ", ".join(error.options)
        return f"{group}={name} is not one of {known}{near_misses(name, error.options)}"
    if isinstance(error, HydraException) and error.__cause__ is not None:
        text = f"{text} {error.__cause__}"
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in '[^']+')", text)
    if unknown:
        key = re.search(r"full_key: (\S+)", text)
        full_key = key.group(1) if key else unknown.group(1)
        return f"{full_key} is not a config key{near_misses(full_key, key_types(schema))}"
    unlike = re.search(r"Invalid value '(.*)', expected one of \[(.*)\]", text)
    set_key = re.search(r"(?:override |full_key: )([\w.]+)", text)
    if unlike and set_key:
        value, listed = unlike.groups()
        misses = near_misses(value, listed.split(", "))
        return f"{set_key.group(1)}={value} is not one of {listed}{misses}"
    no_list = re.search(
        r"override ([\w.]+)=(.*?)\s+Invalid value assigned: \w+ is not a List", text
    )
    if no_list:
        name, value = no_list.groups()
        return f"{name}={value} must be a list: {name}=[{value}]"
    if absent := re.search(r"Interpolation key '([^']+)' not found", text):
        name = absent.group(1)
        return (
            f"${{{name}}} stands for the key {name}, which is not there"
            f"{near_misses(name, key_types(schema))}; as text it is \\${{{name}}}"
        )
    parts = [
        part.strip()
        for part in text.splitlines()
        if part.strip() and not re.match(r"\s*(object_type=|reference_type=|full_key:)", part)
    ]
    return re.sub(r" Config search path:.*| See https://hydra.*", "", " ".join(parts))


def _unchosen(arguments: Sequence[str]) -> str | None:
    """Return what is wrong with the first setting of a group of which nothing is chosen."""
    for argument in arguments:
        setting = argument.partition("=")[0].lstrip("+~")
        group = setting.rpartition(".")[0].replace(".", "/")
        chosen = any(other.startswith(f"{group}=") for other in arguments)
        known = choices(group)
        if known and not chosen:
            return f"{setting} is a setting of {group}; choose that too: {group}={'|'.join(known)}"
    return None
