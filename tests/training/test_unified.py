"""One policy for two robots: trained in one run, kept in one checkpoint, acting for either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from telic.collect import CollectConfig
from telic.collect import run as collect
from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.datasets.unified import unified_stats
from telic.embodiment import Embodiment, unified_interface
from telic.envs import registry
from telic.envs.rollout.rollout import EpisodeJob, RolloutConfig, run_rollouts
from telic.policy.checkpoint import load_policy, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.encoders.condition_dropout import ConditionDropoutConfig
from telic.policy.inference.truncated import TruncatedConfig
from telic.policy.policy import Policy
from telic.policy.presets import POLICIES
from telic.real_robot.policy_worker import open_checkpoint
from telic.spec import ActRequest, ArraySpec, Goal, Observation
from telic.tests.training.small_runs import ALONE
from telic.train import run
from telic.training.config import TrainConfig

pytestmark = pytest.mark.filterwarnings("ignore:Constant")
SMALL = [
    "policy.space=unified",
    "policy.denoiser.width=32",
    "policy.denoiser.num_layers=2",
    "policy.denoiser.num_heads=2",
    "batch_size=16",
    "log_every=1",
    "optimizer.warmup_steps=1",
    "data.held_out=0.3",
    *ALONE,
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return stores of demonstrations of two simulated robots, the first with vectors known."""
    folder = tmp_path_factory.mktemp("stores")
    paths = {}
    for robot, tasks in (("Sawyer", ["reach-v3"]), ("arm7", ["arm7"])):
        paths[robot] = folder / f"{robot}.zarr"
        collect(
            CollectConfig(
                tasks=tasks, out=str(paths[robot]), episodes_per_task=4, num_workers=0, max_steps=90
            )
        )
    return paths


@pytest.fixture(scope="module")
def trained(stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of one RDT trained on both for two steps."""
    out = tmp_path_factory.mktemp("run")
    numbers = run(config(out, *stores.values()))
    assert np.isfinite(numbers["held_out_action_error"])
    return out / "checkpoints" / "last"


def config(out: Path, *stores: Path, steps: int = 2, kind: str = "rdt") -> TrainConfig:
    """Return a config that trains a tiny policy in the unified space on `stores`."""
    paths = ",".join(map(str, stores))
    overrides = [f"policy={kind}", f"data.stores=[{paths}]", f"out={out}", f"steps={steps}", *SMALL]
    return compose(TrainConfig, "train", overrides)


def request(policy: Policy, seed: int = 0, text: str = "raise the arm") -> ActRequest:
    """Return a request with a random state of the robot that the policy acts for."""
    state = policy.interface.state.sample(np.random.default_rng(seed))
    observation = Observation(state=np.stack([state] * policy.obs_horizon))
    return ActRequest(observation=observation, goal=Goal(text=text), seed=seed)


@pytest.fixture
def loaded(trained: Path) -> Iterator[Policy]:
    """Return the trained policy, read anew."""
    policy = load_policy(trained)
    assert isinstance(policy, Policy)
    yield policy


def test_checkpoint_acts_for_either_robot(loaded: Policy, stores: dict[str, Path]) -> None:
    assert list(loaded.robots) == ["Sawyer", "arm7"]
    for robot, path in stores.items():
        loaded.use_embodiment(robot)
        own = EpisodeStore.open(path).interface
        assert loaded.interface == own
        (chunk,) = loaded.act_batch([request(loaded)])
        assert chunk.actions.shape == (loaded.action_horizon, *own.action.shape)
        assert chunk.dt_ns == round(1e9 / own.rate_hz)
        for action in chunk.actions:
            own.action.validate(action, robot)


def test_checkpoint_says_which_robots(trained: Path) -> None:
    spec = json.loads((trained / "spec.json").read_text())
    assert spec["robots"]["arm7"]["action"]["shape"] == [7]
    assert spec["robots"]["Sawyer"]["action"]["shape"] == [4]


def test_saving_again_changes_nothing(loaded: Policy, tmp_path: Path) -> None:
    loaded.use_embodiment("arm7")
    save_checkpoint(tmp_path / "again", loaded)
    again = load_policy(tmp_path / "again")
    assert isinstance(again, Policy)
    assert again.robots == loaded.robots and again.interface == again.robots["Sawyer"]
    again.use_embodiment("arm7")
    want, got = (policy.act_batch([request(policy)])[0].actions for policy in (loaded, again))
    np.testing.assert_array_equal(want, got)


def test_rollouts_pick_the_robot_of_the_tasks(loaded: Policy) -> None:
    rollout = RolloutConfig(num_workers=0, execute_horizon=8, max_steps=16)
    for task, robot in (("arm7/raise", "arm7"), ("metaworld/reach-v3", "Sawyer")):
        (result,) = run_rollouts([EpisodeJob(task=task, seed=3)], loaded, rollout)
        assert result.crashed is None and result.steps == 16
        assert loaded.interface == registry.make(task).interface == loaded.robots[robot]
    both = [EpisodeJob(task=task, seed=3) for task in ("arm7/raise", "metaworld/reach-v3")]
    with pytest.raises(ValueError, match=r"of several robots \(Sawyer, arm7\), and a policy acts"):
        run_rollouts(both, loaded, rollout)


def test_control_picks_the_robot_asked_for(trained: Path) -> None:
    assert open_checkpoint(str(trained), "cpu").interface.action.shape == (4,)
    assert open_checkpoint(str(trained), "cpu", embodiment="arm7").interface.action.shape == (7,)


def test_unknown_robot_offers_the_near_one(loaded: Policy) -> None:
    with pytest.raises(ValueError, match="trained for Sawyer, arm7, not for robot 'arm'; did you"):
        loaded.use_embodiment("arm")


def build(stores: dict[str, Path], **changes: object) -> tuple[Policy, dict[str, object]]:
    """Return a tiny policy for both robots, and a batch of both."""
    opened = [EpisodeStore.open(path) for path in stores.values()]
    robots = {store.attrs["robot"]: store.interface for store in opened}
    settings = config(Path("unused"), *stores.values()).policy
    for name, value in changes.items():
        setattr(settings, name, value)
    torch.manual_seed(0)
    policy = Policy(settings, unified_interface(robots), unified_stats(opened), robots)
    policy.set_embeddings({"go": np.ones(384, np.float32)})
    parts = []
    for store in opened:
        rows = {
            "state": store.read("state", 0, 3)[:, None],
            "action": np.stack([store.read("action", i, i + 8) for i in range(3)]),
        }
        parts.append(Embodiment.of(store.interface, "x").into(rows))
    batch: dict[str, object] = {
        name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]
    }
    return policy, batch | {"text": ["go"] * 6, "action_mask": torch.ones(6, 8, dtype=torch.bool)}


@pytest.mark.parametrize("learn", [False, True])
def test_slots_not_in_use_are_learnt_only_if_asked(stores: dict[str, Path], learn: bool) -> None:
    policy, batch = build(stores, train_padding=learn)
    policy.loss(batch, torch.Generator().manual_seed(0)).total.backward()
    rows = policy.denoiser.action_out.contract.weight.grad.abs().sum(-1) > 0
    used = batch["action_slots"].any(0)
    assert torch.equal(rows, torch.ones(128, dtype=torch.bool) if learn else used)


def test_what_lies_in_slots_not_in_use_changes_nothing(stores: dict[str, Path]) -> None:
    policy, batch = build(stores)
    policy.eval()
    other = dict(batch)
    for name in ("state", "action"):
        other[name] = torch.where(batch[f"{name}_slots"][:, None], batch[name], 5.0)
    losses = [policy.loss(b, torch.Generator().manual_seed(0)).total for b in (batch, other)]
    assert torch.equal(*losses)
    drawn = [policy.predict(b, torch.Generator().manual_seed(0)) for b in (batch, other)]
    assert torch.equal(*drawn)
    assert not drawn[0][~batch["action_slots"][:, None].expand_as(drawn[0])].any()


def test_what_training_hides_keeps_to_the_slots_in_use(stores: dict[str, Path]) -> None:
    shares = ConditionDropoutConfig(state=0.5, action_mask=0.5)
    policy, batch = build(stores, condition_dropout=shares)
    seen = policy.encode(batch, torch.Generator().manual_seed(0))
    assert not seen.state[~batch["state_slots"][:, None].expand_as(seen.state)].any()
    hidden = ~seen.action_mask.any(-1)
    assert 0 < hidden.sum() < len(hidden)
    assert torch.equal(seen.action_mask[~hidden], batch["action_slots"][~hidden])
    policy.loss(batch, torch.Generator().manual_seed(0)).total.backward()
    rows = policy.denoiser.action_out.contract.weight.grad.abs().sum(-1) > 0
    assert torch.equal(rows, batch["action_slots"].any(0))


def test_any_kind_learns_in_the_unified_space(stores: dict[str, Path], tmp_path: Path) -> None:
    run(config(tmp_path, *stores.values(), steps=1, kind="mode"))
    policy = load_policy(tmp_path / "checkpoints" / "last")
    assert isinstance(policy, Policy) and list(policy.robots) == ["Sawyer", "arm7"]


def test_anchors_of_several_robots_share_the_slots(stores: dict[str, Path], tmp_path: Path) -> None:
    settings = config(tmp_path, *stores.values(), steps=1, kind="mode")
    settings.policy.anchors = TruncatedConfig(count=6)
    run(settings)
    policy = load_policy(tmp_path / "checkpoints" / "last")
    assert isinstance(policy, Policy) and policy.truncated is not None
    used = policy.truncated.chunks.abs().amax((0, 1)) > 0
    masks = [Embodiment.of(robot, "x").action.mask for robot in policy.robots.values()]
    assert not (used.numpy() & ~np.any(masks, 0)).any()
    assert all((used.numpy() & mask).any() for mask in masks)
    relative = {i for i, column in enumerate(policy.truncated.columns.tolist()) if column >= 0}
    assert relative == set(range(128)), "an action's slot is the state's"
    for name, robot in policy.robots.items():
        policy.use_embodiment(name)
        size, rest = robot.state.shape[0] or 0, np.zeros((3, robot.action.shape[0] or 0))
        request = ActRequest(
            observation=Observation(state=np.zeros((1, size), np.float32)),
            goal=Goal(text=registry.entry("reach-v3").instructions[0]),
            prefix=rest.astype(np.float32),
        )
        (chunk,) = policy.act_batch([request])
        robot.action.validate(chunk.actions[0], name)


def test_stores_that_do_not_map_are_one_line(stores: dict[str, Path], tmp_path: Path) -> None:
    fields = {"state": ArraySpec(shape=(2,)), "action": ArraySpec(shape=(2,), names=("a", "b"))}
    with EpisodeStore.create(tmp_path / "odd.zarr", fields, rate_hz=10.0) as odd:
        data = {name: np.zeros((5, 2), np.float32) for name in fields}
        odd.append(data, [Segment(start=0, end=5, instruction="go", task="go")])
    with pytest.raises(ValueError, match=r"odd.zarr: state has no names, by which the unified"):
        run(config(tmp_path / "run", stores["arm7"], tmp_path / "odd.zarr"))


def test_published_presets_train_as_published() -> None:
    for name in ("rdt_published", "rdt_published_1b"):
        preset = POLICIES[name]
        assert preset.train_padding and preset.space.name == "unified"
    assert not POLICIES["rdt"].train_padding
    with pytest.raises(ValueError, match=r"policy.space=unified and the robots to map there go"):
        interface = registry.make("arm7/raise").interface
        Policy(PolicyConfig(space=POLICIES["rdt_published"].space), interface, {})
