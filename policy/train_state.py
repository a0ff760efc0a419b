"""Nested training state on disk without pickle: tensors as safetensors, the rest as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from telic.policy.layers.tensors import save_tensors

TENSORS, TREE = "tensors.safetensors", "tree.json"


def save_tree(folder: Path, tree: Any) -> None:
    """Write `tree` into `folder` (made if absent).

    A tree is made of dict (any scalar keys), list, tuple, str, int, float, bool, None, torch
    tensors and numpy arrays. ValueError names what is of another type.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    encoded = _encode(tree, "", tensors, set())
    save_tensors(tensors, folder / TENSORS)
    (folder / TREE).write_text(json.dumps(encoded))


def load_tree(folder: Path) -> Any:
    """Return the tree that `save_tree` wrote, tensors on the CPU."""
    return _decode(json.loads((folder / TREE).read_text()), load_file(folder / TENSORS))


def _encode(node: Any, path: str, tensors: dict[str, torch.Tensor], places: set[int]) -> Any:
    """Return `node` as JSON data; whatever JSON would change becomes {type: content}.

    Its tensors and arrays are added to `tensors`, the addresses of their storage to `places`: two
    tensors of one storage cannot be written as they are.
    """
    if isinstance(node, torch.Tensor):
        tensor = node.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[path] = tensor.clone() if place in places else tensor
        places.add(place)
        return {"tensor": path}
    if isinstance(node, np.ndarray):
        tensors[path] = torch.from_numpy(node.copy())
        return {"array": path}
    if isinstance(node, dict):
        items = [[k, _encode(v, f"{path}/{k}", tensors, places)] for k, v in node.items()]
        return {"dict": items}
    if isinstance(node, list | tuple):
        items = [_encode(v, f"{path}/{i}", tensors, places) for i, v in enumerate(node)]
        return items if isinstance(node, list) else {"tuple": items}
    if node is None or isinstance(node, str | int | float | bool):
        return node
    raise ValueError(f"train state {path}: cannot write a {type(node).__name__}")


def _decode(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    return {key: _decode(value, tensors) for key, value in content}
