"""What runs an exported graph: one entry each, registered by name. None of them needs torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from telic.policy import digests
from telic.policy.exported.manifest import Manifest
from telic.registry import Registry
from telic.spec import Array

AUTO, TORCH = "auto", "torch"
_WARM_UPS, _CALLS = 2, 7  # by which `auto` judges

Session = Callable[[Mapping[str, Array]], Array]  # inputs by name -> actions f32 [B H A]


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """package: what is imported; extra: of telic, which installs it; file: the one of
    `Manifest.files` that it reads; open: (path, manifest, threads) -> session."""

    package: str
    extra: str
    file: str
    open: Callable[[Path, Manifest, int], Session]

    @property
    def installed(self) -> bool:
        """Return whether its package is there."""
        return find_spec(self.package) is not None


def _onnxruntime(path: Path, manifest: Manifest, threads: int) -> Session:
    return _onnx_session(path, threads, ["CPUExecutionProvider"])


def _tensorrt(path: Path, manifest: Manifest, threads: int) -> Session:
    """ONNX Runtime's TensorRT; the engine is built once and kept beside the graph."""
    import onnxruntime

    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        raise ValueError(
            "runtime=tensorrt: this ONNX Runtime was built without TensorRT; on a machine with an "
            "NVIDIA GPU install telic[tensorrt] in place of telic[onnx]"
        )
    engine = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(path.parent / "tensorrt"),
        "trt_fp16_enable": manifest.precision != "fp32",
    }
    return _onnx_session(path, threads, [("TensorrtExecutionProvider", engine)])


def _onnx_session(path: Path, threads: int, providers: list[Any]) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    wanted = [entry.name for entry in session.get_inputs()]

    def run(inputs: Mapping[str, Array]) -> Array:
        actions: Array = session.run(None, {name: inputs[name] for name in wanted})[0]
        return actions

    return run


def _openvino(path: Path, manifest: Manifest, threads: int) -> Session:
    import openvino

    hint = "bf16" if manifest.precision == "bf16" else "f32"
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request, (actions,) = compiled.create_infer_request(), compiled.outputs
    known = {spec.name for spec in manifest.inputs}  # a tensor may have names of its own besides
    wanted = [next(iter(known & entry.get_names())) for entry in compiled.inputs]

    def run(inputs: Mapping[str, Array]) -> Array:
        found = request.infer(dict(enumerate(inputs[name] for name in wanted)))[actions]
        return np.array(found)

    return run


# a runtime is one function and one entry here
RUNTIMES: Registry[Runtime] = Registry(
    "runtime",
    {
        "onnxruntime": Runtime(package="onnxruntime", extra="onnx", file="onnx", open=_onnxruntime),
        "openvino": Runtime(package="openvino", extra="openvino", file="openvino", open=_openvino),
        # registered after those for CPUs, and not tried by `auto`: an engine takes minutes to build
        "tensorrt": Runtime(package="onnxruntime", extra="tensorrt", file="onnx", open=_tensorrt),
    },
)
_SLOW_TO_OPEN = ("tensorrt",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A session and the runtime that it is of; note: how it was chosen."""

    name: str
    session: Session
    note: str


def open_graph(folder: Path, manifest: Manifest, runtime: str, threads: int) -> Opened:
    """Open an exported graph by the runtime of that name, or by the fastest (`auto`).

    ValueError for a runtime that is not known, not installed or not exported for.
    """
    if runtime == TORCH:
        raise ValueError(
            f"runtime=torch: {folder} is an exported graph, which torch does not run; give its "
            f"checkpoint, {manifest.checkpoint['path']}, or runtime=auto"
        )
    if runtime != AUTO:
        entry = RUNTIMES.require(runtime, "runtime")
        _require(entry, runtime, folder, manifest)
        session = _session(entry, folder, manifest, threads)
        return Opened(name=runtime, session=session, note=f"runtime {runtime}")
    usable = {
        name: entry
        for name, entry in RUNTIMES.items()
        if entry.installed and entry.file in manifest.files and name not in _SLOW_TO_OPEN
    }
    if not usable:
        wanted = [name for name, entry in RUNTIMES.items() if entry.file in manifest.files]
        extra = RUNTIMES[wanted[0]].extra
        raise ValueError(
            f"runtime=auto: {folder} needs one of {', '.join(wanted)}, and none is installed; "
            f"pip install 'telic[{extra}]'"
        )
    return _fastest(folder, manifest, usable, threads)


def _require(entry: Runtime, name: str, folder: Path, manifest: Manifest) -> None:
    if entry.file not in manifest.files:
        raise ValueError(
            f"runtime={name}: {folder} holds no graph for it (only {', '.join(manifest.files)}, "
            f"{manifest.precision}); run export-policy where telic[{entry.extra}] is installed"
        )
    if not entry.installed:
        raise ValueError(
            f"runtime={name}: {entry.package} is not installed; pip install 'telic[{entry.extra}]'"
        )


def _session(entry: Runtime, folder: Path, manifest: Manifest, threads: int) -> Session:
    """Open a runtime's file, whose digest is checked with that of the weights beside it."""
    name = manifest.files[entry.file]
    weights = {f"{name}.data", f"{Path(name).stem}.bin"} & digests.listed(folder).keys()
    digests.require_intact(folder, name, *weights)
    return entry.open(folder / name, manifest, threads)


def _fastest(
    folder: Path, manifest: Manifest, usable: Mapping[str, Runtime], threads: int
) -> Opened:
    """Open the runtime whose fastest chunk is the fastest, measured on blank inputs."""
    blank = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in manifest.inputs}
    took: dict[str, float] = {}
    sessions: dict[str, Session] = {}
    for name, entry in usable.items():
        session = _session(entry, folder, manifest, threads)
        durations = []
        for _ in range(_WARM_UPS + _CALLS):
            began = time.perf_counter()
            session(blank)
            durations.append(time.perf_counter() - began)
        took[name], sessions[name] = min(durations[_WARM_UPS:]) * 1e3, session
    best = min(took, key=lambda name: took[name])
    others = [f"{name} {ms:.2f} ms" for name, ms in took.items() if name != best]
    beside = f" ({', '.join(others)})" if others else ""
    note = f"runtime {best}: {took[best]:.2f} ms a graph{beside}"
    return Opened(name=best, session=sessions[best], note=note)
