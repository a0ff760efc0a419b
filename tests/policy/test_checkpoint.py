"""Checkpoints: what is written is what is read, a kill spoils nothing, a misfit is named."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from telic.policy.atomic import CHECKPOINT, CHECKPOINTS, replacing_directory
from telic.policy.checkpoint import load_policy, load_train_state, read_config, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.digests import write_digests
from telic.policy.encoders.goals import GoalConfig
from telic.policy.policy import Policy
from telic.policy.train_state import load_tree, save_tree
from telic.replacement import Replacement
from telic.training.ema import EmaConfig

Build = Callable[[PolicyConfig], Policy]


def names(folder: Path) -> list[str]:
    """Return what `folder` holds."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def policy(build: Build) -> Policy:
    """Return a policy over state, text and goal states."""
    config = PolicyConfig(goal=GoalConfig(state=True), sampling=SamplingConfig(sigmas=[5.0, 0.5]))
    config.images.cameras = []
    return build(config)


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> Path:
    """Return the checkpoint of `policy`."""
    save_checkpoint(tmp_path / "best", policy, extra={"train": {"steps": 3, "out": tmp_path}})
    return tmp_path / "best"


def test_a_loaded_policy_acts_alike(policy: Policy, saved: Path, make_requests: Any) -> None:
    loaded = load_policy(saved)
    requests = make_requests(policy.config)
    for one, other in zip(policy.act_batch(requests), loaded.act_batch(requests), strict=True):
        assert np.array_equal(one.actions, other.actions) and one.dt_ns == other.dt_ns
    assert loaded.interface == policy.interface
    assert isinstance(loaded, Policy) and not loaded.training
    assert loaded.config == policy.config and loaded.stats.keys() == policy.stats.keys()
    config = read_config(saved)
    assert config["kind"] == "mode" and config["train"]["steps"] == 3 and config["git_commit"]


def test_known_sentences_come_along(saved: Path) -> None:
    """So that a robot without the text model understands them."""
    code = (
        "import sys, numpy as np\n"
        "from telic.policy.checkpoint import load_policy\n"
        "from telic.spec import Goal, Observation\n"
        f"policy = load_policy({str(saved)!r})\n"
        "observation = Observation(state=np.zeros((1, 5), np.float32))\n"
        "policy.act(observation, Goal(text='open the drawer'))\n"
        "assert not {'transformers', 'torchvision'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_images_come_along(build: Build, tmp_path: Path, make_requests: Any) -> None:
    config = PolicyConfig(obs_horizon=2)
    config.images.tower = "efficientnet_lite0"
    config.images.frozen = config.images.share_tower = True
    policy = build(config).eval()
    save_checkpoint(tmp_path / "c", policy)
    requests = make_requests(config, [1])
    got = load_policy(tmp_path / "c").act_batch(requests)[0].actions
    assert np.array_equal(got, policy.act_batch(requests)[0].actions)


def change_weights(saved: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Rewrite the checkpoint's weights."""
    weights = load_file(saved / "model.safetensors")
    change(weights)
    save_file(weights, saved / "model.safetensors")
    write_digests(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("denoiser.norm.gain"), r"no tensor denoiser.norm.gain \(32,\)"),
        (
            lambda w: w.update({"denoiser.norm.gains": torch.ones(32)}),
            r"unexpected tensor denoiser.norm.gains \(32,\); did you mean denoiser.norm.gain",
        ),
        (
            lambda w: w.update({"denoiser.norm.gain": torch.ones(16)}),
            r"denoiser.norm.gain is \(16,\), expected \(32,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(saved: Path, change: Any, message: str) -> None:
    change_weights(saved, change)
    with pytest.raises(ValueError, match=f"model.safetensors: .*{message}"):
        load_policy(saved)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.yaml", "spec.json", "stats.safetensors"]
)
def test_missing_and_damaged_files_are_named(saved: Path, name: str) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=str(saved)) as error:
        load_policy(saved)
    assert "\n" not in str(error.value)
    (saved / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing; the checkpoint is incomplete"):
        load_policy(saved)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: mode", "kind: moda", "kind 'moda' is not one of mode, .*did you mean mode"),
        ("format: 1", "format: 9", "format 9, expected 1"),
        ("  width: 32", "  widht: 32", "widht"),
        ("steps: 2", "steps: many", "many"),
    ],
)
def test_configs_that_do_not_fit_are_named(saved: Path, old: str, new: str, message: str) -> None:
    path = saved / "config.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    write_digests(saved)
    with pytest.raises(ValueError, match=f"config.yaml: .*{message}") as error:
        load_policy(saved)
    assert "\n" not in str(error.value)


def test_absent_checkpoints_are_named(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint directory there; train-policy writes one"):
        load_policy(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no train_state"):
        load_train_state(saved)


def test_training_goes_on_where_it_stopped(policy: Policy, tmp_path: Path, make_batch: Any) -> None:
    """Weights, average and its count, optimizer: all as they were, bit for bit."""
    batch = make_batch(policy.config)

    def fresh() -> tuple[Any, Any]:
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2, fused=True)
        return optimizer, EmaConfig().build(policy)

    def step(optimizer: Any, ema: Any, seed: int) -> None:
        policy(batch, torch.Generator().manual_seed(seed)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update_parameters(policy)

    optimizer, ema = fresh()
    for seed in range(2):
        step(optimizer, ema, seed)
    state = {
        "weights": policy.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": {"step": 2, "best": float("inf")},
    }
    save_checkpoint(tmp_path / "last", ema.module, train_state=state)
    for seed in range(2, 4):
        step(optimizer, ema, seed)
    want = {**policy.state_dict(), **{f"ema.{k}": v for k, v in ema.state_dict().items()}}
    want = {name: tensor.clone() for name, tensor in want.items()}

    loaded = load_train_state(tmp_path / "last")
    assert loaded.progress == {"step": 2, "best": float("inf")}
    policy.load_state_dict(loaded.weights)
    optimizer, ema = fresh()
    optimizer.load_state_dict(loaded.optimizer)
    ema.load_state_dict(loaded.ema)
    assert int(ema.n_averaged) == 2
    for seed in range(2, 4):
        step(optimizer, ema, seed)
    got = {**policy.state_dict(), **{f"ema.{k}": v for k, v in ema.state_dict().items()}}
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_average_warms_up() -> None:
    """Decay after t updates is min(0.9, (1 + t) / (10 + t)); the first update copies."""
    model = torch.nn.Linear(1, 1, bias=False)
    ema = EmaConfig(decay=0.9).build(model)
    average = 0.0
    for t, value in enumerate(np.linspace(1, 2, 200)):
        torch.nn.init.constant_(model.weight, value)
        ema.update_parameters(model)
        decay = min(0.9, (1 + t) / (10 + t)) if t else 0.0
        average = decay * average + (1 - decay) * value
    assert float(ema.module.weight.detach()) == pytest.approx(average, rel=1e-4)
    with pytest.raises(ValueError, match=r"decay=1.0 must"):
        EmaConfig(decay=1.0)


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
TREES = st.recursive(
    LEAVES | st.integers(0, 3).map(lambda n: torch.arange(n)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Return whether two trees are equal, types and all."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@given(tree=TREES)
@settings(max_examples=60, deadline=None)
def test_any_tree_is_read_as_it_was_written(tmp_path_factory: Any, tree: Any) -> None:
    folder = tmp_path_factory.mktemp("tree")
    save_tree(folder, tree)
    assert same(load_tree(folder), tree)


def test_trees_keep_arrays_and_shared_tensors_and_refuse_the_rest(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tree = {
        "a": np.arange(3, dtype=np.uint32),
        "b": shared,
        "c": shared[2:],
        "d": shared.view(2, 3),
    }
    save_tree(tmp_path, tree)
    got = load_tree(tmp_path)
    assert isinstance(got["a"], np.ndarray) and got["a"].dtype == np.uint32
    assert all(torch.equal(got[key], tree[key]) for key in "bcd")
    with pytest.raises(ValueError, match="train state /x/1: cannot write a set"):
        save_tree(tmp_path, {"x": [1, {2}]})


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "c"
    config = "kind: mode\nformat: 1\n"
    with replacing_directory(path) as folder:
        (folder / "config.yaml").write_text(config)
    with pytest.raises(RuntimeError), replacing_directory(path) as folder:
        (folder / "config.yaml").write_text("new")
        raise RuntimeError
    assert (path / "config.yaml").read_text() == config and names(tmp_path) == ["c"]
    with replacing_directory(path) as folder:
        (folder / "g").write_text("new")
    assert names(path) == ["g"] and names(tmp_path) == ["c"]
    with pytest.raises(ValueError, match="c: is not a checkpoint"), replacing_directory(path):
        pass
    assert names(path) == ["g"]


def test_a_users_own_file_outlives_the_training_that_writes_there(
    policy: Policy, saved: Path
) -> None:
    written = names(saved)
    (saved / "notes.txt").write_text("mine")
    save_checkpoint(saved, policy)
    assert names(saved) == sorted([*written, "notes.txt"])
    assert (saved / "notes.txt").read_text() == "mine"
    load_policy(saved)
    for path, kind in ((saved, CHECKPOINT), (saved.parent, CHECKPOINTS)):
        with pytest.raises(ValueError, match=r"notes.txt, which is no part of a "):
            Replacement(path, kind, overwrite=True).remove()
    (saved / "notes.txt").unlink()
    Replacement(saved.parent, CHECKPOINTS, overwrite=True).remove()
    assert not saved.parent.exists()


@pytest.mark.parametrize("size", [1000, 50_000])
def test_a_full_disk_is_one_line_and_keeps_the_old_checkpoint(
    policy: Policy, saved: Path, size: int
) -> None:
    before = (saved / "model.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"cannot be written .*what was there before is kept"):
            save_checkpoint(saved, policy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (saved / "model.safetensors").read_bytes() == before
    assert names(saved.parent) == ["best"]


def test_kills_never_leave_half_a_checkpoint(saved: Path) -> None:
    """A process writes ever new checkpoints over one path until it is killed.

    It is forked from one that has imported all, for each kill anew.
    """
    code = (
        "import os, sys, torch\n"
        "from telic.policy.checkpoint import load_policy, save_checkpoint\n"
        "for _ in sys.stdin:\n"
        "    if os.fork():\n"
        "        os.wait()\n"
        "        continue\n"
        "    print('pid', os.getpid(), flush=True)\n"
        f"    policy = load_policy({str(saved)!r})\n"
        "    for n in range(10**6):\n"
        "        [p.data.fill_(n) for p in policy.parameters()]\n"
        f"        save_checkpoint({str(saved)!r}, policy, extra={{'n': n}})\n"
        "        print(n, flush=True)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin is not None and process.stdout is not None
        for wait_s in (0.011, 0.047, 0.083):
            process.stdin.write("one more\n")
            written = iter(process.stdout.readline, "")  # what the last one wrote comes first
            writer = int(next(line for line in written if line.startswith("pid ")).split()[1])
            try:
                while process.stdout.readline() != "0\n":
                    assert process.poll() is None
                time.sleep(wait_s)
            finally:
                os.kill(writer, signal.SIGKILL)
            policy = load_policy(saved)
            assert isinstance(policy, Policy)
            values = {float(v) for p in policy.parameters() for v in p.detach().unique()}
            assert values == {float(read_config(saved)["n"])}
        process.stdin.close()


def test_spec_file_reads_without_us(saved: Path) -> None:
    spec = json.loads((saved / "spec.json").read_text())
    assert spec["action_horizon"] == 8 and spec["interface"]["action"]["maximum"] == [1.0]
