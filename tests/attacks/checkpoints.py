"""Attacks on a checkpoint directory: a damaged copy, and all that loads one.

A copy must act and train on as the original did, or be refused in one line. Where digests are
forged, so that the files look as if somebody had written them so, other numbers may load; nothing
else may happen.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # an optimizer's first step would import it in every case
import yaml
from safetensors.torch import load_file, save_file

from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.policy import digests
from telic.policy.checkpoint import load_policy, load_train_state, read_config, read_parts
from telic.spec import ActRequest, ArraySpec, ChunkPolicy, Goal, Observation
from telic.tests.attacks.arena import CLEAN, OTHER, REFUSED, Result, Step, attempt, tree_digest
from telic.tests.attacks.mutations import (
    ANY_FOLDER,
    HUGE,
    Mutation,
    Random,
    change_tree,
    pick,
    rewrite_json,
)
from telic.tests.attacks.stores import compare, fingerprint
from telic.tests.training.small_runs import ALONE
from telic.train import run
from telic.training.config import DataConfig, TrainConfig

PLACE = "checkpoints/last"
SETTINGS = [
    "policy.denoiser.width=16",
    "policy.denoiser.num_layers=1",
    "policy.denoiser.num_heads=2",
    "policy.denoiser.feed_forward=16",
    "batch_size=4",
    "log_every=1",
    "validate_every=0",
    "optimizer.warmup_steps=2",
    "data.held_out=0.34",
    *ALONE,
]


def demos(path: Path) -> Path:
    """Write a store of three short episodes to `path` and return it."""
    fields = {
        "state": ArraySpec(shape=(3,)),
        "action": ArraySpec(shape=(2,), minimum=(-1.0,), maximum=(1.0,)),
        "timestamp_ns": ArraySpec(shape=(), dtype="int64"),
    }
    rng = np.random.default_rng(0)
    with EpisodeStore.create(path, fields, rate_hz=10.0) as store:
        for steps, sentence in ((12, "open the drawer"), (9, "close the drawer"), (15, "reach")):
            state = rng.normal(size=(steps, 3)).astype(np.float32)
            data = {
                "state": state,
                "action": np.tanh(state[:, :2]),
                "timestamp_ns": np.arange(steps) * 100_000_000,
            }
            store.append(data, [Segment(start=0, end=steps, instruction=sentence, task=sentence)])
        encoder = TrainConfig(
            data=DataConfig(stores=["x"])
        ).policy.goal.language.encoder  # vectors that are there need no text model
        store.write_embeddings(encoder, np.eye(3, 384, dtype=np.float32))
    return path


def config(store: Path, out: Path, *overrides: str) -> TrainConfig:
    """Return the config of a training of a tiny policy."""
    given = [f"data.stores=['{store}']", f"out='{out}'", *SETTINGS, *overrides]
    return compose(TrainConfig, "train", given)


def make(base: Path) -> None:
    """Train two steps into `base`/artefact; keep what the checkpoint tells, and a third step."""
    torch.set_num_threads(1)
    store = demos(base / "demos.zarr")
    run(config(store, base / "artefact", "steps=2"))
    shutil.rmtree(base / "artefact" / "checkpoints" / "best", ignore_errors=True)
    (base / "resume.pickle").write_bytes(
        pickle.dumps(config(store, Path("OUT"), "steps=3", "resume=true"))
    )
    path = base / "artefact" / "checkpoints" / "last"
    known = {
        "act": act(load_policy(path)),
        "state": state(path),
        "config": settings(path),
        "start": start(path),
    }
    shutil.copytree(base / "artefact", base / "resumed")
    known["resume"] = resume(base, base / "resumed")
    (base / "content.json").write_text(json.dumps(known))


def warm(base: Path) -> None:
    """Load the original once, so that cases need not import and compile what loading takes."""
    torch.set_num_threads(1)
    path = base / "artefact" / "checkpoints" / "last"
    act(load_policy(path))
    for use in (settings, state, start):
        use(path)


def act(policy: ChunkPolicy) -> dict[str, str]:
    """Return what a policy is and does, as digests."""
    observation = Observation(state=np.full((policy.obs_horizon, 3), 0.3, np.float32))
    told = {"interface": fingerprint(policy.interface.to_json())}
    for text in ("reach", "open the drawer"):
        request = ActRequest(observation=observation, goal=Goal(text=text), seed=1)
        (chunk,) = policy.act_batch([request])
        told[f"actions {text}"] = fingerprint(chunk.actions) + str(chunk.dt_ns)
    return told


def settings(path: Path) -> dict[str, str]:
    """Return what config.yaml tells."""
    return {key: fingerprint(value) for key, value in read_config(path).items()}


def state(path: Path) -> dict[str, str]:
    """Return what a training would go on from."""
    found = load_train_state(path)
    parts = {k: getattr(found, k) for k in ("weights", "ema", "optimizer")}
    parts["progress"] = {k: v for k, v in found.progress.items() if k != "seconds"}
    return {name: fingerprint(_plain(part)) for name, part in parts.items()}


def start(path: Path) -> dict[str, str]:
    """Return what a run that starts from it would begin with."""
    parts = read_parts(path)
    told = {f"weight {k}": fingerprint(v.float().numpy()) for k, v in parts.weights.items()}
    told |= {f"vector {k}": fingerprint(v) for k, v in parts.embeddings.items()}
    for name, stats in parts.stats.items():
        told[f"stats {name}"] = fingerprint(np.stack([stats.mean, stats.std, stats.minimum]))
    return told


def resume(base: Path, out: Path) -> dict[str, str]:
    """Train one step more in `out` and return the weights."""
    resumed: TrainConfig = pickle.loads((base / "resume.pickle").read_bytes())
    resumed.out = str(out)
    run(resumed)
    return state(out / "checkpoints" / "last")


def _plain(tree: Any) -> Any:
    """Return a tree of tensors as JSON data."""
    if isinstance(tree, torch.Tensor):
        return fingerprint(tree.detach().float().numpy())
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    return [_plain(part) for part in tree] if isinstance(tree, list | tuple) else repr(tree)


def cases(base: Path, attack: str, rng: Random) -> Callable[[Path], Iterator[Step | str]]:
    """Return one case of `attack` on a copy of the original in `base`."""
    known = json.loads((base / "content.json").read_text())
    resumes = rng.random() < 0.25

    def body(folder: Path) -> Iterator[Step | str]:
        torch.set_num_threads(1)
        out = folder / "artefact"
        shutil.copytree(base / "artefact", out, dirs_exist_ok=True)
        path = out / "checkpoints" / "last"
        yield ATTACKS[attack](rng, path, folder / "outside")
        before = tree_digest(folder)
        loaded: list[ChunkPolicy] = []

        def load() -> str:
            loaded.append(load_policy(path))
            return CLEAN

        uses: dict[str, tuple[Callable[[], str], str]] = {
            "load": (load, PLACE),
            "act": (lambda: compare(act(loaded[0]), known["act"]), ""),
            "config": (lambda: compare(settings(path), known["config"]), PLACE),
            "state": (lambda: compare(state(path), known["state"]), PLACE),
            "start": (lambda: compare(start(path), known["start"]), PLACE),
        }
        for verb, (use, place) in uses.items():
            if verb == "act" and not loaded:
                continue
            yield attempt(verb, use, place)
            after = tree_digest(folder)
            if after != before:
                changed = {k for k in {**before, **after} if before.get(k) != after.get(k)}
                yield Step(f"{verb}: then", "changed", ", ".join(sorted(changed))[:300])
                before = after
        if not resumes:
            return
        step = attempt("resume", lambda: compare(resume(base, out), known["resume"]), "")
        yield step
        after = {k: v for k, v in tree_digest(folder).items() if PLACE in k}
        if step.outcome == REFUSED and any(before.get(k) != v for k, v in after.items()):
            yield Step("resume: then", "changed", "a refused run changed its checkpoint")

    return body


def judge(result: Result) -> None:
    """Note where another policy came out than the one that was saved."""
    if result.attack in FORGED:
        return
    for step in result.steps:
        if step.outcome == OTHER:
            result.wrong.append(f"silent: {step.verb}: {step.text.strip()}")


def _json(rng: Random, root: Path, outside: Path) -> str:
    """Change one thing in a JSON or YAML file."""
    path = pick(rng, [p for p in sorted(root.rglob("*")) if p.suffix in (".json", ".yaml")])
    where = path.relative_to(root.parent).as_posix()
    if path.suffix == ".json":
        return rewrite_json(rng, path, where)
    data = yaml.safe_load(path.read_text())
    done = change_tree(rng, data)
    text = yaml.safe_dump(data)
    if rng.random() < 0.15:
        done = pick(rng, sorted(YAML))
        text = YAML[done]
    path.write_text(text)
    return f"{where}: {done}"


def _laughs() -> str:
    """Return YAML of a few lines that unfolds to 10^9 entries."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines)


YAML = {
    "a bomb": _laughs(),
    "a call": "!!python/object/apply:os.system ['touch owned']\n",
    "nested": "[" * 5000,
    "an interpolation": "kind: ${oc.env:HOME}\nformat: 1\n",
    "a loop of interpolations": "policy: ${policy}\nformat: 1\nkind: mode\n",
    "no YAML": "\t- x: [",
    "a null byte": "\0",
}


def _tensors(rng: Random, root: Path, outside: Path) -> str:
    """Rewrite a file of tensors with one of them lost, renamed, exchanged, of another type."""
    path = pick(rng, sorted(root.rglob("*.safetensors")))
    tensors = load_file(path)
    one, two = (pick(rng, sorted(tensors)) for _ in range(2))
    how = pick(rng, ["lost", "renamed", "swapped", "type", "nan", "shape", "grown", "extra", "big"])
    tensor = tensors[one]
    if how == "lost":
        del tensors[one]
    elif how == "renamed":
        tensors[f"{one}s"] = tensors.pop(one)
    elif how == "swapped":
        alike = [k for k, t in tensors.items() if t.shape == tensor.shape and k != one] or [two]
        two = pick(rng, alike)
        tensors[one], tensors[two] = tensors[two].clone(), tensor.clone()
    elif how == "type":
        kinds = [torch.float16, torch.float64, torch.int64, torch.bool, torch.bfloat16, torch.uint8]
        tensors[one] = tensor.to(pick(rng, kinds))
    elif how == "nan":
        tensors[one] = torch.full_like(tensor.float(), pick(rng, [np.nan, np.inf, 1e38, 0.0, -1.0]))
    elif how == "shape":
        tensors[one] = pick(rng, [tensor.reshape(-1), tensor[None], tensor.reshape(-1)[:0]]).clone()
    elif how == "grown":
        tensors[one] = torch.cat([tensor.reshape(-1)] * 2)
    elif how == "extra":
        tensors["extra/odd"] = torch.zeros(2)
    else:
        tensors[one] = torch.zeros(1_000_000)
    keep = {} if rng.random() < 0.5 else _metadata_of(path)
    save_file(tensors, path, metadata=keep or None)
    return f"{path.relative_to(root.parent)}: {one} {how} {two if how == 'swapped' else ''}"


def _headers(rng: Random, root: Path, outside: Path) -> str:
    """Have the header of a file of tensors say what is not so."""
    path = pick(rng, sorted(root.rglob("*.safetensors")))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    how = pick(rng, ["size", "tree", "tree", "tree", "metadata", "overlap"])
    done = how
    if how == "size":
        size = pick(rng, [0, 1, size - 1, size + 1, HUGE, 2**63, 2**64 - 1])
        path.write_bytes(size.to_bytes(8, "little") + data[8:])
        return f"{path.relative_to(root.parent)}: a header of {size} bytes"
    if how == "metadata":
        said = pick(rng, ["", "[]", "{", "[3]", "null", '["a", "a"]', "[" * 9999, '{"a": 1}'])
        header["__metadata__"] = {"sentences": said}
        done = f"sentences {said[:20]}"
    elif how == "overlap":
        for entry in header.values():
            if "data_offsets" in entry:
                entry["data_offsets"] = [0, entry["data_offsets"][1] - entry["data_offsets"][0]]
    else:
        done = change_tree(rng, header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + rest)
    return f"{path.relative_to(root.parent)}: {done}"


def _metadata_of(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    kept: dict[str, str] = header.get("__metadata__", {})
    return kept


def reseal(root: Path) -> None:
    """Forge the digests of the checkpoint at `root`."""
    digests.write_digests(root)


def _forged(mutation: Mutation) -> Mutation:
    def forge(rng: Random, root: Path, outside: Path) -> str:
        done = mutation(rng, root, outside)
        reseal(root)
        return done

    return forge


FORGED: dict[str, Mutation] = {
    "digests forged: JSON and YAML": _forged(_json),
    "digests forged: tensors": _forged(_tensors),
    "digests forged: headers of tensors": _forged(_headers),
}
ATTACKS: dict[str, Mutation] = {
    **ANY_FOLDER,
    "JSON and YAML: other values, missing keys, bombs": _json,
    "tensors lost, renamed, swapped, of another type": _tensors,
    "headers of tensors that lie": _headers,
    **FORGED,
}
