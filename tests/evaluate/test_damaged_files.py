"""What an evaluation reads back may be damaged anywhere: one line, and nothing else is lost."""

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from telic.envs.evaluation.episode_log import EpisodeLog
from telic.envs.evaluation.protocol import TaskProtocol
from telic.envs.evaluation.results import (
    Evaluation,
    read_comparable,
    read_evaluation,
    write_evaluation,
)
from telic.envs.rollout.collection_log import CollectionLog
from telic.envs.rollout.rollout import EpisodeResult

PROTOCOL = TaskProtocol(
    tasks=["arm7/raise", "arm7/lower"], episodes_per_task=3, seed=5, max_steps=10
)
EPISODES = [
    EpisodeResult(
        task=task,
        seed=seed,
        instruction="go",
        success=seed % 2 == 0,
        steps=seed,
        first_success_step=None if seed % 2 else seed,
        crashed=None,
        policy_latency_ms=[1.0, 2.5],
        wall_s=0.5,
    )
    for task in PROTOCOL.tasks
    for seed in (5, 6, 7)
]
KEYS = {(episode.task, episode.seed) for episode in EPISODES}
HEADER = {"protocol": "tasks", "seed": 5}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with EpisodeLog(tmp_path / "episodes.jsonl", HEADER, KEYS) as written:
        for episode in EPISODES:
            written.append(episode)
    return tmp_path / "episodes.jsonl"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"a": 1}', "'a' is no entry of EpisodeResult"),
        ("[]", r"\[\] is no EpisodeResult"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "recursion"),
        (json.dumps(asdict(EPISODES[0]) | {"seed": "5"}), "seed='5' cannot be in EpisodeResult"),
        (json.dumps(asdict(EPISODES[0]) | {"success": 1}), "success=1 cannot be in"),
        (json.dumps(asdict(EPISODES[0]) | {"wall_s": float("nan")}), "wall_s=nan cannot be in"),
        (
            json.dumps(asdict(EPISODES[0]) | {"seed": 99}),
            "arm7/raise, seed 99 is not of this evaluat",
        ),
    ],
)
def test_a_damaged_line_costs_its_own_episode(log: Path, line: str, why: str) -> None:
    lines = log.read_text().splitlines()
    lines[3] = line
    log.write_text("\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match=f"episodes.jsonl line 4 is left out: .*{why}"):
        found = EpisodeLog(log, HEADER, KEYS).finished
    assert [episode.seed for episode in found] == [5, 6, 5, 6, 7]


def test_an_episode_told_twice_counts_once(log: Path) -> None:
    log.write_text(log.read_text() + log.read_text().splitlines()[2] + "\n")
    assert len(EpisodeLog(log, HEADER, KEYS).finished) == len(EPISODES)


@pytest.mark.parametrize("first", ['{"a": 1}', "[3]", "{", '{"evaluation": 3}', "\x00\x01"])
def test_a_damaged_first_line_is_not_gone_on_with(log: Path, first: str) -> None:
    lines = [first, *log.read_text().splitlines()[1:]]
    log.write_text("\n".join(lines))
    before = log.read_bytes()
    with pytest.raises(ValueError, match=r"overwrite=true replaces what .* holds"):
        EpisodeLog(log, HEADER, KEYS)
    assert log.read_bytes() == before


def flipped(whole: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a file with one of them, or five, in place of others."""
    spoiled = bytearray(whole)
    for _ in range(rng.choice([1, 1, 5])):
        spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
    return bytes(spoiled)


@pytest.mark.filterwarnings("ignore:.*is left out")
def test_a_log_with_any_bytes_flipped_opens_or_ends_in_one_line(log: Path) -> None:
    whole, rng = log.read_bytes(), random.Random(0)
    for _ in range(300):
        log.write_bytes(flipped(whole, rng))
        try:
            found = EpisodeLog(log, HEADER, KEYS).finished
        except ValueError as error:
            assert "\n" not in str(error) and str(log) in str(error)
        else:
            assert {(e.task, e.seed) for e in found} <= KEYS and len(found) <= len(EPISODES)


def test_a_results_file_with_any_bytes_flipped_is_read_or_ends_in_one_line(tmp_path: Path) -> None:
    write_evaluation(Evaluation(policy="x", protocol=PROTOCOL, episodes=EPISODES), None, tmp_path)
    file, rng = tmp_path / "results.json", random.Random(0)
    whole = file.read_bytes()
    assert read_comparable(tmp_path, PROTOCOL).episodes == [
        EpisodeResult(**asdict(e) | {"policy_latency_ms": []}) for e in EPISODES
    ]
    for _ in range(300):
        file.write_bytes(flipped(whole, rng))
        try:
            read_comparable(tmp_path, PROTOCOL).rows()
        except ValueError as error:
            assert "\n" not in str(error) and str(tmp_path) in str(error)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"episodes": 3}, "videos and episodes are not what they must be"),
        ({"episodes": [{"a": 1}]}, "damaged: 'a' is no entry of EpisodeResult"),
        ({"protocol": 3}, "protocol=3 is none"),
        ({"protocol": {"protocol": "tasks", "tasks": "mt10"}}, "tasks='mt10' cannot be in"),
        ({"policy": None}, "policy=None"),
        ({"chunk_latency_ms": {"median": "fast"}}, "median='fast' cannot be"),
        ({"format": "telic-evaluation 2"}, "format is 'telic-evaluation 2', expected"),
    ],
)
def test_results_that_cannot_be_are_one_line(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    write_evaluation(Evaluation(policy="x", protocol=PROTOCOL, episodes=EPISODES), None, tmp_path)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=says) as refused:
        read_evaluation(tmp_path)
    assert str(file) in str(refused.value)
    file.write_text("[3]")
    with pytest.raises(ValueError, match="format is None"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"a": 1}', "line 2: 'a' is no entry of Attempt; pass overwrite=true"),
        ("[1]", r"line 2: is \[1\], no attempt; pass overwrite=true"),
        ('{"task": "t", "number": 0, "seed": 1, "outcome": "won"}', "outcome='won' is none"),
    ],
)
def test_a_damaged_collection_log_is_one_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "demos.zarr.collect.jsonl"
    path.write_text(f'{{"seed": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=says):
        CollectionLog.resume(path, {"seed": 1}, 0)
    path.write_text("[]\n{}\n")
    with pytest.raises(ValueError, match=r"line 1: is \[\], no attempt"):
        CollectionLog.resume(path, {"seed": 1}, 0)
