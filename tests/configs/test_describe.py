"""Help says every key with its meaning, as it is written beside the field, and fits a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from telic.build_anchors import BuildAnchorsConfig
from telic.collect import CollectConfig
from telic.configs.describe import completions, describe, groups, help_text
from telic.configs.examples import EXAMPLES
from telic.control import ControlConfig
from telic.datasets.cli import main as demo_store
from telic.evaluate import EvaluateConfig
from telic.recipe import RecipeConfig
from telic.train import TrainConfig
from telic.train_baseline import TrainBaselineConfig

SCHEMAS = {
    "collect": CollectConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "control": ControlConfig,
    "recipe": RecipeConfig,
    "build_anchors": BuildAnchorsConfig,
    "train_baseline": TrainBaselineConfig,
}
SELF_EXPLAINING = {"steps", "seed"}  # last parts of keys that need no word more


@pytest.fixture(params=SCHEMAS)
def command(request: pytest.FixtureRequest) -> str:
    """Return the name of each command that Hydra composes."""
    return str(request.param)


def flat(node: DictConfig, prefix: str = "") -> dict[str, object]:
    """Return the settings of a config by dotted key; a mapping with free keys is one setting."""
    found: dict[str, object] = {}
    for key in node:
        value = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(value, DictConfig) and OmegaConf.get_type(value) is not dict:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = OmegaConf.to_container(node)[key]
    return found


def as_typed(value: object) -> str:
    """Return a value as a command line has it."""
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return getattr(value, "name", None) or (str(value) if value != "" else "''")


def test_every_key_is_there_with_its_default(command: str, repository: Path) -> None:
    about = describe(repository / f"{command}.py")
    shown = {key.name: key.default for s in about.sections if not s.choice for key in s.keys}
    actual = flat(OmegaConf.structured(SCHEMAS[command]))
    # by name, whose sections say of which kind; and the name of what cannot be chosen
    chosen = {"policy.denoiser", "policy.formulation", "policy.future.edm.name"}
    expected = {name: as_typed(value) for name, value in actual.items() if name not in chosen}
    assert shown == expected


def test_every_key_has_a_meaning(command: str, repository: Path) -> None:
    about = describe(repository / f"{command}.py")
    bare = {
        key.name
        for section in about.sections
        for key in section.keys
        if not key.meaning and key.name.rpartition(".")[2] not in SELF_EXPLAINING
    }
    assert not bare


def test_what_is_chosen_by_name_is_what_is_registered(repository: Path) -> None:
    repo = ConfigStore.instance().repo
    for group in groups("train"):
        node = repo
        if group.name == "experiment":
            continue
        for part in group.name.split("/"):
            node = node[part]
        registered = {key.removesuffix(".yaml") for key in node if key.endswith(".yaml")}
        assert set(group.choices) == registered - {"init_from"}
        assert all(group.choices.values()), f"a choice of {group.name} has no meaning"


def test_each_kind_has_a_section_of_its_own_keys(repository: Path) -> None:
    about = describe(repository / "train.py")
    kinds = {(s.name, s.choice): {key.name for key in s.keys} for s in about.sections if s.choice}
    assert "policy.denoiser.decoder_layers" in kinds["policy.denoiser", "mdt"]
    assert "policy.formulation.sigma_data" in kinds["policy.formulation", "edm"]
    assert "policy.denoiser.routing.beta" in kinds["policy.denoiser.routing", "dtr"]


@pytest.mark.parametrize("width", [60, 80, 131])
def test_help_fits_the_terminal(command: str, width: int, repository: Path) -> None:
    lines = help_text(describe(repository / f"{command}.py"), width).splitlines()
    assert not [line for line in lines if len(line) > width and " " in line.strip(" \\")]


def test_help_opens_with_what_the_command_does_and_three_examples(
    command: str, repository: Path
) -> None:
    about = describe(repository / f"{command}.py")
    text = help_text(about, 200)
    scripts = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["scripts"]
    assert about.script in scripts
    assert text.startswith(f"{about.script}: {about.what[0]}")
    assert len(EXAMPLES[command]) == 3
    where = [text.index(f"  {line}\n") for line, _ in EXAMPLES[command]]
    assert where == sorted(where) and where[-1] < text.index("KEYS")
    assert "powered by Hydra" not in text


def run(function: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return how a command's entry point ended, with the heavy modules that it had imported."""
    program = (
        f"import sys; from telic.commands import {function}; sys.argv = ['x', *{arguments!r}]\n"
        f"try: {function}()\n"
        "finally: print({'torch', 'numpy', 'hydra'} & set(sys.modules), file=sys.stderr)"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("train_policy", "policy.denoiser.routing.top_k=2"),
        ("evaluate_policy", "evaluate-policy: a checkpoint in simulated tasks"),
        ("import_checkpoint", "--tokenizer DIR"),
    ],
)
def test_help_imports_nothing_heavy(function: str, says: str) -> None:
    done = run(function, "--help")
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert done.stderr == "set()\n"


def test_the_help_of_demo_store_has_its_parts_and_examples(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        demo_store(["--help"])
    text = capsys.readouterr().out
    assert all(f"demo-store {part} " in text for part in ("info", "validate", "convert"))


def test_version_and_a_part_of_the_help() -> None:
    assert run("train_policy", "--version").stdout.startswith("train-policy 0.")
    assert run("import_checkpoint", "--version").stdout.startswith("import-checkpoint 0.")
    part = run("train_policy", "--help", "optimizer").stdout
    assert "optimizer.learning_rate=0.001" in part and "data.stores" not in part


def test_a_module_run_by_name_answers_alike() -> None:
    command = [sys.executable, "-m", "telic.build_anchors", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == run("build_anchors", "--help").stdout


def test_help_that_is_not_read_to_its_end_is_quiet() -> None:
    command = f"{sys.executable} -m telic.build_anchors --help | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("build-anchors: ") and len(done.stdout.splitlines()) == 1
    reading, writing = os.pipe()
    os.close(reading)  # nobody reads at all
    with os.fdopen(writing, "w") as closed:
        command = [sys.executable, "-m", "telic.train", "--help"]
        gone = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (gone.returncode, gone.stderr) == (0, "")


def test_a_shell_completes_keys_groups_and_choices(repository: Path) -> None:
    about = describe(repository / "train.py")
    assert completions(about, "train-policy data.goal.te") == ["data.goal.text="]
    assert completions(about, "train-policy data.goal.text=re") == ["data.goal.text=required"]
    assert "policy.goal." in completions(about, "train-policy policy.g")
    assert "policy/formulation=flow" in completions(about, "train-policy policy/formulation=")
    assert completions(about, "train-policy resume=") == ["resume=true", "resume=false"]
