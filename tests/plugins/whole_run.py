"""The toys through whole commands, in a process whose TELIC_PLUGINS names them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from telic.collect import CollectConfig
from telic.collect import run as collect
from telic.configs.describe import completions, describe, help_text
from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore
from telic.evaluate import EvaluateConfig
from telic.evaluate import run as evaluate
from telic.policy.checkpoint import load_policy
from telic.policy.policy import Policy
from telic.policy.published.import_checkpoint import SOURCES, import_checkpoint
from telic.policy.published.imported import CheckpointImportOptions
from telic.spec import Observation
from telic.train import TrainConfig
from telic.train import run as train

ALL = [
    "policy=toy",
    "policy/formulation=toy",
    "policy/denoiser/routing=toy",
    "policy/auxiliary=[toy]",
    "policy.auxiliary.toy.weight=0.5",
    "policy.sampling.sampler=toy",
    "policy.sampling.schedule=toy",
    "policy.images.tower=toy",
    "policy.goal.language.encoder=toy",
    "policy.goal.projection=toy",
]


def test_toy_task_is_collected_trained_with_toys_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["tasks=[toy]", "episodes_per_task=3", "cameras=[front]", "image_size=[16,16]"]
    collect(compose(CollectConfig, "collect", [*settings, "out=toy.zarr", "num_workers=0"]))
    assert EpisodeStore.open("toy.zarr").num_episodes == 3
    settings = ["experiment=debug", "data.stores=[toy.zarr]", "out=run", "device=cpu", *ALL]
    settings += ["precision=fp32", "data.held_out=0.34", "batch_size=8", "data.held_out_windows=8"]
    train(compose(TrainConfig, "train", settings))
    record = json.loads(Path("run/log.jsonl").read_text().splitlines()[0])
    assert record.keys() >= {"diffusion", "toy", "toy_alike"}
    policy = load_policy("run/checkpoints/last")
    assert isinstance(policy, Policy)
    config = policy.config
    assert config.denoiser is not None and config.denoiser.routing is not None
    assert config.denoiser.routing.name == "toy" and config.auxiliary["toy"].weight == 0.5
    assert config.formulation is not None and config.formulation.name == "toy"
    assert (config.sampling.sampler, config.sampling.schedule) == ("toy", "toy")
    settings = ["checkpoint=run/checkpoints/last", "tasks=[toy/reach]", "out=eval", "device=cpu"]
    settings += ["episodes_per_task=1", "num_workers=0"]
    evaluate(compose(EvaluateConfig, "evaluate", settings))
    assert (tmp_path / "eval").is_dir()


def test_toy_checkpoint_of_another_project_is_imported(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "toy.json").write_text('{"state": 2, "action": 1}')
    save_file({}, folder / "toy.safetensors")
    fresh = SOURCES["toy"].read(folder, CheckpointImportOptions())
    built = Policy(fresh.config, fresh.interface, {})
    weights = {f"net.{name}": tensor for name, tensor in built.state_dict().items()}
    save_file(weights, folder / "toy.safetensors")
    vectors = {"go": np.ones(384, np.float32)}
    _, policy = import_checkpoint(
        folder, tmp_path / "ours", CheckpointImportOptions(), vectors=vectors
    )
    loaded = load_policy(tmp_path / "ours")
    assert isinstance(loaded, Policy) and loaded.kind == "toy"
    moment = Observation(state=np.zeros(2, np.float32), t_obs_ns=0)
    for name, tensor in built.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert np.array_equal(loaded.act(moment, "go").actions, policy.act(moment, "go").actions)


def test_help_and_messages_offer_toys(repository: Path) -> None:
    about = describe(repository / "train.py")
    text = help_text(about, 100)
    groups = {group.name: group.choices for group in about.groups}
    for group in ("policy", "policy/formulation", "policy/denoiser/routing", "policy/auxiliary"):
        assert "toy" in groups[group], group
    keys = {key.name: key.choices for section in about.sections for key in section.keys}
    for name in ("sampling.sampler", "sampling.schedule", "images.tower", "goal.projection"):
        assert "toy" in keys[f"policy.{name}"], name
    assert "toy" in keys["policy.goal.language.encoder"]
    assert "policy.formulation of toy" in text.replace(", where policy/formulation=", " of ")
    assert "policy.sampling.sampler=toy" in completions(
        about, "train-policy policy.sampling.sampler="
    )
    with pytest.raises(
        ValueError, match=r"sampling.sampler=toyy is not one of .* did you mean toy"
    ):
        compose(TrainConfig, "train", ["data.stores=[a]", "policy.sampling.sampler=toyy"])
