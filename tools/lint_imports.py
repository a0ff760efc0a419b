"""The rule of imports, and the check that holds it: `python tools/lint_imports.py`, in `make lint`.

Of each list in RULE, a room may import those before it, never those after it. Rooms on one line
may meet, unless a `|` stands between them. No module imports itself by way of others. Exit code 1
after one line for each import against the rule.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "telic"
NOT_PRODUCT = ("tests", "benchmarks", "tools", "build", "runs", ".venv", "docs")
RULE: dict[str, tuple[str, ...]] = {
    "rooms": (
        "agreement array_spec cards command_line plugins progress_bar ranges registry replacement "
        "spec typed_keys yaml_files",
        "embodiment",
        "datasets | envs | policy",
        "training | real_robot",
        "configs",
        "goal_choice",
        "build_anchors | collect | control | evaluate | export | train | train_baseline",
        "recipe store_facts",
        "training_facts",
        "model_card",
        "save_pretrained",
        "commands",
    ),
    "policy": (
        "policy.digests policy.readable | policy.layers",
        "policy.diffusion",
        "policy.routing",
        "policy.denoisers",
        "policy.encoders",
        "policy.objectives",
        "policy.inference",
        "policy.auxiliary policy.config policy.presets policy.conditioning policy.batch "
        "policy.noise policy.requests policy.chunk_sampler policy.policy",
        "policy.atomic policy.layers.built_within policy.checkpoint policy.checkpoint_files "
        "policy.pretrained policy.renamed policy.train_state",
        "policy.finetune | policy.inference_config",
        "policy.exported",
        "policy.published",
    ),
    "envs": (
        "envs.rendering envs.task",
        "envs.tasks | envs.playtable",
        "envs.registry",
        "envs.rollout",
        "envs.evaluation",
    ),
}


def modules(root: Path) -> dict[str, Path]:
    """Every module of the product by its name below the package, such as `policy.config`."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] not in NOT_PRODUCT:
            name = ".".join(part for part in parts if part != "__init__")
            if name:
                found[name] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[tuple[str, int]]:
    """The modules among `known` that a file imports, each with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in named:
            inner = name.removeprefix(f"{PACKAGE}.")
            if inner != name:
                target = inner if inner in known else inner.rpartition(".")[0]
                if target in known:
                    yield target, node.lineno


def level(module: str, layers: tuple[str, ...]) -> tuple[int, int, str] | None:
    """The layer that a module stands in, the part of its line, and the room it belongs to."""
    for number, layer in enumerate(layers):
        for part, rooms in enumerate(layer.split("|")):
            for room in rooms.split():
                if module == room or module.startswith(f"{room}."):
                    return number, part, room
    return None


def against(source: str, target: str) -> str | None:
    """Why `source` must not import `target`, or None where it may."""
    for layers in RULE.values():
        mine, its = level(source, layers), level(target, layers)
        if mine is None or its is None or mine[2] == its[2]:
            continue
        if its[0] > mine[0]:
            return f"{its[2]} stands above {mine[2]}"
        if its[0] == mine[0] and its[1] != mine[1]:
            return f"{mine[2]} and {its[2]} do not meet"
    return None


def main() -> int:
    """Print what is against the rule; the process's exit code."""
    known = modules(ROOT)
    graph: dict[str, set[str]] = {name: set() for name in known}
    problems = []
    for source, path in known.items():
        for target, line in imports(path, known):
            graph[source].add(target)
            if (why := against(source, target)) is not None:
                place = f"{path.relative_to(ROOT)}:{line}"
                problems.append(f"{place}: {source} imports {target}, but {why}")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        problems.append(f"a circle: {' -> '.join(reversed(error.args[1]))}")
    for problem in problems:
        print(problem)
    arrows = sum(len(targets) for targets in graph.values())
    print(f"{len(known)} modules, {arrows} imports, {len(problems)} against the rule")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
