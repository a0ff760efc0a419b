"""export-policy and what it writes: parity, runtimes, and one line for each mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from telic.datasets.store import EpisodeStore, Segment
from telic.export import main
from telic.policy.checkpoint import load_policy, save_checkpoint
from telic.policy.exported.manifest import read_manifest
from telic.policy.exported.opened import open_exported
from telic.policy.exported.policy import ExportedPolicy
from telic.policy.exported.runtimes import RUNTIMES, Runtime
from telic.policy.inference_config import InferenceConfig, SamplingChoice
from telic.policy.policy import Policy
from telic.real_robot.policy_worker import open_checkpoint
from telic.spec import ActRequest, Goal, Observation

TEXT = "open the drawer"
RUNNABLE = [name for name, runtime in RUNTIMES.items() if name != "tensorrt" and runtime.installed]
needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None or find_spec("nncf") is None,
    reason="telic[openvino] is not installed",
)


def requests_of(policy: Policy | ExportedPolicy, count: int = 3) -> list[ActRequest]:
    """Requests with observations of the policy's own kind, one of them with a prefix."""
    rng = np.random.default_rng(1)
    made = []
    for seed in range(count):
        shape = (policy.obs_horizon, *policy.interface.images["front"].shape)
        observation = Observation(
            state=rng.standard_normal((policy.obs_horizon, 5)).astype(np.float32),
            images={"front": rng.integers(0, 256, shape, np.uint8)},
            t_obs_ns=seed,
        )
        prefix = rng.uniform(-1, 1, (4, 3)).astype(np.float32) if seed == 1 else None
        request = ActRequest(
            observation=observation, goal=Goal(text=TEXT), seed=seed, prefix=prefix
        )
        request.inference_delay = 2 if seed == 1 else 0
        made.append(request)
    return made


@pytest.mark.parametrize("runtime", RUNNABLE)
def test_the_graph_is_the_policy(checkpoint: Path, exported: Path, runtime: str) -> None:
    policy = load_policy(checkpoint)
    graph = open_exported(exported, InferenceConfig(runtime=runtime))
    assert isinstance(policy, Policy)
    wanted, got = (p.act_batch(requests_of(policy)) for p in (policy, graph))
    for one, other in zip(wanted, got, strict=True):
        np.testing.assert_allclose(other.actions, one.actions, rtol=0, atol=1e-5)
        assert (other.t_obs_ns, other.dt_ns) == (one.t_obs_ns, one.dt_ns)
    prefix = requests_of(policy)[1].prefix
    assert prefix is not None
    np.testing.assert_array_equal(got[1].actions[:2], prefix[:2])


def test_the_manifest_says_what_the_graph_takes(checkpoint: Path, exported: Path) -> None:
    manifest = read_manifest(exported)
    shapes = {spec.name: spec.shape for spec in manifest.inputs}
    assert shapes == {
        "state": (1, 1, 5),
        "image/front": (1, 1, 16, 16, 3),
        "sentence": (1, 384),
        "noise": (1, 6, 3),
        "prefix": (1, 6, 3),
        "prefix_known": (1, 6),
        "prefix_fixed": (1, 6),
    }
    assert manifest.inputs[0].unit == "rad" and manifest.inputs[0].names[0] == "joint_0"
    assert manifest.sampling["sigmas"] == [5.0, 0.5] and manifest.precision == "fp32"
    assert manifest.interface.rate_hz == 20.0 and manifest.goal.encoder == "minilm"
    assert set(manifest.parity) == set(RUNNABLE)
    assert all(one["largest"] < 1e-4 for one in manifest.parity.values())
    data = json.loads((exported / "manifest.json").read_text())
    assert (data["format"], data["version"], data["rate_hz"]) == ("telic-export", 1, 20.0)


def test_a_worker_opens_it_without_torch(exported: Path) -> None:
    code = f"""
import sys
from telic.real_robot.policy_worker import open_checkpoint, warm_up, unlike_trained
from telic.spec import Goal
policy = open_checkpoint({str(exported)!r})
assert unlike_trained(policy, {TEXT!r}) is None
warm_up(policy, Goal(text={TEXT!r}))
print(policy.opened.note, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("runtime ") and done.stdout.endswith(" False\n"), done.stdout


def test_another_runtime_is_one_entry(exported: Path) -> None:
    asked = []

    def open_it(path: Path, manifest: object, threads: int) -> Callable[..., np.ndarray]:
        asked.append((path.name, threads))
        return lambda inputs: np.zeros((1, 6, 3), np.float32)

    RUNTIMES.register("toy", Runtime(package="numpy", extra="onnx", file="onnx", open=open_it))
    try:
        policy = open_exported(exported, InferenceConfig(runtime="toy"), threads=3)
    finally:
        RUNTIMES.unregister("toy")
    assert asked == [("model.onnx", 3)] and policy.title.endswith("fp32, toy")
    chunk = policy.act_batch(requests_of(policy, 1))[0]
    np.testing.assert_array_equal(chunk.actions, np.zeros((6, 3), np.float32))


def test_more_requests_than_the_batch_go_one_after_the_other(exported: Path) -> None:
    policy = open_exported(exported)
    together = policy.act_batch(requests_of(policy))
    alone = [policy.act_batch([request])[0] for request in requests_of(policy)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)


def refused(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which export-policy ends with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_what_is_in_the_way_stays(
    checkpoint: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    line = refused(checkpoint, tmp_path / "notes", "--overwrite", capsys=capsys)
    assert "is not an exported policy of ours, so it is not replaced" in line
    line = refused(checkpoint, exported, capsys=capsys)
    assert "--overwrite replaces it" in line
    line = refused(checkpoint, checkpoint, "--overwrite", capsys=capsys)
    assert "which is read for it" in line
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "a.txt").write_text("mine")
    line = refused(checkpoint, copy, "--overwrite", capsys=capsys)
    assert "holds a.txt, which is no part of an exported policy" in line
    assert (copy / "a.txt").read_text() == "mine" and (copy / "manifest.json").exists()


def test_bad_input_is_one_line(
    checkpoint: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = refused(checkpoint, out, "--sampler", "euler_ancestral", capsys=capsys)
    assert "sampling.sampler=euler_ancestral draws noise in every step" in line
    line = refused(checkpoint, out, "--precision", "w8a8", capsys=capsys)
    assert "--precision w8a8 measures activations on observations" in line
    line = refused(checkpoint, out, "--goal", "images", capsys=capsys)
    assert "--goal images: the policy was trained on goals by text" in line
    line = refused(checkpoint, out, "--tolerance", "0", capsys=capsys)
    assert "is not the policy: largest difference" in line and "nothing was written" in line
    line = refused(tmp_path / "none", out, capsys=capsys)
    assert "no checkpoint directory there" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("inference", "line"),
    [
        (
            InferenceConfig(sampling=SamplingChoice(preset="4")),
            r"sampling=4: the graph was made for euler over sigmas 5, 0.5",
        ),
        (InferenceConfig(precision="int8"), r"precision=int8: the graph in .* with fp32"),
        (InferenceConfig(prefixing="guided"), r"prefixing=guided: the graph in .* with trained"),
        (InferenceConfig(runtime="torch"), r"runtime=torch: .* which torch does not run"),
        (InferenceConfig(runtime="onxruntime"), r"runtime=onxruntime is not one of .*onnxruntime"),
    ],
)
def test_what_the_graph_was_not_made_for(
    exported: Path, inference: InferenceConfig, line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        open_checkpoint(str(exported), inference=inference)


def test_the_same_sampling_may_be_named(exported: Path) -> None:
    chosen = InferenceConfig(sampling=SamplingChoice(preset="2"), precision="fp32")
    assert open_exported(exported, chosen).title.startswith("mode, euler, 2 steps, fp32, ")


def test_a_runtime_that_is_not_there(exported: Path) -> None:
    absent = replace(RUNTIMES["onnxruntime"], package="no_such_runtime", extra="toy")
    RUNTIMES.register("absent", absent)
    try:
        with pytest.raises(ValueError, match=r"no_such_runtime is not installed; .*'telic\[toy\]'"):
            open_exported(exported, InferenceConfig(runtime="absent"))
    finally:
        RUNTIMES.unregister("absent")
    with pytest.raises(ValueError, match=r"runtime=tensorrt: .*telic\[tensorrt\]"):
        open_exported(exported, InferenceConfig(runtime="tensorrt"))


def test_a_checkpoint_with_a_graphs_runtime(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="runtime=onnxruntime runs exported graphs"):
        open_checkpoint(str(checkpoint), inference=InferenceConfig(runtime="onnxruntime"))


def test_a_goal_of_another_kind_and_another_batch(exported: Path) -> None:
    policy = open_exported(exported)
    (request,) = requests_of(policy, 1)
    request.goal = Goal(state=np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="takes goals by text, and one by state is given"):
        policy.act_batch([request])
    spec = policy.manifest.inputs[0]
    with pytest.raises(ValueError, match=r"state is float32 \(2, 1, 5\).*--batch 2 makes"):
        spec.require(np.zeros((2, 1, 5), np.float32))


def test_a_changed_checkpoint_and_a_damaged_folder(
    checkpoint: Path, own: Callable[[], Path], tmp_path: Path
) -> None:
    policy = load_policy(checkpoint)
    assert isinstance(policy, Policy)
    copy = own()
    moved = tmp_path / "changed"
    policy.denoiser.action_out.bias.data += 1.0
    save_checkpoint(moved, policy)
    text = (copy / "manifest.json").read_text().replace(str(checkpoint), str(moved))
    (copy / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json: damaged \(its (size|sha256)"):
        open_exported(copy)
    (copy / "digests.json").unlink()
    with pytest.raises(ValueError, match=r"the checkpoint .* has changed since the export"):
        open_exported(copy)


def test_a_damaged_graph(own: Callable[[], Path]) -> None:
    copy = own()
    with (copy / "model.onnx").open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    with pytest.raises(ValueError, match=r"model.onnx: damaged \(its sha256"):
        open_exported(copy, InferenceConfig(runtime="onnxruntime"))


@needs_openvino
def test_calibrated_on_a_store(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    policy, store = load_policy(checkpoint), tmp_path / "demos.zarr"
    interface = policy.interface
    fields = {"state": interface.state, "action": interface.action}
    fields |= {f"image/{camera}": spec for camera, spec in interface.images.items()}
    rng = np.random.default_rng(2)
    with EpisodeStore.create(store, fields, rate_hz=interface.rate_hz) as made:
        made.append(
            {
                "state": rng.standard_normal((12, 5)).astype(np.float32),
                "action": rng.uniform(-1, 1, (12, 3)).astype(np.float32),
                "image/front": rng.integers(0, 256, (12, 16, 16, 3), np.uint8),
            },
            [Segment(start=0, end=12, instruction=TEXT, task=TEXT)],
        )
    out = tmp_path / "w8a8"
    given = ["--precision", "w8a8", "--store", str(store), "--observations", "4"]
    main([str(checkpoint), str(out), *given])
    manifest = read_manifest(out)
    assert set(manifest.files) == {"onnx", "openvino"}
    for parity in manifest.parity.values():
        assert parity["of"] == "demos.zarr" and parity["observations"] == 4
        assert 0 < parity["largest"] < 0.25


@needs_openvino
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_fewer_bits(checkpoint: Path, exported: Path, tmp_path: Path, precision: str) -> None:
    out = tmp_path / precision
    main([str(checkpoint), str(out), "--precision", precision])
    manifest = read_manifest(out)
    assert manifest.precision == precision
    assert ("onnx" in manifest.files) == (precision == "int8")
    assert all(0 < one["largest"] < 0.25 for one in manifest.parity.values())
