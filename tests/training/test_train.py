"""`train-policy` runs, resumes bit for bit, splits over processes and says what is wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from safetensors.numpy import load_file

from telic.configs.launch import compose
from telic.datasets.lock import WriterLock
from telic.datasets.store import EpisodeStore, Segment
from telic.policy.checkpoint import load_policy, load_train_state
from telic.policy.exported.manifest import FORMAT as EXPORT_FORMAT
from telic.policy.routing.routings import ROUTINGS
from telic.spec import ActRequest, ArraySpec, Goal, Observation
from telic.tests.training.small_runs import ALONE
from telic.train import run
from telic.training.config import TrainConfig

SMALL = [
    "policy.denoiser.width=32",
    "policy.denoiser.num_layers=2",
    "policy.denoiser.num_heads=2",
    "policy.denoiser.feed_forward=32",
    "batch_size=8",
    "log_every=1",
    "validate_every=0",
    "checkpoint_every=1000",
    "optimizer.warmup_steps=2",
    "data.held_out=0.34",
    *ALONE,
]


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Return the path of a store of three episodes whose action is a function of the state."""
    path = tmp_path / "demos.zarr"
    fields = {
        "state": ArraySpec(shape=(3,)),
        "action": ArraySpec(shape=(2,), minimum=(-1.0,), maximum=(1.0,)),
        "timestamp_ns": ArraySpec(shape=(), dtype="int64"),
    }
    store = EpisodeStore.create(path, fields, rate_hz=10.0)
    rng = np.random.default_rng(0)
    for length, sentence in ((12, "open the drawer"), (9, "close the drawer"), (15, "reach")):
        phase = 0.3 * np.arange(length)[:, None] + rng.uniform(0, 6, 3)
        state = np.sin(phase).astype(np.float32)
        episode = {
            "state": state,
            "action": np.tanh(state[:, :2]),
            "timestamp_ns": np.arange(length) * 100_000_000,
        }
        store.append(episode, [Segment(start=0, end=length, instruction=sentence, task=sentence)])
    return path


def config(demos: Path, out: Path, *overrides: str) -> TrainConfig:
    """Return a config that trains a tiny policy on `demos`."""
    return compose(
        TrainConfig, "train", [f"data.stores=[{demos}]", f"out={out}", *SMALL, *overrides]
    )


def command(demos: Path, out: Path, *overrides: str) -> list[str]:
    """Return the command line of such a run."""
    return [sys.executable, "-m", "telic.train", f"data.stores=[{demos}]", f"out={out}"] + [
        *SMALL,
        *overrides,
    ]


def tensors(checkpoint: Path) -> dict[str, np.ndarray]:
    """Return every tensor of every file in `checkpoint`."""
    files = sorted(checkpoint.rglob("*.safetensors"))
    assert len(files) >= 3
    return {
        f"{path.relative_to(checkpoint)}:{name}": value
        for path in files
        for name, value in load_file(path).items()
    }


def losses(out: Path) -> list[float]:
    """Return the logged training losses in order."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_training_lowers_the_loss_and_leaves_a_policy_that_acts(
    demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    numbers = run(config(demos, out, "steps=120", "batch_size=24", "validate_every=60"))
    said = capsys.readouterr().err
    assert re.search(r"120 steps: about \S+ s and 2 validations on this machine at", said), said
    assert "a checkpoint every 1000 steps; stop with Ctrl-C, go on with resume=true" in said
    assert re.search(r"validation took \S+ s: about \S+ s left with 1 more of them", said), said
    history = losses(out)
    assert np.mean(history[-20:]) < 0.75 * np.mean(history[:20])
    assert numbers["held_out_action_error"] < 1.0
    policy = load_policy(out / "checkpoints" / "best", "cpu")
    observation = Observation(state=np.zeros((1, 3), np.float32))
    (chunk,) = policy.act_batch([ActRequest(observation=observation, goal=Goal(text="reach"))])
    assert chunk.actions.shape == (policy.action_horizon, 2)
    assert np.abs(chunk.actions).max() <= 1


def test_resume_is_bit_exact(demos: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(config(demos, whole, "steps=4"))
    stopped = config(demos, halves, "steps=4", "checkpoint_every=2")
    real_state = EpisodeStore.open(demos).num_steps
    with pytest.raises(KeyboardInterrupt):
        _stop_after(2, stopped)
    run(config(demos, halves, "steps=4", "resume=true"))
    assert EpisodeStore.open(demos).num_steps == real_state
    expected, got = (tensors(out / "checkpoints" / "last") for out in (whole, halves))
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, got[name], err_msg=name)
    assert losses(whole) == losses(halves)


def _stop_after(steps: int, stopped: TrainConfig) -> None:
    """Run `stopped` and send this process SIGINT once it has logged `steps` steps."""
    import threading

    log = Path(stopped.out) / "log.jsonl"

    def interrupt() -> None:
        while not (log.exists() and len(log.read_text().splitlines()) >= steps):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    run(stopped)


def test_two_processes_compute_what_one_computes(demos: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(config(demos, one, "steps=3", "accumulate=2"))
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    launched += ["--standalone", "-m", "telic.train"]
    done = subprocess.run(
        launched + command(demos, two, "steps=3")[3:], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    expected, got = (tensors(out / "checkpoints" / "last") for out in (one, two))
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=2e-6, err_msg=name)


def test_sigterm_writes_a_checkpoint_and_leaves(demos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(demos, out, "steps=100000", "data.num_workers=1"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = out / "log.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 3):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # the loader's worker too, as systemd and slurm do
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "resume=true" in stderr and "Traceback" not in stderr
    load_policy(out / "checkpoints" / "last", "cpu")


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("stopped", [False, True], ids=["alone", "and then the command"])
def test_a_killed_reader_costs_no_step(demos: Path, tmp_path: Path, stopped: bool) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(demos, out, "steps=100000", "data.num_workers=1"), stderr=subprocess.PIPE, text=True
    )
    log = out / "log.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 3):
        time.sleep(0.05)
    for child in _children(process.pid):
        os.kill(child, signal.SIGKILL)
    if stopped:  # as one signal to a group, of which the child heard first
        process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    assert process.returncode == (128 + signal.SIGTERM if stopped else 2)
    says = "resume=true" if stopped else "a process that reads data has died"
    assert says in stderr
    step = json.loads(log.read_text().splitlines()[-1])["step"]
    assert load_train_state(out / "checkpoints" / "last").progress["step"] == step


def test_a_non_finite_loss_stops_before_the_update(demos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(config(demos, out, "steps=2"))
    before = tensors(out / "checkpoints" / "last")
    zarr.open_group(demos, mode="a")["data/action"][:] = np.nan
    with pytest.raises(ValueError, match=r"step 2 of seed 1: .* sigma in \[") as error:
        run(config(demos, out, "steps=4", "resume=true"))
    says = str(error.value)
    assert re.search(rf"in episodes \d, \d of {demos} \(tasks .*(reach|drawer)\); {out}", says), (
        says
    )
    after = tensors(out / "checkpoints" / "last")
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])


@pytest.mark.parametrize("name", sorted(ROUTINGS))
def test_every_routing_trains_from_the_command_line(demos: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    run(config(demos, out, "steps=2", f"policy/denoiser/routing={name}"))
    loaded = load_policy(out / "checkpoints" / "last")
    assert loaded.config.denoiser.routing == ROUTINGS[name]()
    record = json.loads((out / "log.jsonl").read_text().splitlines()[0])
    assert record.keys() >= {"diffusion", *ROUTINGS[name]().loss_weights()}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.stores=[nowhere.zarr]"], "nowhere.zarr"),
        (["stepss=3"], "did you mean steps"),
        (["data.held_out=2"], r"data.held_out=2"),
        (["batch_size=7", "accumulate=2"], "batch_size=7"),
        (["optimizer.learning_rate=abc"], "abc"),
        (["policy/denoiser/routing=noise", "policy.denoiser.routing.top_k=9"], "routing.top_k=9"),
        (
            ["policy.denoiser.routing.top_k=2"],
            "choose that too: policy/denoiser/routing=dense|noise",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    demos: Path, tmp_path: Path, overrides: list[str], says: str
) -> None:
    done = subprocess.run(
        command(demos, tmp_path / "run", "steps=1", *overrides), capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert says in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_where_there_is_none_is_one_line(demos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cuda"):
        run(config(demos, tmp_path / "run", "device=cuda"))


def test_a_second_run_does_not_write_over_the_first(demos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(config(demos, out, "steps=1"))
    with pytest.raises(ValueError, match="resume=true"):
        run(config(demos, out, "steps=1"))
    run(config(demos, out, "steps=1", "overwrite=true"))
    (out / "log.jsonl").write_text("somebody else's")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"log.jsonl: is not the log of a training"):
        run(config(demos, out, "steps=1", "overwrite=true"))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_is_no_part_of_what_is_replaced_as_a_whole(demos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(config(demos, out, "steps=1"))
    (tmp_path / "file").write_text("a letter")
    store = shutil.copytree(demos, tmp_path / "other.zarr")
    (tmp_path / "lerobot/meta").mkdir(parents=True)
    (tmp_path / "lerobot/meta/info.json").write_text('{"codebase_version": "v3.0"}')
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/manifest.json").write_text(f'{{"format": "{EXPORT_FORMAT}"}}')
    (tmp_path / "link").symlink_to(store)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for inside, says in (
        (out / "checkpoints/last", "is a checkpoint of ours"),
        (out / "checkpoints/last/deep/run", "lies in .*/last, a checkpoint of ours"),
        (store, "is an episode store"),
        (tmp_path / "link/run", "lies in .*/other.zarr, an episode store"),
        (tmp_path / "lerobot", "is a LeRobotDataset"),
        (tmp_path / "exported", "is an exported policy of ours"),
        (tmp_path / "file", "/file is no folder"),
        (tmp_path / "file/run", "/file is no folder"),
    ):
        for further in ("overwrite=true", "overwrite=false"):
            with pytest.raises(ValueError, match=rf"^out={inside}:? .*{says}.*give another out="):
                run(config(demos, inside, "steps=1", further))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_that_another_process_trains_is_left_alone(demos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(config(demos, out, "steps=1"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = WriterLock(out)
    for further in ("resume=true", "overwrite=true"):
        with pytest.raises(ValueError, match="another writer has this run open"):
            run(config(demos, out, "steps=2", further))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    other.release()
    assert run(config(demos, out, "steps=2", "resume=true"))["step"] == 2
