"""A policy to an exported folder: graphs, manifest, statistics, sentences, parity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from telic.policy.checkpoint import git_commit, read_config
from telic.policy.checkpoint_files import save_embeddings, save_stats
from telic.policy.exported.formats import GraphPrecision, require_installed, write_graphs
from telic.policy.exported.graph import GraphSettings, PolicyGraph
from telic.policy.exported.manifest import (
    EXPORTED,
    GoalSpec,
    Manifest,
    TensorSpec,
    checkpoint_digest,
    write_manifest,
)
from telic.policy.exported.parity import TOLERANCE, Parity, compare, random_requests
from telic.policy.exported.policy import ExportedPolicy
from telic.policy.exported.runtimes import Opened
from telic.policy.inference.machine import versions
from telic.policy.policy import Policy
from telic.replacement import Replacement
from telic.spec import ActRequest, Array
from telic.yaml_files import plain

_PACKAGES = ("telic", "torch", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")


@dataclass(kw_only=True, slots=True)
class ExportOptions:
    """What is exported, and how it is checked.

    goal: the kind of goal; None: the first that the policy knows. sentences: added to those it
    knows. tolerance: largest difference accepted; None: of the precision. requests: of a store,
    and `of`, its name; without it there are `observations` random ones.
    """

    goal: str | None = None
    batch: int = 1
    precision: GraphPrecision = GraphPrecision.fp32
    sentences: list[str] = field(default_factory=list)
    robot: str | None = None
    tolerance: float | None = None
    observations: int = 16
    requests: Callable[[Policy], list[ActRequest]] | None = None
    of: str = "random"


def export_policy(
    policy: Policy,
    checkpoint: Path,
    out: Path,
    options: ExportOptions,
    *,
    overwrite: bool = False,
) -> dict[str, Parity]:
    """Write the exported folder `out`; return by runtime how far it is from the policy.

    policy: of `checkpoint`, acting as it is to be exported. ValueError where `out` is something
    else, a package is missing, the policy is no static graph, or it differs by more than the
    tolerance; then nothing is written.
    """
    require_installed(options.precision)
    if options.precision is GraphPrecision.w8a8 and options.requests is None:
        raise ValueError(
            "--precision w8a8 measures activations on observations; give those of a store: "
            "--store runs/demo/demos.zarr"
        )
    target = Replacement(out, EXPORTED, overwrite=overwrite, by="--overwrite", sources=[checkpoint])
    target.require()
    goal = options.goal or policy.config.goal.modalities[0]
    if goal == "text":
        policy.embed(options.sentences)
    settings = GraphSettings(
        goal=goal, batch=options.batch, words=_most_words(policy, goal), robot=options.robot
    )
    graph = PolicyGraph(policy, settings)
    requests = _requests(policy, options, goal, graph)
    with target.writing(durable=True) as folder:
        folder.mkdir()
        save_stats(folder / "stats.safetensors", policy.stats)
        save_embeddings(folder / "embeddings.safetensors", policy.known_embeddings)
        manifest = _manifest(graph, checkpoint, options)
        feeds: list[dict[str, Array]] = []
        if options.precision is GraphPrecision.w8a8:
            feeds = _feeds(folder, manifest, requests)
        manifest.files.update(write_graphs(graph, folder, options.precision, feeds))
        report = compare(policy, folder, manifest, requests, options.of)
        _require_near(report, options, checkpoint)
        manifest.parity.update({name: parity.to_json() for name, parity in report.items()})
        write_manifest(folder, manifest)
    return report


def _require_near(report: dict[str, Parity], options: ExportOptions, checkpoint: Path) -> None:
    tolerance = TOLERANCE[options.precision] if options.tolerance is None else options.tolerance
    for name, parity in report.items():
        if not parity.largest <= tolerance:  # NaN too
            raise ValueError(
                f"{checkpoint}: the graph of {name} in {options.precision.value} is not the "
                f"policy: {parity}; accepted is {tolerance:g} (--tolerance), nothing was written"
            )


def _requests(
    policy: Policy, options: ExportOptions, goal: str, graph: PolicyGraph
) -> list[ActRequest]:
    """Return what parity is measured on; ValueError where a store has nothing of the kind."""
    if options.requests is None:
        max_delay = policy.config.prefix.max_delay if graph.prefixed else 0
        if goal == "text" and not policy.known_embeddings:
            raise ValueError(
                "the policy knows no sentence to be compared on; add one: --sentence 'open the "
                "drawer'"
            )
        return random_requests(policy, goal, options.observations, max_delay)
    return options.requests(policy)


def _most_words(policy: Policy, goal: str) -> int:
    """Return the words of the longest known sentence, 0 where a sentence is one vector."""
    if goal != "text" or not policy.config.goal.reads_words:
        return 0
    return max((len(words) for words in policy.known_embeddings.values()), default=1)


def _feeds(
    folder: Path, manifest: Manifest, requests: Sequence[ActRequest]
) -> list[dict[str, Array]]:
    """Return the inputs of the graph for each request."""
    idle = Opened(name="none", session=lambda inputs: inputs["noise"], note="")
    exported, size = ExportedPolicy(folder, manifest, idle), manifest.batch
    return [exported.inputs([request] * size) for request in requests]


def _manifest(graph: PolicyGraph, checkpoint: Path, options: ExportOptions) -> Manifest:
    policy, settings = graph.policy, graph.settings
    interface, language = policy.interface, policy.config.goal.language
    action = interface.action
    shape = (settings.batch, policy.action_horizon, *action.shape)
    spec = policy.conditioner.request_spec
    is_text = settings.goal == "text"
    return Manifest(
        kind=policy.kind,
        precision=options.precision.value,
        batch=settings.batch,
        inputs=tuple(graph.inputs),
        outputs=(TensorSpec.of("actions", shape, "float32", action.unit, action.names),),
        interface=interface,
        obs_horizon=policy.obs_horizon,
        action_horizon=policy.action_horizon,
        cameras=tuple(spec.cameras),
        goal=GoalSpec(
            kind=settings.goal,
            encoder=str(language.encoder) if is_text else "",
            dim=language.dim or 0 if is_text else 0,
            words=settings.words,
            cameras=tuple(spec.goal_cameras) if settings.goal == "images" else (),
        ),
        max_delay=policy.config.prefix.max_delay if graph.prefixed else 0,
        sampling=_sampling(graph),
        files={},
        checkpoint={
            "path": str(checkpoint.resolve()),
            "sha256": checkpoint_digest(checkpoint),
            "git_commit": str(read_config(checkpoint).get("git_commit", "")),
        },
        versions={"code": git_commit(), **versions(_PACKAGES)},
    )


def _sampling(graph: PolicyGraph) -> dict[str, Any]:
    sigmas = graph.levels
    settings = dict(plain(graph.policy.sampling))
    anchors = plain(graph.policy.start) if graph.policy.truncated is not None else None
    return {**settings, "sigmas": sigmas, "start": anchors}
