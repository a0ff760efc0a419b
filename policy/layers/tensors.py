"""Tensors by name into a network, where one error names what does not fit; tensors in trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from telic.spec import near_misses

_DRAWS = {  # in place
    *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, nn.init.normal_, nn.init.uniform_),
    *(nn.init.trunc_normal_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_),
}
TreeT = TypeVar("TreeT")  # a tree of tensors


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, readable by whom the umask lets, as any other file is."""
    path.touch()
    mode = path.stat().st_mode & 0o777
    save_file(dict(tensors), path, metadata)  # gives it a mode of its own
    path.chmod(mode)


class WeightsToCome(TorchFunctionMode):
    """A context that makes modules without drawing the weights which `load_exactly` then copies.

    What is drawn in place keeps the values that its memory happens to hold.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


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
        if tensors[key].is_floating_point() != want.is_floating_point():
            raise ValueError(
                f"{where}: {key} holds {tensors[key].dtype}, expected {want.dtype}; it is damaged "
                "or another's"
            )
    for key, got in tensors.items():
        if key not in wanted:
            raise ValueError(
                f"{where}: unexpected tensor {key} {tuple(got.shape)}{near_misses(key, wanted)}; "
                "the configuration beside it must be the one it was trained with"
            )
    module.load_state_dict(tensors)


def each_tensor(tree: TreeT, change: Callable[[Tensor], Tensor]) -> TreeT:
    """Return `tree` with each of its tensors changed.

    A tree is a tensor, None, or a list, tuple, mapping or dataclass of trees.
    """
    return cast(TreeT, _changed(tree, change))


def _changed(tree: object, change: Callable[[Tensor], Tensor]) -> object:
    if tree is None or isinstance(tree, Tensor):
        return tree if tree is None else change(tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        parts = {f.name: _changed(getattr(tree, f.name), change) for f in fields(tree)}
        return replace(tree, **parts)
    if isinstance(tree, Mapping):
        return {name: _changed(part, change) for name, part in tree.items()}
    assert isinstance(tree, list | tuple), f"a {type(tree).__name__} is no tree of tensors"
    entries = [_changed(part, change) for part in tree]
    return tree._make(entries) if hasattr(tree, "_make") else type(tree)(entries)


def tensors_of(tree: object, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of a tree by where they are in it, such as "context.goal"."""
    if tree is None or isinstance(tree, Tensor):
        return {} if tree is None else {name: tree}
    if is_dataclass(tree):
        parts: dict[object, object] = {f.name: getattr(tree, f.name) for f in fields(tree)}
    elif isinstance(tree, Mapping):
        parts = dict(tree)
    else:
        assert isinstance(tree, list | tuple), f"a {type(tree).__name__} is no tree of tensors"
        parts = dict(enumerate(tree))
    found: dict[str, Tensor] = {}
    for key, part in parts.items():
        found |= tensors_of(part, f"{name}.{key}" if name else str(key))
    return found


def repeat_rows(tree: TreeT, times: int) -> TreeT:
    """Return `tree` with each row of its tensors `times` in succession."""
    return tree if times == 1 else each_tensor(tree, lambda t: t.repeat_interleave(times, 0))
