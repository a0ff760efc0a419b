"""What is known of an episode store that was collected or trained on: content, origin, command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telic.collect import CollectConfig
from telic.configs.words import command_line
from telic.datasets.store import EpisodeStore
from telic.envs import registry
from telic.envs.rollout.collection_log import is_log
from telic.yaml_files import plain


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreFacts:
    """An episode store. command: that collects it, "" where no log of a collection is there."""

    name: str
    episodes: int
    steps: int
    robot: str
    family: str
    licence: str
    source: str
    physics: str
    command: str

    @classmethod
    def of(cls, store: EpisodeStore, episodes: int | None = None) -> StoreFacts:
        """The facts of a store's first `episodes`, None: of all."""
        count = store.num_episodes if episodes is None else episodes
        about = {key: str(store.attrs.get(key, "")) for key in ("robot", "licence", "source")}
        return cls(
            name=store.path.name,
            episodes=count,
            steps=int(store.episode_ends[count - 1]) if count else 0,
            family=str(store.attrs.get("task_family", "")),
            physics=store.interface.action.physics,
            command=collection_command(store.path),
            **about,
        )


def collection_command(store: Path) -> str:
    """The `collect-demos` line that collects a store anew; "" where the log beside it is missing.

    ValueError where the log names no task that there is.
    """
    log = store.with_name(f"{store.name}.collect.jsonl")
    if not is_log(log):
        return ""
    with log.open(encoding="utf-8") as file:
        plan = json.loads(file.readline())
    out = store.name if store.is_absolute() else str(store)
    return command_line("collect-demos", {**_given(plan), "out": out})


def _given(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of collect-demos of which `CollectConfig.plan` makes this plan."""
    usual = plain(CollectConfig())
    keys = {k: v for k, v in plan.items() if k in usual and k != "tasks" and v != usual[k]}
    if keys.get("max_attempts") == 4 * plan["episodes_per_task"]:
        del keys["max_attempts"]
    return {**_chosen(list(plan["tasks"])), **keys}


def _chosen(tasks: list[str]) -> dict[str, Any]:
    """The shortest keys that choose these tasks."""
    family = tasks[0].partition("/")[0]
    if tasks == [f"{family}/play"]:
        return {"env": family, "mode": "play"}
    for tag in registry.tags():
        if registry.expand([tag]) == tasks:
            return {"env": tag} if tag == family else {"tasks": [tag]}
    return {"tasks": tasks}
