"""robomimic's algorithms train from our stores and act as our own policies do."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from telic.configs.launch import compose
from telic.datasets.lock import WriterLock
from telic.datasets.store import EpisodeStore, Segment
from telic.evaluate import EvaluateConfig
from telic.evaluate import run as evaluate
from telic.policy.checkpoint import load_policy
from telic.spec import ActRequest, Array, ArraySpec, Goal, Observation
from telic.train_baseline import TrainBaselineConfig, run
from telic.training.robomimic_baseline import Algorithm, RobomimicConfig, RobomimicPolicy

pytest.importorskip("robomimic", reason="robomimic is not installed")

RATE_HZ = 20.0
SMALL = {"bc": "{algo.actor_layer_dims: [32]}", "bc_rnn_gmm": "{algo.rnn.hidden_dim: 16}"}


def make_store(path: Path, largest_action: float = 1.0) -> Path:
    """Write three episodes of the toy task, whose sentences have random vectors."""
    fields = {
        "state": ArraySpec(shape=(2,)),
        "action": ArraySpec(shape=(1,)),
        "timestamp_ns": ArraySpec(shape=(), dtype="int64"),
    }
    rng = np.random.default_rng(0)
    with EpisodeStore.create(path, fields, rate_hz=RATE_HZ) as store:
        for length, sentence in ((12, "add up"), (9, "b"), (15, "c")):
            episode: dict[str, Array] = {
                "state": rng.normal(size=(length, 2)).astype(np.float32),
                "action": np.full((length, 1), largest_action, np.float32),
                "timestamp_ns": np.arange(length) * 50_000_000,
            }
            segment = Segment(start=0, end=length, instruction=sentence, task="toy/sum")
            store.append(episode, [segment])
        store.write_embeddings("minilm", rng.standard_normal((3, 384), np.float32))
    return path


def train(store: Path, out: Path, algorithm: str, *overrides: str) -> Path:
    """Return the checkpoint of a small baseline trained for two steps."""
    given = [
        f"store={store}",
        f"out={out}",
        f"policy.algorithm={algorithm}",
        f"+policy.settings={SMALL[algorithm]}",
        "steps=2",
        "batch_size=8",
        "device=cpu",
        "threads=1",
        "wandb.mode=disabled",
        *overrides,
    ]
    record = run(compose(TrainBaselineConfig, "train_baseline", given))
    assert np.isfinite(record["loss"])
    return out / "checkpoints" / "last"


def request(episode: int, step: int) -> ActRequest:
    """Return what an episode asks at a step; its observations are its own."""
    state = np.array([[np.sin(episode + step), np.cos(2 * step - episode)]], np.float32)
    return ActRequest(
        observation=Observation(state=state),
        goal=Goal(text="b"),
        episode=episode,
        seed=100 + episode,
        step=step,
    )


@pytest.mark.parametrize("algorithm", [algorithm.value for algorithm in Algorithm])
def test_a_baseline_trains_and_is_evaluated(algorithm: str, toy: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "demos.zarr")
    checkpoint = train(store, tmp_path / "run", algorithm)
    assert sorted(path.suffix for path in checkpoint.iterdir()) == [
        ".json", ".json", ".safetensors", ".safetensors", ".safetensors", ".yaml"
    ]  # fmt: skip
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoints", "log.jsonl"}
    given = [
        f"checkpoint={checkpoint}",
        f"out={tmp_path / 'eval'}",
        f"tasks=['{toy}']",
        "episodes_per_task=3",
        "num_workers=0",
        "device=cpu",
    ]
    result = evaluate(compose(EvaluateConfig, "evaluate", given))
    assert result["policy"] == f"robomimic {algorithm}"
    assert result["overall"]["episodes"] == 3
    with pytest.raises(ValueError, match="does not denoise; leave sampling out"):
        evaluate(compose(EvaluateConfig, "evaluate", [*given, "sampling=2"]))
    with pytest.raises(
        ValueError, match=r"precision=w8a8: .* does not denoise; leave precision out"
    ):
        evaluate(compose(EvaluateConfig, "evaluate", [*given, "precision=w8a8"]))


@pytest.mark.parametrize("algorithm", [algorithm.value for algorithm in Algorithm])
def test_an_episode_does_not_notice_the_others(algorithm: str, tmp_path: Path) -> None:
    checkpoint = train(make_store(tmp_path / "demos.zarr"), tmp_path / "run", algorithm)
    together, alone = load_policy(checkpoint), load_policy(checkpoint)
    for step in range(12):  # beyond the memory's horizon of 10
        rows = together.act_batch([request(episode, step) for episode in (0, 1, 2)])
        (single,) = alone.act_batch([request(1, step)])
        np.testing.assert_allclose(rows[1].actions, single.actions, atol=1e-6)
        assert rows[0].actions.shape == (1, 1)
    assert single.dt_ns == 50_000_000


def test_memory_lasts_an_episode_and_ten_steps(tmp_path: Path) -> None:
    checkpoint = train(make_store(tmp_path / "demos.zarr"), tmp_path / "run", "bc_rnn_gmm")
    policy = load_policy(checkpoint)
    assert isinstance(policy, RobomimicPolicy)
    still = Observation(state=np.zeros((1, 2), np.float32))

    def means(step: int, episode: int) -> float:
        """Return the action of a mixture whose draw is the same at each step."""
        asked = ActRequest(observation=still, goal=Goal(text="b"), episode=episode, step=step)
        policy.act_batch([asked])
        return float(policy._memory[episode].cell.sum())

    first = [means(step, episode=0) for step in range(20)]
    assert first[0] != first[1] != first[9]
    assert first[10:] == pytest.approx(first[:10])  # robomimic clears it every `rnn.horizon` steps
    assert means(0, episode=0) == pytest.approx(first[0])  # a new episode under the same number


def test_memory_is_robomimics_own(tmp_path: Path) -> None:
    checkpoint = train(make_store(tmp_path / "demos.zarr"), tmp_path / "run", "bc_rnn_gmm")
    policy = load_policy(checkpoint)
    assert isinstance(policy, RobomimicPolicy)
    algorithm, goal = policy.algorithm, policy.language(["b"], policy.device)
    algorithm.reset()
    for step in range(12):
        asked = request(0, step)
        policy.act_batch([asked])
        state = policy.normalizer.normalize(torch.from_numpy(asked.observation.state))
        with torch.inference_mode():
            algorithm.get_action({"state": state, "goal": goal})  # as its own rollouts do
        cell = algorithm._rnn_hidden_state[1]
        torch.testing.assert_close(policy._memory[0].cell, cell, rtol=1e-5, atol=1e-6)


def test_a_step_is_robomimics_own(tmp_path: Path) -> None:
    """The loss of a BC step is the squared error to the actions, of the normalised state."""
    store = EpisodeStore.open(make_store(tmp_path / "demos.zarr", largest_action=0.5))
    torch.manual_seed(0)
    policy = RobomimicConfig(algorithm=Algorithm.bc).build(store.interface, store.stats).train()
    goals = torch.zeros(4, 1, 384)
    state = torch.randn(4, 1, 2)
    with torch.no_grad():
        shown = policy.normalizer.normalize(state[:, 0])
        expected = (policy.nets["policy"]({"state": shown, "goal": goals[:, 0]}) - 0.5).square()
    batch = {"obs": {"state": state, "goal": goals}, "actions": torch.full((4, 1, 1), 0.5)}
    assert policy.train_step(batch)["loss"] == pytest.approx(float(expected.mean()), rel=1e-5)


def test_a_run_that_another_process_trains_is_left_alone(tmp_path: Path) -> None:
    store, out = make_store(tmp_path / "demos.zarr"), tmp_path / "run"
    out.mkdir()
    other = WriterLock(out)
    with pytest.raises(ValueError, match="another writer has this run open"):
        train(store, out, "bc")
    assert not list(out.iterdir())
    other.release()
    train(store, out, "bc")
    other = WriterLock(out)  # this one let go of it
    with pytest.raises(ValueError, match=r"somebody is writing .*run; close it first"):
        train(store, out, "bc", "overwrite=true")
    other.release()


def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = make_store(tmp_path / "wide.zarr", largest_action=2.0)
    with pytest.raises(ValueError, match=r"wide.zarr: actions span 2 .. 2, robomimic's baselines"):
        train(wide, tmp_path / "run", "bc")
    store = make_store(tmp_path / "demos.zarr")
    train(store, tmp_path / "run", "bc")
    with pytest.raises(ValueError, match="holds a run already; overwrite=true"):
        train(store, tmp_path / "run", "bc")
    with pytest.raises(ValueError, match="robomimic has no hiden_dim; did you mean hidden_dim"):
        RobomimicConfig(settings={"algo.rnn.hiden_dim": 3}).robomimic()
    for module in [name for name in sys.modules if name.split(".")[0] == "robomimic"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "six", None)  # what robomimic forgets to declare
    with pytest.raises(ValueError, match=r"needs robomimic .* pip install 'telic\[robomimic\]'"):
        RobomimicConfig().robomimic()
