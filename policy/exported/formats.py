"""A traced policy as files: ONNX, OpenVINO's IR, and both in fewer bits.

The packages that write them are extras; each is imported where it is used.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from importlib.util import find_spec
from pathlib import Path

import torch

from telic.policy.exported.graph import PolicyGraph
from telic.policy.exported.manifest import IR, ONNX
from telic.spec import Array

_NEEDED = {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx"}
_QUANTIZED = ("MatMul", "Gemm")


class GraphPrecision(Enum):
    """How a graph holds and multiplies its matrices."""

    fp32 = "fp32"  # as the checkpoint
    bf16 = "bf16"  # computed in bf16, by OpenVINO, where the processor can
    int8 = "int8"  # 8-bit weights
    w8a8 = "w8a8"  # 8-bit weights and activations, calibrated on observations of a store


def require_installed(precision: GraphPrecision) -> None:
    """Raise ValueError, which names the extra, where a package is missing."""
    for package, extra in _NEEDED.items():
        if find_spec(package) is None:
            raise ValueError(
                f"export-policy needs {package}, which is not installed; pip install "
                f"'telic[{extra}]'"
            )
    if precision is GraphPrecision.bf16 and not has_openvino():
        raise ValueError(
            "--precision bf16 is OpenVINO's, which is not installed; pip install 'telic[openvino]'"
        )


def has_openvino() -> bool:
    """Return whether OpenVINO's IR can be written."""
    return find_spec("openvino") is not None


@torch.no_grad()
def write_graphs(
    graph: PolicyGraph,
    folder: Path,
    precision: GraphPrecision,
    calibration: Sequence[Mapping[str, Array]] = (),
) -> dict[str, str]:
    """Write the files of a graph; return them by format, as `Manifest.files` has them.

    calibration: inputs of the graph, of w8a8. ValueError where torch cannot trace the policy.
    """
    whole = folder / ONNX
    _write_onnx(graph, whole)
    files = {"onnx": ONNX}
    if has_openvino():
        _write_openvino(whole, folder / IR, precision, calibration)
        files["openvino"] = IR
    if precision is GraphPrecision.bf16:
        return _without_onnx(folder, files)
    if precision is not GraphPrecision.fp32:
        _quantize_onnx(whole, precision, calibration)
    return files


def _write_onnx(graph: PolicyGraph, path: Path) -> None:
    """Trace the graph and write it, weights beside it where it would not fit one file."""
    names = [spec.name for spec in graph.inputs]
    size = sum(weight.nbytes for weight in graph.parameters())
    try:
        with _quietly():
            traced = torch.export.export(graph, graph.examples(), strict=False)
            program = torch.onnx.export(
                traced, input_names=names, output_names=["actions"], dynamo=True, verbose=False
            )
            assert program is not None
            program.save(str(path), external_data=size > 2**30)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
        line = str(error).strip().partition("\n")[0][:300]
        raise ValueError(
            f"the policy has a part that cannot be one static graph ({type(error).__name__}: "
            f"{line}); policies of this project's own parts can"
        ) from error


def _write_openvino(
    source: Path,
    path: Path,
    precision: GraphPrecision,
    calibration: Sequence[Mapping[str, Array]],
) -> None:
    import openvino

    model = openvino.convert_model(source)
    with _quietly():
        if precision is GraphPrecision.int8:
            _require_nncf(precision)
            import nncf

            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        elif precision is GraphPrecision.w8a8:
            _require_nncf(precision)
            import nncf

            data = nncf.Dataset([dict(inputs) for inputs in calibration])
            model = nncf.quantize(
                model,
                data,
                subset_size=len(calibration),
                model_type=nncf.ModelType.TRANSFORMER,
                fast_bias_correction=True,
            )
    openvino.save_model(model, path, compress_to_fp16=False)


def _require_nncf(precision: GraphPrecision) -> None:
    if find_spec("nncf") is None:
        raise ValueError(
            f"--precision {precision.value} of OpenVINO's graph needs nncf, which is not "
            "installed; pip install 'telic[openvino]'"
        )


def _quantize_onnx(
    path: Path, precision: GraphPrecision, calibration: Sequence[Mapping[str, Array]]
) -> None:
    """Replace the graph at `path` by one in 8 bits.

    int8: weights per channel, activations as they come. w8a8: activations as in the calibration.
    """
    from onnxruntime import quantization

    large = path.with_name(f"{path.name}.data").exists()
    fresh = path.with_name("quantized.onnx")
    common = {
        "per_channel": True,
        "op_types_to_quantize": list(_QUANTIZED),
        "weight_type": quantization.QuantType.QInt8,
        "use_external_data_format": large,
    }
    with _quietly():
        if precision is GraphPrecision.int8:
            quantization.quantize_dynamic(path, fresh, **common)
        else:
            quantization.quantize_static(
                path,
                fresh,
                _Observations(calibration),
                activation_type=quantization.QuantType.QUInt8,
                **common,
            )
    for old in (path, path.with_name(f"{path.name}.data")):
        old.unlink(missing_ok=True)
    if large:
        _rename_with_data(fresh, path)
    else:
        fresh.rename(path)


def _rename_with_data(fresh: Path, path: Path) -> None:
    """Move a graph with its weights beside it to another name, which the graph itself holds."""
    import onnx

    model = onnx.load(fresh)
    onnx.save(
        model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024
    )
    for file in fresh.parent.glob(f"{fresh.name}*"):
        file.unlink()


def _without_onnx(folder: Path, files: dict[str, str]) -> dict[str, str]:
    for file in folder.glob(f"{ONNX}*"):
        file.unlink()
    return {name: file for name, file in files.items() if name != "onnx"}


class _Observations:
    """The calibration as onnxruntime reads it; a `CalibrationDataReader`."""

    def __init__(self, inputs: Sequence[Mapping[str, Array]]) -> None:
        self._inputs = iter([dict(entry) for entry in inputs])

    def get_next(self) -> dict[str, Array] | None:
        """Return the next inputs, or None."""
        return next(self._inputs, None)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what the exporters print to themselves; errors still rise."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
