"""Checkpoints that describe something else: one line that names the file, and no memory taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from telic.policy.checkpoint import load_policy, read_config, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.digests import write_digests
from telic.policy.policy import Policy

Build = Callable[[PolicyConfig], Policy]


@pytest.fixture
def saved(build: Build, tmp_path: Path) -> Path:
    """Return a checkpoint."""
    config = PolicyConfig()
    config.images.cameras = []
    save_checkpoint(tmp_path / "best", build(config))
    return tmp_path / "best"


def set_at(data: Any, key: str, value: Any) -> None:
    """Set what lies at a dotted key."""
    *above, last = key.split(".")
    for name in above:
        data = data[name]
    data[last] = value


def refused(saved: Path, match: str) -> None:
    """Require that the checkpoint is refused in one line that names it."""
    write_digests(saved)  # so that it is not the digests that tell
    with pytest.raises(ValueError, match=match) as error:
        load_policy(saved)
    assert "\n" not in str(error.value) and str(saved) in str(error.value)


ARRAY = "interface.action"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("interface", 3),
        ("interface", {}),
        ("interface.rate_hz", "fast"),
        ("interface.rate_hz", 0),
        ("interface.rate_hz", float("nan")),
        ("interface.images", 7),
        ("interface.state", None),
        ("interface.state", []),
        (f"{ARRAY}.shape", []),
        (f"{ARRAY}.shape", [4]),
        (f"{ARRAY}.shape", [3, 3]),
        (f"{ARRAY}.shape", [10**12]),
        (f"{ARRAY}.shape", ["3"]),
        (f"{ARRAY}.shape", [-3]),
        (f"{ARRAY}.shape", [None]),
        (f"{ARRAY}.dtype", "unicode"),
        (f"{ARRAY}.minimum", ["-1"]),
        (f"{ARRAY}.minimum", [float("nan")]),
        (f"{ARRAY}.names", ["x"]),
        (f"{ARRAY}.colour", "red"),
        ("action_horizon", 9),
        ("obs_horizon", None),
        ("robots", 3),
        ("robots", {"a": 1}),
    ],
)
def test_a_spec_that_does_not_fit_is_named(saved: Path, key: str, value: Any) -> None:
    spec = json.loads((saved / "spec.json").read_text())
    set_at(spec, key, value)
    (saved / "spec.json").write_text(json.dumps(spec))
    refused(saved, "best")


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "", "[" * 50_000, "{" * 9])
@pytest.mark.parametrize("name", ["spec.json", "config.yaml"])
def test_files_of_another_kind_are_named(saved: Path, name: str, text: str) -> None:
    (saved / name).write_text(text)
    refused(saved, "best")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("policy", None),
        ("policy", []),
        ("policy", "mode"),
        ("policy.denoiser", [1]),
        ("policy.denoiser.kind", ["mode"]),
        ("policy.denoiser.width", 10**9),
        ("policy.denoiser.width", -1),
        ("policy.denoiser.width", None),
        ("policy.denoiser.num_layers", 10**7),
        ("policy.denoiser.feed_forward", 10**13),
        ("policy.denoiser.routing", "noise"),
        ("policy.denoiser.routing", {"name": []}),
        ("policy.goal.language.dim", 10**12),
        ("policy.action_horizon", 10**10),
        ("policy.formulation", 3),
        ("policy.state.scaling", "none"),
        ("policy.state.std_floor", float("nan")),
        ("policy.sampling.sigmas", ["a"]),
        ("policy.sampling.num_timesteps", 10**12),
        ("policy.images.cameras", ["nowhere"]),
        ("kind", None),
        ("kind", ["mode"]),
        ("kind", "robomimic"),
    ],
)
def test_a_config_that_does_not_fit_is_named(saved: Path, key: str, value: Any) -> None:
    config = yaml.safe_load((saved / "config.yaml").read_text())
    set_at(config, key, value)
    (saved / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    refused(saved, "best")


def test_yaml_that_would_grow_is_refused_unread(saved: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with (saved / "config.yaml").open("a") as file:
        file.write("\n".join(lines) + "\n")
    write_digests(saved)
    with pytest.raises(ValueError, match=r"config.yaml: damaged \(line \d+: \*a0 repeats"):
        read_config(saved)


@pytest.mark.parametrize("file", ["stats", "model", "embeddings"])
@pytest.mark.parametrize("how", ["lacks", "reshaped", "retyped"])
def test_tensors_that_do_not_fit_are_named(saved: Path, file: str, how: str) -> None:
    path = saved / f"{file}.safetensors"
    tensors = load_file(path)
    name = max(tensors)
    if how == "lacks":
        del tensors[name]
    if how == "reshaped":
        tensors[name] = tensors[name].reshape(1, *tensors[name].shape)
    if how == "retyped":
        tensors[name] = tensors[name].astype("int16")
    save_file(tensors, path, {"sentences": '["open the drawer", "close the drawer"]'})
    refused(saved, file)


@pytest.mark.parametrize("file", ["stats", "embeddings"])
def test_numbers_that_are_not_finite_are_named(saved: Path, file: str) -> None:
    path = saved / f"{file}.safetensors"
    tensors = load_file(path)
    name = max(tensors)
    tensors[name] = tensors[name] * float("nan")
    save_file(tensors, path, {"sentences": '["open the drawer", "close the drawer"]'})
    refused(saved, file)
