"""Tensors by name into a network, where one error names what does not fit; tensors in trees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from telic.spec import near_misses


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy `tensors` into `module`; raise ValueError naming the first key that does not fit."""
    wanted = module.state_dict()
    for key, want in wanted.items():
        if key not in tensors:
            raise ValueError(
                f"{where}: no tensor {key} {tuple(want.shape)}{near_misses(key, tensors)}; "
                "it was written by another configuration or is incomplete"
            )
        if tensors[key].shape != want.shape:
            raise ValueError(
                f"{where}: {key} is {tuple(tensors[key].shape)}, expected {tuple(want.shape)}; "
                "the configuration beside it must be the one it was trained with"
            )
    for key, got in tensors.items():
        if key not in wanted:
            raise ValueError(
                f"{where}: unexpected tensor {key} {tuple(got.shape)}{near_misses(key, wanted)}; "
                "the configuration beside it must be the one it was trained with"
            )
    module.load_state_dict(tensors)


def repeat_rows(tree: Any, times: int) -> Any:
    """Return `tree` with each row of its tensors `times` in succession.

    A tree is a tensor, None, or a list, tuple or dataclass of trees.
    """
    if times == 1 or tree is None:
        return tree
    if isinstance(tree, Tensor):
        return tree.repeat_interleave(times, 0)
    repeat = partial(repeat_rows, times=times)
    if is_dataclass(tree):
        parts = {f.name: repeat(getattr(tree, f.name)) for f in fields(tree)}
        return replace(cast(Any, tree), **parts)
    repeated = map(repeat, tree)
    return type(tree)(*repeated) if hasattr(tree, "_fields") else type(tree)(repeated)
