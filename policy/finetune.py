"""A checkpoint to start training from: its policy's config, its scaling, its weights.

The policy that is trained on acts at step 0 as the checkpoint does: numbers go in and out by the
checkpoint's statistics, not by those of the new data. Its robot is the new data's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from telic.embodiment import Space, unified_interface
from telic.policy.checkpoint import (
    LANGUAGE,
    OTHER_KINDS,
    policy_config,
    read_config,
    read_parts,
)
from telic.policy.config import PolicyConfig
from telic.policy.encoders.normalizer import Normalizer, NormalizerConfig, Scaling
from telic.policy.layers.tensors import load_exactly
from telic.policy.policy import Policy
from telic.spec import FieldStats, Interface

# what may be there on one side alone: an objective, a kind of goal
_OPTIONAL = ("objectives.", "goal_encoder.")


def starting_config(path: str | Path) -> PolicyConfig:
    """Return the policy's config in checkpoint directory `path`.

    ValueError if it cannot be read, or is of a kind that `train-policy` does not train.
    """
    config = read_config(path)
    if (kind := config.get("kind")) in OTHER_KINDS:
        raise ValueError(
            f"init_from={path}: is of kind {kind}, which train-policy does not train; give a "
            "checkpoint of train-policy or import-checkpoint"
        )
    return policy_config(config.get("policy"), str(Path(path) / "config.yaml"))


class Finetune:
    """What a checkpoint directory gives to a training run. messages: lines for the user."""

    def __init__(self, path: str | Path) -> None:
        """ValueError if it cannot be read, or is of a kind that `train-policy` does not train."""
        self.where, self.config = f"init_from={path}", starting_config(path)
        self.parts = read_parts(path)
        self.messages: list[str] = []

    def stats(
        self, config: PolicyConfig, interface: Interface, own: Mapping[str, FieldStats]
    ) -> dict[str, FieldStats]:
        """Return the checkpoint's statistics, and of `own` what it has none of.

        An entry that never varied for the checkpoint and varies in `own` is scaled by `own`.
        ValueError if a policy of `config` for `interface` would scale another entry otherwise than
        the checkpoint does, has another number of entries, or a slot that it never saw.
        """
        self._require_robot(config, interface)
        stats = {**own, **self.parts.stats}
        old = unified_interface(self.parts.robots) if self.parts.robots else self.parts.interface
        names = ["action"]
        if config.use_state or config.goal.state:
            names.append("state")
        for name in names:
            was, now = getattr(old, name), getattr(interface, name)
            if was.shape != now.shape:
                raise ValueError(
                    f"{self.where}: {name} has shape {now.shape} in data.stores, expected "
                    f"{was.shape}; train on stores of that size"
                )
            if config.space is Space.unified:
                self._require_varied(name, getattr(config, name), own[name])
            self._require_alike(
                name,
                getattr(self.config, name).build(name, was, self.parts.stats.get(name)),
                getattr(config, name).build(name, now, stats.get(name)),
            )
            if name in self.parts.stats:
                stats[name] = self._thawed(name, getattr(config, name), stats[name], own[name])
        return stats

    def _require_robot(self, config: PolicyConfig, interface: Interface) -> None:
        """Raise ValueError where the new data's numbers mean something else than they did."""
        was = replace(self.parts.interface, rate_hz=interface.rate_hz, images={})
        if self.parts.robots or was.action.shape != interface.action.shape:
            return  # slots have meanings of their own; sizes are told apart below
        reads_state = config.use_state or config.goal.state
        if not reads_state or was.state.shape != interface.state.shape:
            was = replace(was, state=interface.state)
        was.require(replace(interface, images={}), self.where, "store of data.stores")

    def _thawed(
        self, name: str, config: NormalizerConfig, was: FieldStats, own: FieldStats
    ) -> FieldStats:
        """Return statistics with those of `own` for entries that were constant and now vary."""
        varies = config.constant(was) & ~config.constant(own)
        if not varies.any():
            return was
        entries = ", ".join(map(str, np.flatnonzero(varies)))
        self.messages.append(
            f"{self.where}: {name} entries {entries} never varied there and do in data.stores; "
            "these are scaled by the new statistics"
        )
        parts = [f.name for f in fields(was) if f.name != "count"]
        return replace(
            was, **{p: np.where(varies, getattr(own, p), getattr(was, p)) for p in parts}
        )

    def load_into(self, policy: Policy) -> list[str]:
        """Give `policy` the weights, sentence vectors and text tower; return what to tell the user.

        An objective or a kind of goal that `policy` alone has begins at random weights, one that
        the checkpoint alone has is left out. ValueError names any other tensor that does not fit.
        """
        wanted, weights = policy.state_dict(), dict(self.parts.weights)
        messages = self.messages
        for group in sorted({_group(key) for key in [*wanted, *weights]} - {""}):
            mine, theirs = ([k for k in side if _group(k) == group] for side in (wanted, weights))
            if not theirs:
                weights |= {key: wanted[key] for key in mine}
                messages.append(f"{self.where}: has no {group}, which begins at random weights")
            if not mine:
                weights = {k: v for k, v in weights.items() if k not in theirs}
                messages.append(f"{self.where}: its {group} is left out")
        load_exactly(policy, weights, self.where)
        policy.set_embeddings(self.parts.embeddings)
        if (folder := self.parts.folder / LANGUAGE).is_dir():
            policy.use_language_folder(folder)
        return messages

    def _require_varied(self, name: str, config: NormalizerConfig, own: FieldStats) -> None:
        """Raise ValueError where statistics scale a slot of which the checkpoint has none."""
        there = self.parts.stats.get(name)
        if there is None or config.scaling is Scaling.identity:
            return
        unseen = (own.maximum > own.minimum) & (there.maximum == 0) & (there.minimum == 0)
        if unseen.any():
            slots = ", ".join(str(slot) for slot in np.flatnonzero(unseen))
            raise ValueError(
                f"{self.where}: it never saw {name} slots {slots} of data.stores and has no "
                "statistics to scale them by; start from one that did, or train without init_from"
            )

    def _require_alike(self, name: str, was: Normalizer, now: Normalizer) -> None:
        """Raise ValueError where two normalizers of as many entries differ."""
        parts = [(float("inf") if n.clamp is None else n.clamp) for n in (was, now)]
        scalings = [torch.stack([n.center, n.scale], 1) for n in (was, now)]
        for entry, (old, new) in enumerate(zip(*(n.tolist() for n in scalings), strict=True)):
            if old != new or parts[0] != parts[1]:
                raise ValueError(
                    f"{self.where}: {name} would be scaled otherwise (entry {entry}: centre and "
                    f"scale {new}, expected {old}); leave policy.{name} as it is there, and use "
                    "stores with the bounds in its spec.json"
                )


def copy_language(policy: Policy) -> Callable[[Path], None] | None:
    """Return what writes the text tower that came with a starting point to a folder, None without.

    Files are linked where the file system can, for the tower does not change.
    """
    source = policy.language_folder
    if source is None:
        return None

    def write(folder: Path) -> None:
        shutil.copytree(source, folder, copy_function=_link_or_copy)

    return write


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _group(key: str) -> str:
    """Return the part of the policy that a tensor belongs to, if it may be on one side alone."""
    own = key.removeprefix("conditioner.")
    return ".".join(own.split(".")[:2]) if own.startswith(_OPTIONAL) else ""
