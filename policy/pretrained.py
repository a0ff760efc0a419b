"""Pretrained policies: a folder to hand on, a checkpoint without its training state and a card.

README.md            the card (`telic.cards`); its head holds the digest of what acts
evaluate.yaml        keys of evaluate-policy with which the card's first results were measured
chunks.safetensors   recorded requests, and the chunks that the policy answered them with
the others           the checkpoint's own files, byte for byte
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file, save

from telic.cards import FILE as CARD
from telic.cards import read_head
from telic.policy import digests
from telic.policy.readable import readable
from telic.replacement import Kind
from telic.spec import ActionChunk, ActRequest, Array, Goal, Observation
from telic.yaml_files import read_yaml

SHELF = "pretrained"  # folder of the repository that has them
KEYS, CHUNKS = "evaluate.yaml", "chunks.safetensors"
ADDED = (CARD, KEYS, CHUNKS)  # to the files of a checkpoint
DIGEST = "checkpoint_sha256"  # key of a card's head
_APART = (*ADDED, digests.FILE, "train_state")


def is_pretrained(path: Path) -> bool:
    """Whether the folder of a pretrained policy stands at `path`."""
    return all((path / name).is_file() for name in (CHUNKS, "config.yaml"))


PRETRAINED = Kind("a pretrained policy of ours", is_pretrained)


def acting_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that a policy is loaded from, relative to it, in order."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if path.parts[0] not in _APART)


def acting_digest(folder: Path) -> str:
    """The SHA-256 of the digests of a checkpoint's files, but for its training state.

    It is the same in the folder of a training and in that of a pretrained policy made of it.
    """
    known, digest = digests.listed(folder), hashlib.sha256()
    for path in acting_files(folder):
        name = path.as_posix()
        digest.update(f"{name} {known.get(name) or digests.of_file(folder / path)}\n".encode())
    return digest.hexdigest()


def require_card(folder: Path) -> None:
    """Raise ValueError where a checkpoint's card is not that of these weights, or is missing.

    A checkpoint that is none to hand on needs no card.
    """
    card = folder / CARD
    if not is_pretrained(folder) and not card.is_file():
        return
    if not card.is_file():
        raise ValueError(f"{card} is missing; restore it, or make the folder anew")
    stated = read_head(card).get(DIGEST)
    if stated is None and not is_pretrained(folder):  # a text of somebody else's
        return
    if stated != (found := acting_digest(folder)):
        raise ValueError(
            f"{card}: is the card of other weights ({DIGEST} {str(stated)[:12]}, those here have "
            f"{found[:12]}); restore both from one place, or run save-pretrained again"
        )


def write_keys(folder: Path, keys: dict[str, Any]) -> None:
    """Write evaluate.yaml: keys of evaluate-policy by their dotted names."""
    says = "# keys of evaluate-policy, where its command line does not give them\n"
    (folder / KEYS).write_text(says + yaml.safe_dump(keys, sort_keys=False))


def read_keys(folder: Path) -> dict[str, Any]:
    """The keys that `write_keys` wrote; ValueError for anything else."""
    digests.require_intact(folder, KEYS)
    with readable(folder / KEYS):
        keys = read_yaml(folder / KEYS)
        if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys):
            raise ValueError("it holds no keys")
    return keys


def write_chunks(
    folder: Path, requests: Sequence[ActRequest], chunks: Sequence[ActionChunk]
) -> None:
    """Write chunks.safetensors: requests with observations over O steps, and their answers."""
    arrays: dict[str, Array] = {
        "state": np.stack([request.observation.state for request in requests]),
        "actions": np.stack([chunk.actions for chunk in chunks]),
    }
    for camera in requests[0].observation.images:
        pictures = [request.observation.images[camera] for request in requests]
        arrays[f"image/{camera}"] = np.stack(pictures)
    for camera in requests[0].goal.images:
        arrays[f"goal_image/{camera}"] = np.stack([r.goal.images[camera] for r in requests])
    if goal_states := [r.goal.state for r in requests if r.goal.state is not None]:
        arrays["goal_state"] = np.stack(goal_states)
    texts = [request.goal.text for request in requests]
    about = {"text": json.dumps(texts), "seed": json.dumps([request.seed for request in requests])}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    (folder / CHUNKS).write_bytes(save(arrays, about))


def read_chunks(folder: Path) -> tuple[list[ActRequest], Array]:
    """The requests that `write_chunks` wrote, and their actions f32 [N H A]."""
    digests.require_intact(folder, CHUNKS)
    with readable(folder / CHUNKS):
        with safe_open(folder / CHUNKS, "np") as file:
            about = file.metadata()
        arrays = load_file(folder / CHUNKS)
        texts, seeds = json.loads(about["text"]), json.loads(about["seed"])
        requests = [
            ActRequest(
                observation=Observation(
                    state=arrays["state"][row], images=_cameras(arrays, "image/", row)
                ),
                goal=Goal(
                    text=text,
                    images=_cameras(arrays, "goal_image/", row),
                    state=arrays["goal_state"][row] if "goal_state" in arrays else None,
                ),
                seed=seed,
            )
            for row, (text, seed) in enumerate(zip(texts, seeds, strict=True))
        ]
        return requests, arrays["actions"]


def _cameras(arrays: dict[str, Array], prefix: str, row: int) -> dict[str, Array]:
    named = {name: array for name, array in arrays.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): array[row] for name, array in named.items()}
