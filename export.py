"""`export-policy`: a checkpoint becomes one static graph that runs without torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from telic.datasets.store import EpisodeStore
from telic.datasets.windows import WindowConfig, Windows
from telic.policy.checkpoint import load_policy
from telic.policy.exported.arguments import parser
from telic.policy.exported.export import ExportOptions, export_policy
from telic.policy.exported.formats import GraphPrecision, require_installed
from telic.policy.exported.parity import Parity, goal_of
from telic.policy.inference_config import InferenceConfig, SamplingChoice
from telic.policy.policy import Policy
from telic.ranges import require_range
from telic.spec import ActRequest, Observation


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit code 0, 2 on bad input."""
    args = parser().parse_args(arguments)
    try:
        report = run(args)
    except ValueError as error:
        print(f"export-policy: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    print(args.out)
    for name, parity in report.items():
        print(f"  {name}, {args.precision}: {parity}")


def run(args: argparse.Namespace) -> dict[str, Parity]:
    """Export as the command line says; return by runtime how far the graph is from the policy."""
    require_range(args, "batch", "observations", at_least=1, at_most=4096, prefix="--")
    precision = GraphPrecision(args.precision)
    require_installed(precision)
    inference = inference_of(args)
    inference.require_known()
    policy = load_policy(args.checkpoint)
    if not isinstance(policy, Policy):
        raise ValueError(f"{args.checkpoint}: only diffusion policies are exported, and it is none")
    if args.embodiment is not None:
        policy.use_embodiment(args.embodiment)
    inference.apply(policy, str(args.checkpoint))
    goal = args.goal or policy.config.goal.modalities[0]
    options = ExportOptions(
        goal=goal,
        batch=args.batch,
        precision=precision,
        sentences=args.sentence,
        robot=args.embodiment,
        tolerance=args.tolerance,
        observations=args.observations,
    )
    if args.store is not None:
        options.of = args.store.name
        options.requests = lambda policy: store_requests(
            args.store, policy, goal, args.observations
        )
    return export_policy(policy, args.checkpoint, args.out, options, overwrite=args.overwrite)


def inference_of(args: argparse.Namespace) -> InferenceConfig:
    """How the policy is to act, as the command line says."""
    return InferenceConfig(
        sampling=SamplingChoice(
            preset=args.sampling,
            sampler=args.sampler,
            steps=args.steps,
            schedule=args.schedule,
            sigmas=args.sigmas,
        ),
        anchors=args.anchors,
        temperature=args.temperature,
        prefixing=args.prefixing,
    )


def store_requests(path: Path, policy: Policy, goal: str, count: int) -> list[ActRequest]:
    """Return requests with observations of a store, drawn by a seed, and its goals.

    ValueError where the store is another robot's or has no goals of the kind.
    """
    store = EpisodeStore.open(path)
    policy.interface.require(store.interface, "the policy", str(path))
    config = WindowConfig(
        obs_horizon=policy.obs_horizon,
        action_horizon=policy.action_horizon,
        cameras=list(policy.interface.images),
    )
    windows = Windows([store], config)
    rows = np.random.default_rng(0).choice(len(windows), min(count, len(windows)), replace=False)
    batch = windows.batch(np.sort(rows))
    texts = sorted({text for text in store.instructions if text})
    if goal == "text" and not texts:
        raise ValueError(f"--store {path}: no step has a sentence; leave --store out")
    requests = []
    for row in range(len(rows)):
        state = batch["state"][row].astype(np.float32)
        images = {name: batch[f"image/{name}"][row] for name in policy.interface.images}
        text = texts[row % len(texts)] if texts else ""
        latest = {camera: frames[-1] for camera, frames in images.items()}
        requests.append(
            ActRequest(
                observation=Observation(state=state, images=images),
                goal=goal_of(policy, goal, text, state, latest.__getitem__),
                seed=row,
            )
        )
    return requests


if __name__ == "__main__":
    main()
