"""What a pretrained policy's folder gives evaluate-policy where its command line does not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from telic.configs.words import command_line, text_of, word
from telic.envs.evaluation.protocols import PROTOCOL_KEYS
from telic.policy.pretrained import KEYS, is_pretrained, read_keys


def with_pretrained_keys(overrides: Sequence[str]) -> list[str]:
    """Return the overrides after those of the folder's evaluate.yaml, which are printed.

    A key that is given counts, and with it all others of its group. Another protocol, or tasks, are
    another evaluation: then of the protocol nothing is taken. With `experiment=` nothing is taken.
    ValueError where the file is damaged.
    """
    given = dict(_assigned(override) for override in overrides if "=" in override)
    checkpoint = text_of(given["checkpoint"]) if "checkpoint" in given else None
    if not checkpoint or "experiment" in given or not is_pretrained(Path(checkpoint)):
        return list(overrides)
    keys = read_keys(Path(checkpoint))
    if "tasks" in given or given.get("protocol", keys.get("protocol")) != keys.get("protocol"):
        keys = {key: value for key, value in keys.items() if key not in PROTOCOL_KEYS}
    groups = {key.partition(".")[0] for key in given}
    taken = {key: value for key, value in keys.items() if key.partition(".")[0] not in groups}
    if taken:
        print(command_line(f"{Path(checkpoint) / KEYS}:", taken), file=sys.stderr)
    return [*(f"{key}={word(value)}" for key, value in taken.items()), *overrides]


def _assigned(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value
