"""An exported folder is a checkpoint to evaluate-policy and control-daemon."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from telic.configs.launch import compose
from telic.control import ControlConfig
from telic.control import run as control
from telic.evaluate import EvaluateConfig, run
from telic.policy.checkpoint import save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.policy import Policy
from telic.real_robot.simulated_arm import arm_interface
from telic.spec import FieldStats


def exported_of(checkpoint: Path, out: Path) -> Path:
    """What export-policy makes of a checkpoint, at two steps."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"telic[onnx] is not installed: no {package}")
    from telic.export import main

    main([str(checkpoint), str(out), "--sampling", "2", "--observations", "2"])
    return out


def test_a_graph_meets_the_same_episodes(toy: str, toy_checkpoint: Path, tmp_path: Path) -> None:
    graph = exported_of(toy_checkpoint, tmp_path / "graph")
    few = [f"tasks=['{toy}']", "episodes_per_task=4", "seed=10", "num_workers=0"]

    def evaluate(checkpoint: Path, name: str, *more: str) -> dict:
        keys = [f"checkpoint={checkpoint}", f"out={tmp_path / name}", *few, *more]
        return run(compose(EvaluateConfig, "evaluate", keys))

    wanted = evaluate(toy_checkpoint, "torch", "sampling=2")
    got = evaluate(graph, "graph_results", "runtime=onnxruntime")
    assert got["policy"] == "mode, euler, 2 steps, fp32, onnxruntime"
    assert [e["success"] for e in got["episodes"]] == [e["success"] for e in wanted["episodes"]]
    assert got["about"]["runtime"] == "onnxruntime" and got["about"]["checkpoint"]["kind"] == "mode"
    with pytest.raises(ValueError, match=r"sampling=4: the graph was made for euler over sigmas"):
        evaluate(graph, "other", "sampling=4")


def test_a_graph_drives_the_arm(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    interface = arm_interface()

    def spread(size: int | None) -> FieldStats:
        zero, one = np.zeros(size or 0), np.ones(size or 0)
        return FieldStats(
            minimum=-one, maximum=one, mean=zero, std=one, q01=-one, q99=one, count=10
        )

    fields = {name: spread(getattr(interface, name).shape[0]) for name in ("state", "action")}
    denoiser = ModeConfig(width=32, num_layers=1, num_heads=2)
    policy = Policy(PolicyConfig(denoiser=denoiser), interface, fields)
    policy.set_embeddings({"bring the arm to its goal": np.ones(384, np.float32)})
    save_checkpoint(tmp_path / "checkpoint", policy)
    graph = exported_of(tmp_path / "checkpoint", tmp_path / "graph")
    out = tmp_path / "control.json"
    control(ControlConfig(checkpoint=str(graph), robot="arm", duration_s=1.0, out=str(out)))
    summary = json.loads(out.read_text())
    assert summary["ended"]["cause"] == "time is up"
    assert re.search(r"runtime (onnxruntime|openvino): [\d.]+ ms a graph", capfd.readouterr().err)
