"""`save-pretrained`: a checkpoint and its results become a folder to hand on, with a card."""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import cast

import numpy as np

from telic.cards import FILE
from telic.configs.pretrained_arguments import parsed
from telic.envs.evaluation.results import Evaluation, read_evaluation, results_file
from telic.evaluate import evaluated_digest
from telic.export import store_requests
from telic.model_card import evaluation_keys, model_card
from telic.policy import digests
from telic.policy.checkpoint import Parts, policy_of, read_parts
from telic.policy.exported.formats import GraphPrecision
from telic.policy.exported.parity import TOLERANCE, half_ranges
from telic.policy.policy import Policy
from telic.policy.pretrained import (
    PRETRAINED,
    acting_digest,
    acting_files,
    is_pretrained,
    read_chunks,
    write_chunks,
    write_keys,
)
from telic.replacement import Replacement
from telic.spec import ActRequest, Array
from telic.training_facts import TrainingFacts, store_paths

NUM_CHUNKS = 20
# half ranges of an action: as between two runtimes, whose float32 sums are in another order too
LARGEST_DIFFERENCE = TOLERANCE[GraphPrecision.fp32]


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit code 0, 2 on bad input."""
    args = parsed(arguments)
    try:
        folder = args.check or args.out
        difference = check(folder) if args.check else run(args)
    except ValueError as error:
        print(f"save-pretrained: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"{folder}: {size / 1e6:.1f} MB; {NUM_CHUNKS} chunks differ by {difference:.2g} half "
        "ranges of an action at most"
    )


def run(args: argparse.Namespace) -> float:
    """Write the folder as the command line says; return what `check` returns of it."""
    out = Replacement(
        args.out,
        PRETRAINED,
        overwrite=args.overwrite,
        by="--overwrite",
        sources=[
            args.checkpoint,
            *map(results_file, args.results),
            *([args.store] if args.store else []),
        ],
    )
    out.require()
    policy, parts = _loaded(args.checkpoint)
    evaluations = [_evaluation(path, args.checkpoint) for path in args.results]
    training = TrainingFacts.of(parts)
    licence = args.licence or _licence(training, args.checkpoint)
    requests = _requests(policy, parts, args.store)
    digest = acting_digest(args.checkpoint)
    card = model_card(args.out.name, policy, parts, training, evaluations, licence, digest)
    with out.writing(durable=True) as fresh:
        for file in acting_files(args.checkpoint):
            (fresh / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(args.checkpoint / file, fresh / file)
        write_keys(fresh, evaluation_keys(evaluations[0]))
        write_chunks(fresh, requests, policy.act_batch(requests))
        digests.write_digests(fresh)
        (fresh / FILE).write_text(card.to_text(), encoding="utf-8")
        return check(fresh)


def check(folder: Path) -> float:
    """The largest difference to a pretrained policy's stored chunks, in half ranges of an action.

    ValueError where it is too large, where the card is that of other weights, or a file is damaged.
    """
    if not is_pretrained(folder):
        raise ValueError(f"{folder}: no pretrained policy there; save-pretrained writes one")
    policy, _ = _loaded(folder)
    requests, wanted = read_chunks(folder)
    got = np.stack([chunk.actions for chunk in policy.act_batch(requests)])
    if got.shape != wanted.shape:
        raise ValueError(f"{folder}: chunks have shape {got.shape}, those stored {wanted.shape}")
    largest = float(_differences(got, wanted, policy).max())
    if not largest <= LARGEST_DIFFERENCE:
        raise ValueError(
            f"{folder}: a chunk differs from the stored one by {largest:.2g} half ranges of an "
            f"action, more than {LARGEST_DIFFERENCE:g}; this code does not act as that which "
            "wrote it"
        )
    return largest


def _differences(got: Array, wanted: Array, policy: Policy) -> Array:
    return cast(Array, abs(got - wanted) / half_ranges(policy))


def _loaded(folder: Path) -> tuple[Policy, Parts]:
    """The policy of a checkpoint and its parts; ValueError where it is none to hand on."""
    parts = read_parts(folder)
    policy = policy_of(parts)
    if not isinstance(policy, Policy):
        raise ValueError(f"{folder}: only diffusion policies are handed on, and it is none")
    if policy.robots:
        raise ValueError(
            f"{folder}: is for {', '.join(policy.robots)}; a policy for several robots is not "
            "handed on, for its chunks are of one of them"
        )
    return policy, parts


def _evaluation(path: Path, checkpoint: Path) -> Evaluation:
    """The evaluation at `path`; ValueError unless it is a whole one of this checkpoint."""
    evaluation, file = read_evaluation(path), results_file(path)
    found = evaluation.about.get("checkpoint")
    if not isinstance(found, dict):
        raise ValueError(f"{file}: are results of {found}, not of {checkpoint}")
    if found.get("sha256") != (digest := evaluated_digest(checkpoint)):
        raise ValueError(
            f"{file}: are results of another checkpoint, {found.get('path')} "
            f"({str(found.get('sha256'))[:12]}); {checkpoint} has {digest[:12]}: evaluate it"
        )
    if not evaluation.complete:
        done, all_of = len(evaluation.episodes), evaluation.protocol.num_episodes
        raise ValueError(
            f"{file}: has {done} of {all_of} {evaluation.protocol.what}; run that evaluation "
            "again, it goes on where it stopped"
        )
    return evaluation


def _licence(training: TrainingFacts, checkpoint: Path) -> str:
    """The licence of this software, which may be that of the weights where the data have it too."""
    own = str(metadata.metadata("telic").json.get("license_expression", ""))
    if not own or training.licences - {own}:
        stated = ", ".join(sorted(one or "none stated" for one in training.licences))
        raise ValueError(
            f"{checkpoint}: its data's licence is {stated}, this software's {own or 'not stated'}; "
            "say the weights' own by --licence"
        )
    return own


def _requests(policy: Policy, parts: Parts, given: Path | None) -> list[ActRequest]:
    """Requests with recorded observations; ValueError where no store is there to take them from."""
    found = next((path for _, path in store_paths(parts) if path is not None), None)
    store = given or found
    if store is None:
        raise ValueError(
            f"{parts.folder}: no store that it was trained on is there any more; give one of the "
            "same robot by --store"
        )
    goal = policy.config.goal.modalities[0]
    requests = store_requests(store, policy, goal, NUM_CHUNKS)
    if len(requests) < NUM_CHUNKS:
        raise ValueError(f"{store}: has {len(requests)} steps; {NUM_CHUNKS} are recorded")
    return requests


if __name__ == "__main__":
    main()
