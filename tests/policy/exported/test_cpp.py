"""The C++ example prints the chunk that Python gets from the same graph."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from telic.policy.checkpoint import load_policy
from telic.policy.exported.opened import open_exported
from telic.policy.exported.parity import random_requests
from telic.policy.inference_config import InferenceConfig
from telic.policy.policy import Policy


def test_the_example_prints_the_chunk(
    exported: Path, checkpoint: Path, repository: Path, tmp_path: Path
) -> None:
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on this machine")
    utils = pytest.importorskip("openvino.utils", reason="telic[openvino] is not installed")
    found = f"-DOpenVINO_DIR={utils.get_cmake_path()}"
    build = tmp_path / "build"
    subprocess.run(
        ["cmake", "-S", repository / "examples/cpp", "-B", build, found],
        check=True,
        capture_output=True,
    )
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)
    policy = load_policy(checkpoint)
    assert isinstance(policy, Policy)
    (request,) = random_requests(policy, "text", 1, 0)
    graph = open_exported(exported, InferenceConfig(runtime="openvino"))
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name, array in graph.inputs([request]).items():
        (inputs / f"{name.replace('/', '_')}.bin").write_bytes(array.tobytes())
    example = [str(build / "chunk"), str(exported), str(inputs)]
    done = subprocess.run(example, check=True, capture_output=True, text=True)
    got = np.array([[float(word) for word in line.split()] for line in done.stdout.splitlines()])
    wanted = graph.opened.session(graph.inputs([request]))[0]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    (inputs / "state.bin").write_bytes(b"short")
    failed = subprocess.run(example, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "state.bin: has 5 bytes, and the graph takes 20" in failed.stderr
