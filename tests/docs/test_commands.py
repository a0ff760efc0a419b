"""Every command line of the documentation is one that its command takes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs_pages import PAGES, REPOSITORY, command_lines, program

from telic import recipe
from telic.build_anchors import BuildAnchorsConfig
from telic.collect import CollectConfig
from telic.configs.launch import compose
from telic.configs.pretrained_arguments import parser as save_pretrained_parser
from telic.control import ControlConfig
from telic.datasets.cli import demo_store_parser
from telic.envs import registry
from telic.evaluate import EvaluateConfig
from telic.policy.diffusion.samplers import SAMPLERS
from telic.policy.encoders.towers import TOWERS
from telic.policy.exported.arguments import parser as export_policy_parser
from telic.policy.pretrained import write_keys
from telic.policy.published.import_arguments import parser as import_checkpoint_parser
from telic.registry import Registry
from telic.train import TrainConfig
from telic.train_baseline import TrainBaselineConfig

CHECKPOINT = REPOSITORY / "tests/fixtures/written_before/checkpoint"
PRETRAINED: list[str] = []  # the folder that stands for each of pretrained/
COMPOSED: dict[str, tuple[str, type[Any]]] = {
    "collect-demos": ("collect", CollectConfig),
    "train-policy": ("train", TrainConfig),
    "evaluate-policy": ("evaluate", EvaluateConfig),
    "control-daemon": ("control", ControlConfig),
    "run-recipe": ("recipe", recipe.RecipeConfig),
    "build-anchors": ("build_anchors", BuildAnchorsConfig),
    "train-baseline": ("train_baseline", TrainBaselineConfig),
}
PARSED = {
    "demo-store": demo_store_parser,
    "import-checkpoint": import_checkpoint_parser,
    "export-policy": export_policy_parser,
    "save-pretrained": save_pretrained_parser,
}
BY_MODULE = {f"telic.{name}": script for script, (name, _) in COMPOSED.items()}
DOCUMENTED = [(*line, page) for page in PAGES for line in command_lines(page)]
OURS = [
    pytest.param(words, id=f"{where} {' '.join(words)[:60]}")
    for where, words, _ in {tuple(line[1]): line for line in DOCUMENTED}.values()
    if words and (words[0] in COMPOSED or words[0] in PARSED or set(words) & set(BY_MODULE))
]


def settings(words: list[str]) -> list[str]:
    """Return what Hydra composes of a command line: the first value of each that is swept."""
    swept = "-m" in words
    kept = []
    for word in words:
        if word.startswith("-") or "=" not in word:
            continue
        key, _, value = word.partition("=")
        if key == "init_from":
            value = str(CHECKPOINT)
        if key == "checkpoint" and value.startswith("pretrained/"):
            value = PRETRAINED[0]
        if swept and not value.startswith(("[", "{")):
            value = value.partition(",")[0]
        kept.append(f"{key}={re.sub(r'[$][{]hydra:.*?[}]', 'x', value)}")
    return kept


@pytest.fixture(scope="module", autouse=True)
def _parts_of_the_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have the task and parts of the documentation where its command lines look for them."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "my_tasks.py").write_text(program("docs/how_to/add_a_task.md", "my_tasks.py"))
    for name in ("config.yaml", "chunks.safetensors"):
        (folder / name).touch()
    write_keys(folder, {"protocol": "lh_mtlc", "execute_horizon": 5, "sampling": "2"})
    PRETRAINED[:] = [str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        known = {t: registry.entry(t) for t in registry.task_ids()}
        patch.setattr(registry, "_ENTRIES", Registry("task", known))
        exec(program("docs/how_to/add_to_it.md", "my_parts.py"), {})
        yield
        sys.modules.pop("my_tasks", None)
        SAMPLERS.unregister("adams")
        TOWERS.unregister("two_convolutions")


@pytest.mark.parametrize("words", OURS)
def test_a_documented_command_line_is_taken(words: list[str]) -> None:
    if by_module := [n for n, word in enumerate(words) if word in BY_MODULE]:
        words = [BY_MODULE[words[by_module[0]]], *words[by_module[0] + 1 :]]
    script, *arguments = words
    if "--help" in arguments or "-sc" in arguments:
        return
    if script in PARSED:
        PARSED[script]().parse_args(arguments)
        return
    name, schema = COMPOSED[script]
    config = compose(schema, name, settings(arguments))
    if isinstance(config, recipe.RecipeConfig):
        for stage in recipe.stages(config):
            stage.require_composes()


def test_scripts_and_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    missing = []
    for where, words, _ in DOCUMENTED:
        if words[:1] == ["make"] and not set(words[1:]) <= targets:
            missing.append(f"{where}: {' '.join(words)}")
        if words[:1] == ["python"] and words[1].startswith(("benchmarks/", "tools/")):
            missing += [] if (REPOSITORY / words[1]).is_file() else [f"{where}: {words[1]}"]
    assert not missing


def test_there_are_many_and_each_command_is_among_them() -> None:
    named = {words[0] for _, words, _ in DOCUMENTED if words}
    assert set(COMPOSED) | set(PARSED) <= named
    assert len(OURS) > 60


def test_a_line_that_no_command_takes_is_found(tmp_path: Path) -> None:
    page = REPOSITORY / "docs/how_to/train.md"
    lines = [words for _, words in command_lines(page)]
    assert ["train-policy", "data.stores=[runs/demo/demos.zarr]", "out=runs/mine"] in lines
    with pytest.raises(Exception, match="stepz"):
        test_a_documented_command_line_is_taken(["train-policy", "data.stores=[a]", "stepz=3"])
