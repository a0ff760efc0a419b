"""`evaluate-policy protocol=lh_mtlc` from end to end, on a table of symbols."""

import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from telic.configs.launch import compose
from telic.envs.evaluation.results import read_evaluation
from telic.envs.evaluation.statistics import wilson_interval
from telic.envs.playtable.instructions import Phrases, sentences
from telic.envs.playtable.protocol import evaluation_chains
from telic.envs.playtable.rules import TASK_RULES
from telic.envs.rendering import choose_backend
from telic.evaluate import EvaluateConfig, run
from telic.policy.checkpoint import save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.policy import Policy
from telic.spec import FieldStats
from telic.tests.interrupted import interrupted

CHAINS = ["protocol=lh_mtlc", "env='symbolic_table:symbolic'", "num_workers=0"]
GIVES_UP = {"stack_block", "turn_on_led", "turn_off_led"}


def evaluate(out: Path, *overrides: str, checkpoint: str = "expert") -> dict[str, Any]:
    """Return what the command gives in this process."""
    given = [f"checkpoint={checkpoint}", f"out={out}", *CHAINS, *overrides]
    return run(compose(EvaluateConfig, "evaluate", given))


def length(number: int) -> int:
    """Return how many of a chain's tasks come before one that the experts give up on."""
    tasks = evaluation_chains()[number].tasks
    return next((i for i, task in enumerate(tasks) if task in GIVES_UP), len(tasks))


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a checkpoint of a tiny MoDE with random weights that knows all sentences."""
    sys.path.insert(0, str(Path(__file__).parent))
    import symbolic_table

    sizes = {"state": 39, "action": 1}
    stats = {
        name: FieldStats(
            minimum=np.zeros(n),
            maximum=np.full(n, 34.0),
            mean=np.zeros(n),
            std=np.ones(n),
            q01=np.zeros(n),
            q99=np.full(n, 34.0),
            count=2,
        )
        for name, n in sizes.items()
    }
    denoiser = ModeConfig(width=16, num_layers=1, num_heads=2, feed_forward=16)
    built = Policy(PolicyConfig(denoiser=denoiser), symbolic_table.INTERFACE, stats)
    rng = np.random.default_rng(0)
    texts = [text for part in Phrases for all_ in sentences(part).values() for text in all_]
    built.set_embeddings({text: rng.standard_normal(384, np.float32) for text in texts})
    path = tmp_path_factory.mktemp("chains") / "best"
    save_checkpoint(path, built)
    return str(path)


def test_experts_on_chains(chains: str, tmp_path: Path) -> None:
    result = evaluate(tmp_path, "num_chains=40", "max_steps=6")
    ran = [number for number in range(40) if number != 13]  # that one breaks the table
    lengths = [length(number) for number in ran]
    assert [len(e["goal_steps"]) for e in result["episodes"] if e["crashed"] is None] == lengths
    score = result["average_length"]
    assert score["mean"] == pytest.approx(np.mean(lengths))
    assert score["episodes"] == 39
    low, high = score["interval"]
    spread = 1.96 * np.std(lengths) / np.sqrt(39)  # what the bootstrap of a mean comes close to
    assert (low, high) == pytest.approx(
        (score["mean"] - spread, score["mean"] + spread), abs=0.1 * spread
    )
    rows = [*result["in_a_row"].values(), result["overall"]]
    for count, row in enumerate(rows, start=1):
        done = sum(reached >= count for reached in lengths)
        assert (row["successes"], row["episodes"], row["crashed"]) == (done, 39, 1)
        assert row["interval"] == list(wilson_interval(done, 39))
        assert row["steps_to_success"] == 3 * count
    assert all(a["success"] >= b["success"] for a, b in pairwise(rows))
    begun = [t for n in ran for t in evaluation_chains()[n].tasks[: length(n) + 1]]
    for task, row in result["per_task"].items():
        assert row["episodes"] == begun.count(task)
        assert row["success"] == (None if not row["episodes"] else float(task not in GIVES_UP))
    assert list(result["per_task"]) == [
        task for task in TASK_RULES if any(task in chain.tasks for chain in evaluation_chains(40))
    ]
    report = (tmp_path / "report.md").read_text()
    assert f"**average length {score['mean']:.3f} [{low:.3f}, {high:.3f}]**" in report
    assert "1 crashed, not counted" in report and "lh_mtlc, seed 13: ZeroDivisionError" in report
    assert "LH-MTLC, 40 chains, scene D, 6 steps a task" in report
    assert (tmp_path / "success.png").stat().st_size > 10_000
    read = read_evaluation(tmp_path).to_json()
    assert json.loads(json.dumps(read)) == {k: v for k, v in result.items() if k != "comparison"}


def test_each_task_alone(chains: str, policy: str, tmp_path: Path) -> None:
    given = ["protocol=mtlc", "episodes_per_task=2", "max_steps=6"]
    result = evaluate(tmp_path / "expert", *given)
    assert [task.rpartition("/")[2] for task in result["per_task"]] == list(TASK_RULES)
    for task, row in result["per_task"].items():
        assert row["episodes"] == 2
        assert row["successes"] == (0 if task.rpartition("/")[2] in GIVES_UP else 2)
    assert result["protocol"]["env"] == {"scene": "D"}
    fast = ["device=cpu", "threads=1", "sampling=1", "instructions=all", "seed=5"]
    result = evaluate(tmp_path / "policy", *given, *fast, checkpoint=policy)
    for episode in result["episodes"]:
        texts = sentences(Phrases.held_out)[episode["task"].rpartition("/")[2]]
        assert episode["instruction"] == texts[episode["seed"] - 5]


def test_a_policy_is_compared_with_the_experts(chains: str, policy: str, tmp_path: Path) -> None:
    few = ["num_chains=6", "max_steps=9"]
    expert = evaluate(tmp_path / "expert", *few)
    fast = ["device=cpu", "threads=1", "sampling=1", f"compare={tmp_path / 'expert'}"]
    result = evaluate(tmp_path / "policy", *few, *fast, checkpoint=policy)
    mine, theirs = ([len(e["goal_steps"]) for e in found["episodes"]] for found in (result, expert))
    compared = result["comparison"]["score"]
    assert compared["mean"] == pytest.approx(np.mean(mine) - np.mean(theirs))
    assert compared["interval"][1] < 0  # random weights against experts
    assert result["comparison"]["overall"]["pairs"] == 6
    assert result["chunk_latency_ms"]["calls"] > 0
    assert "The average length differs by -" in (tmp_path / "policy" / "report.md").read_text()
    with pytest.raises(ValueError, match="it has num_chains=6, this evaluation 5"):
        evaluate(tmp_path / "other", "num_chains=5", f"compare={tmp_path / 'expert'}")


def test_sentences_come_from_a_file_and_take_turns(
    chains: str, policy: str, tmp_path: Path
) -> None:
    file = tmp_path / "words.yaml"
    ours = sentences(Phrases.training)
    file.write_text(yaml.safe_dump({task: list(texts[4:16]) for task, texts in ours.items()}))
    given = ["num_chains=6", "max_steps=4", f"language_file={file}", "sampling=1", "device=cpu"]
    first = evaluate(tmp_path / "first", *given, checkpoint=policy)
    turned = evaluate(tmp_path / "all", *given, "instructions=all", checkpoint=policy)
    for index, result in ((0, first), (None, turned)):
        for episode in result["episodes"]:
            number = episode["seed"]
            task = evaluation_chains()[number].tasks[len(episode["goal_steps"])]
            assert episode["instruction"] == ours[task][4 + (number % 12 if index is None else 0)]


def test_failed_chains_are_filmed_first(chains: str, policy: str, tmp_path: Path) -> None:
    if choose_backend() is None:
        pytest.skip("no library for off-screen rendering is installed")
    given = ["num_chains=3", "max_steps=9", "sampling=1", "device=cpu", "videos=2"]
    result = evaluate(tmp_path, *given, checkpoint=policy)
    ((task, films),) = result["videos"].items()
    assert task.endswith("/lh_mtlc") and len(films) == 2
    for film in films:
        assert film.endswith("_failure.mp4")  # random weights finish no chain
        assert (tmp_path / film).stat().st_size > 1000


def test_an_interrupted_evaluation_goes_on(chains: str, tmp_path: Path) -> None:
    given = ["num_chains=8", "max_steps=6"]
    whole = evaluate(tmp_path, *given)
    log = tmp_path / "episodes.jsonl"
    header, *lines = log.read_text().splitlines()
    kept = json.loads(lines[3]) | {"wall_s": 1234.5}
    log.write_text("\n".join([header, json.dumps(kept), lines[0][:60]]))  # torn by a kill
    result = evaluate(tmp_path, *given)
    assert [e["wall_s"] for e in result["episodes"]].count(1234.5) == 1
    for name in ("average_length", "in_a_row", "per_task"):
        assert result[name] == whole[name]
    with pytest.raises(ValueError, match="is of max_steps=6, this evaluation has 7"):
        evaluate(tmp_path, "num_chains=8", "max_steps=7")
    with pytest.raises(ValueError, match="is of protocol=lh_mtlc, this evaluation has tasks"):
        run(compose(EvaluateConfig, "evaluate", ["checkpoint=expert", f"out={tmp_path}"]))


def test_a_stopped_command_leaves_a_table_of_what_was_done(policy: str, tmp_path: Path) -> None:
    path = [str(Path(__file__).parent), *filter(None, sys.path)]
    slow = {"PYTHONPATH": os.pathsep.join(path), "SYMBOLIC_SLEEP_S": "0.002"}
    words = ["num_workers=2", "envs_per_worker=4", "device=cpu", "threads=1", "sampling=1"]
    words = [f"checkpoint={policy}", f"out={tmp_path}", *CHAINS[:2], *words, "max_steps=8"]
    log = tmp_path / "episodes.jsonl"
    words = [sys.executable, "-m", "telic.evaluate", *words]
    output, _ = interrupted(words, os.environ | slow, log, lines=6, within_s=120)
    assert "LH-MTLC, 1000 chains" in output and "unfinished" in output
    result = json.loads((tmp_path / "results.json").read_text())
    assert not result["complete"]
    assert result["average_length"]["episodes"] == len(log.read_text().splitlines()) - 1


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["protocol=lhmtlc"],
            "is not one of tasks, mtlc, paraphrases, lh_mtlc; did you mean lh_mtlc",
        ),
        (["num_chains=1001"], "num_chains=1001 must lie between 1 and 1000"),
        (["scene=E"], "scene=E is not one of PlayTable's: A, B, C, D"),
        (["language_file=nowhere.yaml"], "language_file=nowhere.yaml: cannot be read"),
        (["env=playtables"], "unknown task 'playtables/lh_mtlc'"),
        (
            ["episodes_per_task=3"],
            "episodes_per_task=3 is no setting of protocol=lh_mtlc, which takes env, "
            r"language_file, num_chains, scene; protocol=tasks\|mtlc\|paraphrases takes it",
        ),
        (
            ["protocol=tasks", "env=null", "scene=A"],
            "scene=A is no setting of protocol=tasks, which takes episodes_per_task, seed, tasks; "
            r"protocol=mtlc\|paraphrases\|lh_mtlc takes it",
        ),
    ],
)
def test_bad_input_is_one_line(
    overrides: list[str], says: str, chains: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says) as error:
        evaluate(tmp_path, *overrides)
    assert "\n" not in str(error.value)
