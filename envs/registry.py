"""Every simulated task by name, and the one way to make it.

A task id reads "family/task" ("metaworld/reach-v3"). Tags name several tasks at once ("mt10").
Tasks of another package come in by "package.module:family/task": the module is imported first and
registers them; worker processes then find them too. Plug-ins (plugins.py) are found without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from telic.envs.playtable.chain_task import table_chains
from telic.envs.playtable.control import PHYSICS
from telic.envs.playtable.environment import MAX_STEPS as PLAYTABLE_STEPS
from telic.envs.playtable.environment import PlayTableTask
from telic.envs.playtable.instructions import Phrases, instructions
from telic.envs.playtable.play import PlayTask
from telic.envs.playtable.tasks import TASKS
from telic.envs.task import TaskEnv
from telic.envs.tasks.arm7 import POSES, Arm7Task
from telic.envs.tasks.detour import INSTRUCTIONS, DetourTask
from telic.envs.tasks.metaworld import MetaWorldTask, catalogue
from telic.plugins import import_named
from telic.registry import Registry
from telic.spec import near_misses


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEntry:
    """What is known of a task before an environment is made. `make(**kwargs)` makes one.

    robot, licence, source: what a store of its demonstrations should say about them. demo_steps:
    how long one may take, unless told. physics: of the simulator, as its actions' spec states it.
    """

    task_id: str
    make: Callable[..., TaskEnv]
    instructions: tuple[str, ...]
    tags: frozenset[str] = field(default_factory=frozenset)
    robot: str = ""
    licence: str = ""
    source: str = ""
    demo_steps: int = 200
    physics: str = ""


_ENTRIES: Registry[TaskEntry] = Registry("task", {})


def register(entry: TaskEntry) -> None:
    """Add a task; ValueError for an id that is taken or without "family/"."""
    if "/" not in entry.task_id or ":" in entry.task_id:
        raise ValueError(f"task id {entry.task_id!r}: expected family/task")
    _ENTRIES.register(entry.task_id, entry)


def unregister(task_id: str) -> None:
    """Take a task out again; KeyError where it is not there."""
    _ENTRIES.unregister(task_id)


def task_ids() -> list[str]:
    """Return the ids of all registered tasks, in order of registration."""
    return list(_ENTRIES)


def tags() -> dict[str, list[str]]:
    """Return tag -> ids of its tasks."""
    found: dict[str, list[str]] = {}
    for entry in _ENTRIES.values():
        for tag in entry.tags:
            found.setdefault(tag, []).append(entry.task_id)
    return dict(sorted(found.items()))


def entry(task: str) -> TaskEntry:
    """Return the entry of a task id, of a task's name alone, or of "module:family/task".

    Raises ValueError with the nearest names for a task nobody registered.
    """
    name = _import_module(task)
    if name in _ENTRIES:
        return _ENTRIES[name]
    by_name = [e for e in _ENTRIES.values() if e.task_id.split("/", 1)[1] == name]
    if len(by_name) == 1:
        return by_name[0]
    if by_name:
        raise ValueError(f"task {name!r} is ambiguous: {', '.join(e.task_id for e in by_name)}")
    raise ValueError(_unknown(name, "task", _names()))


def expand(names: Sequence[str]) -> list[str]:
    """Return the task ids that `names` (tags, task names, task ids) stand for, each once, in order.

    An id of another module keeps its "module:" so that another process can make it.
    """
    chosen: dict[str, None] = {}
    by_tag = tags()
    for name in names:
        if name in by_tag:
            chosen |= dict.fromkeys(by_tag[name])
        elif name in _ENTRIES or _import_module(name) in _names():
            module = name.rpartition(":")[0]
            found = entry(name).task_id
            chosen[f"{module}:{found}" if module else found] = None
        else:
            raise ValueError(_unknown(name, "task or tag", [*by_tag, *_names()]))
    if not chosen:
        raise ValueError(f"no tasks named; expected task names or tags ({', '.join(by_tag)})")
    return list(chosen)


def make(
    task: str,
    *,
    cameras: Sequence[str] = (),
    image_size: tuple[int, int] = (96, 96),
    max_steps: int | None = None,
    **kwargs: Any,
) -> TaskEnv:
    """Return a new environment of `task`; `max_steps=None` leaves the task's own limit.

    `kwargs` go to the family's constructor (Meta-World: `state="robot"` hides the objects).
    ValueError for what that does not take.
    """
    if max_steps is not None:
        kwargs["max_steps"] = max_steps
    size = (int(image_size[0]), int(image_size[1]))
    given = {"cameras": tuple(cameras), "image_size": size, **kwargs}
    try:
        return entry(task).make(**given)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ValueError(
            f"task {task}: its environment is made with {', '.join(given)}, and {error}; leave "
            "that setting out, or have its constructor take it"
        ) from error


def _import_module(task: str) -> str:
    """Import the module before the colon, if there is one, and return what follows it."""
    module, _, name = task.rpartition(":")
    if module:
        import_named(module, f"task {task!r}")
    return name


def _names() -> list[str]:
    return [*_ENTRIES, *(task_id.split("/", 1)[1] for task_id in _ENTRIES)]


def _unknown(name: str, kind: str, known: Iterable[str]) -> str:
    listed = ", ".join(tags())
    hint = near_misses(name, [other for other in known if ("/" in name) == ("/" in other)])
    return f"unknown {kind} {name!r}{hint or f'; tags: {listed}; {len(_ENTRIES)} tasks known'}"


def _metaworld_factory(name: str) -> Callable[..., TaskEnv]:
    def factory(**kwargs: Any) -> TaskEnv:
        return MetaWorldTask(name, **kwargs)

    return factory


def _register_metaworld() -> None:
    """Register the Meta-World tasks here and as Gymnasium's `telic/MetaWorld-<task>`.

    Gymnasium allows one slash in an id, hence the hyphen.
    """
    for name, facts in catalogue().items():
        register(
            TaskEntry(
                task_id=f"metaworld/{name}",
                make=_metaworld_factory(name),
                instructions=tuple(facts["instructions"]),
                tags=frozenset([facts["group"], *facts["suites"]]),
                robot="Sawyer",
                licence="MIT",
                source="Meta-World v3, scripted experts",
            )
        )
        gymnasium.register(
            f"telic/MetaWorld-{name}",
            entry_point="telic.envs.tasks.metaworld:MetaWorldTask",
            kwargs={"name": name},
        )


def _arm7_factory(name: str) -> Callable[..., TaskEnv]:
    def factory(**kwargs: Any) -> TaskEnv:
        return Arm7Task(name, **kwargs)

    return factory


def _register_arm7() -> None:
    """Register the poses of the seven-joint arm."""
    for name, (_, sentences) in POSES.items():
        register(
            TaskEntry(
                task_id=f"arm7/{name}",
                make=_arm7_factory(name),
                instructions=sentences,
                tags=frozenset(["arm7"]),
                robot="arm7",
                licence="MIT",
                source="telic arm7, scripted experts",
            )
        )


def _playtable_factory(name: str) -> Callable[..., TaskEnv]:
    def factory(**kwargs: Any) -> TaskEnv:
        return PlayTableTask(name, **kwargs)

    return factory


def _register_playtable() -> None:
    """Register PlayTable's tasks here and as Gymnasium's `telic/PlayTable-<task>-v0`.

    Its chains and its play are several tasks in a row, hence without the tag.
    """
    rows: dict[str, tuple[Callable[..., TaskEnv], Phrases]]
    rows = {"lh_mtlc": (table_chains, Phrases.held_out), "play": (PlayTask, Phrases.training)}
    for name, (make, phrases) in rows.items():
        register(
            TaskEntry(
                task_id=f"playtable/{name}",
                make=make,
                instructions=tuple(instructions(task, phrases)[0] for task in TASKS),
                robot="Panda",
                licence="MIT",
                source="telic PlayTable, scripted experts",
                demo_steps=5 * PLAYTABLE_STEPS,
                physics=PHYSICS,
            )
        )
    for name in TASKS:
        register(
            TaskEntry(
                task_id=f"playtable/{name}",
                make=_playtable_factory(name),
                instructions=instructions(name),
                tags=frozenset(["playtable"]),
                robot="Panda",
                licence="MIT",
                source="telic PlayTable, scripted experts",
                demo_steps=PLAYTABLE_STEPS,
                physics=PHYSICS,
            )
        )
        gymnasium.register(
            f"telic/PlayTable-{name}-v0",
            entry_point="telic.envs.playtable.environment:PlayTableTask",
            kwargs={"name": name},
        )


_register_metaworld()
_register_arm7()
_register_playtable()
register(
    TaskEntry(
        task_id=DetourTask.task_id,
        make=DetourTask,
        instructions=INSTRUCTIONS,
        tags=frozenset(["detour"]),
        robot="point",
        licence="MIT",
        source="telic detour, scripted experts",
    )
)
