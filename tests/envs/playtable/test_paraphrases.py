"""The bank and the grammar share no template; each sentence is of one task, sides and colours as
they should be; `evaluate-policy protocol=paraphrases` on a table of symbols."""

import json
import re
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telic.configs.launch import compose
from telic.envs.evaluation.paraphrase import ParaphraseProtocol
from telic.envs.evaluation.protocol import ProtocolSettings
from telic.envs.evaluation.results import read_evaluation
from telic.envs.evaluation.statistics import paired_difference, wilson_interval
from telic.envs.playtable.grammar import generated, grammar, templates
from telic.envs.playtable.instructions import GENERATED, Phrases, sentences
from telic.envs.playtable.paraphrases import (
    AXES,
    BANK,
    DEVELOPMENT,
    DIFFICULTIES,
    drawn,
    paraphrases,
)
from telic.envs.playtable.rules import COLOURS, SIDES, TASK_RULES
from telic.envs.playtable.slots import TURNS, in_order, members
from telic.evaluate import EvaluateConfig, run

# of the bank and the development set, which the grammar does not know
NOUNS = [
    "object",
    "item",
    "piece of wood",
    "toy",
    "chunk",
    "lump",
    "tray",
    "sliding box of the table",
    "sliding box",
    "worktop",
    "compartment under the tabletop",
    "storage box below the desk",
    "box beneath the worktop",
    "tabletop",
    "sliding cover",
    "shutter of the cabinet",
    "shutter",
    "front of the cupboard",
    "screen before the shelf",
    "wooden screen",
    "cupboard",
    "rack",
    "yellow lantern",
    "lantern",
    "round lamp",
    "glass globe",
    "yellow globe",
    "globe",
    "green indicator",
    "small diode",
    "diode",
    "green signal",
    "signal",
    "button",
    "die",
    "dice",
    "bit of timber",
    "solid",
    "pull-out",
    "bin",
    "bench",
    "case",
    "beacon",
    "alcove",
    "locker",
    "light source",
    "pilot light",
]


def words_outside_slots(text: str) -> str:
    """Return the text with nouns, colours and sides as one sign, without commas."""
    words = [noun for all_ in grammar()["nouns"].values() for noun in all_] + NOUNS
    words = [*words, *(f"{word}s" for word in NOUNS), "blocks", *grammar()["nouns"]]
    sides = [side + ward for side in SIDES for ward in ("", "ward")]
    words = [*words, *COLOURS, *sides, *TURNS.values()]
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    text = re.sub(r"\{\w+\}(ward)?", "_", text.replace(",", ""))
    text = re.sub(rf"\b({'|'.join(longest_first)})\b", "_", text)
    return re.sub(r"_( _)+", "_", text)


@pytest.fixture(scope="module")
def trained() -> set[str]:
    """Return what is outside of slots of every sentence that the grammar or the file can give."""
    texts = {
        words_outside_slots(t.text) for family in grammar()["tasks"] for t in templates(family)
    }
    return texts | {words_outside_slots(t) for all_ in sentences().values() for t in all_}


@pytest.mark.parametrize("file", [BANK, DEVELOPMENT])
def test_nothing_trained_on_shares_a_template_with_what_is_held_out(
    file: str, trained: set[str]
) -> None:
    held_out = {each.text for all_ in paraphrases(file).values() for each in all_}
    shared = {text for text in held_out if words_outside_slots(text) in trained}
    assert not shared


def test_the_words_outside_of_slots_are_found() -> None:
    assert words_outside_slots("push the red cube leftward, please") == "push the _ please"
    assert words_outside_slots("push the {colour} {block} {side}ward") == "push the _"


def test_every_task_has_many_sentences_and_no_sentence_two_tasks() -> None:
    texts = [text for all_ in sentences().values() for text in all_]
    texts += [text for all_ in sentences(Phrases.held_out).values() for text in all_]
    for file in (BANK, DEVELOPMENT):
        texts += [each.text for all_ in paraphrases(file).values() for each in all_]
    assert [text for text, count in Counter(texts).items() if count > 1] == []
    for task in TASK_RULES:
        assert len(sentences()[task]) == 16 + GENERATED >= 64
        of_cell = Counter((each.axis, each.difficulty) for each in paraphrases()[task])
        assert of_cell == {(axis, level): 2 for axis in AXES for level in DIFFICULTIES}
    many = generated(200)
    assert {task: len(set(texts)) for task, texts in many.items()} == dict.fromkeys(TASK_RULES, 200)
    assert len(set(chain(*many.values()))) == 34 * 200
    assert generated(200, seed=1) != many == generated(200)


def test_none_is_one_of_calvin(shared: Path) -> None:
    theirs = sentences(language_file=str(shared / "data/calvin_lang_train.yaml"))
    known = {text.lower() for texts in theirs.values() for text in texts}
    ours = {each.text for all_ in paraphrases().values() for each in all_}
    assert not known & (ours | set(chain(*generated(GENERATED).values())))


def test_templates_name_the_task_s_own_colour_and_side() -> None:
    for family in grammar()["tasks"]:
        coloured, sided = "{colour}" in family, "{side}" in family
        for template in templates(family):
            slots = set(re.findall(r"\{(\w+)\}", template.text)) - set(grammar()["nouns"])
            if template.kind in ("do", "is", "doing", "else") and coloured:
                assert "colour" in slots, template
            if template.kind in ("do", "is", "doing"):
                assert not slots & {"other", "third"}, template
            if template.kind in ("do", "doing") and sided and family != "move_slider_{side}":
                assert not slots & {"opposite", "unturn"}, template
            if sided:
                assert slots & {"side", "turn", "opposite", "unturn"}, template
            literal = set(re.sub(r"\{\w+\}", "", template.text).split())
            assert not literal & {*COLOURS, *SIDES, *TURNS.values()}, template


@pytest.mark.parametrize("file", [BANK, DEVELOPMENT, "grammar"])
def test_sides_and_colours_swap_between_the_tasks_of_a_family(file: str) -> None:
    if file == "grammar":
        texts = generated(GENERATED)
    else:
        texts = {task: tuple(e.text for e in all_) for task, all_ in paraphrases(file).items()}
    for family in grammar()["tasks"]:
        (first, words), *others = members(family).items()
        for task, other_words in others:
            swapped = [_with(text, words, other_words) for text in texts[first]]
            assert swapped == list(texts[task])


def _with(text: str, words: dict[str, str], others: dict[str, str]) -> str:
    """Return the text with the words of one task replaced by those of another."""
    known = dict(zip(words.values(), others.values(), strict=True))
    return re.sub(r"[a-z]+?(?=ward\b|\b)", lambda found: known.get(found[0], found[0]), text)


def test_families_and_tasks_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pull_\{colour\}_block: pull_red_block is no task"):
        members("pull_{colour}_block")
    with pytest.raises(ValueError, match="no sentences for rotate_red_block_right, expected all"):
        in_order(["open_drawer"])


def test_ten_starts_meet_every_paraphrase_once() -> None:
    for task in ("open_drawer", "push_pink_block_left"):
        told = [each for index in range(10) for each in drawn(task, index)]
        assert Counter(told) == Counter(paraphrases()[task])
        assert [each.difficulty for each in told[:3]] == list(DIFFICULTIES)
        assert drawn(task, 3) == drawn(task, 13)


def test_a_start_is_the_same_in_all_four_ways() -> None:
    protocol = ParaphraseProtocol.from_settings(
        ProtocolSettings(protocol="paraphrases", episodes_per_task=2, seed=50)
    )
    jobs = [job for job in protocol.jobs() if job.task == "playtable/open_drawer"]
    assert [job.seed for job in jobs] == list(range(50, 58))
    assert [job.start_seed for job in jobs] == [50] * 4 + [51] * 4
    assert jobs[0].instruction == jobs[4].instruction == sentences()["open_drawer"][0]
    assert [job.instruction for job in jobs[5:]] == [e.text for e in drawn("open_drawer", 1)]
    assert len(protocol.jobs()) == protocol.num_episodes == 34 * 2 * 4


def evaluate(out: Path, *overrides: str) -> dict[str, Any]:
    """Return what the command gives for the experts on the table of symbols."""
    given = [f"out={out}", "checkpoint=expert", "protocol=paraphrases", "num_workers=0"]
    return run(compose(EvaluateConfig, "evaluate", [*given, *overrides]))


def test_the_table_has_axes_and_difficulties_against_the_training(
    chains: str, tmp_path: Path
) -> None:
    given = ["env='symbolic_table:symbolic'", "episodes_per_task=1", "max_steps=6"]
    result = evaluate(tmp_path, *given)
    assert [row["episodes"] for row in result["per_difficulty"].values()] == [34] * 3
    assert result["overall"]["episodes"] == 34 * 3
    assert result["per_axis"]["training"]["episodes"] == 34
    axes = {axis: row["episodes"] for axis, row in result["per_axis"].items()}
    assert sum(axes[axis] for axis in AXES) == 34 * 3
    cells = result["per_axis_and_difficulty"]
    assert sum(cells[f"verb, {level}"]["episodes"] for level in DIFFICULTIES) == axes["verb"]
    done = sum(e["success"] for e in result["episodes"] if (e["seed"] - 200_000) % 4)
    assert result["overall"]["interval"] == list(wilson_interval(done, 102))
    by_way: dict[int, list[bool]] = {way: [] for way in range(4)}
    for episode in result["episodes"]:
        by_way[(episode["seed"] - 200_000) % 4].append(episode["success"])
    for way, level in enumerate(DIFFICULTIES, start=1):
        told = result["minus_training"][level]
        pair = paired_difference(by_way[way], by_way[0])
        assert (told["pairs"], told["difference"]) == (34, pair.difference)
        assert tuple(told["interval"]) == pair.interval
    report = (tmp_path / "report.md").read_text()
    assert "## Against training sentences" in report and "| verb_object |" in report
    assert "paraphrases, 34 tasks x 1 starts x 4 sentences" in report
    read = json.loads(json.dumps(read_evaluation(tmp_path).to_json()))
    assert read == {name: value for name, value in result.items() if name != "comparison"}


def test_a_loss_by_axis_is_that_of_its_pairs(tmp_path: Path) -> None:
    protocol = ParaphraseProtocol.from_settings(
        ProtocolSettings(protocol="paraphrases", episodes_per_task=10)
    )
    rng = np.random.default_rng(0)
    outcomes = [o for job in protocol.jobs() for o in _outcomes(protocol, job, rng)]
    trained = {o.start: o.success for o in outcomes if o.row == "training"}
    hard = [o for o in outcomes if o.row == "hard"]
    assert len(trained) == len(hard) == 340
    assert {o.start for o in hard} == set(trained)
    assert Counter(o.row for o in outcomes)["antonym"] == 34 * 6


def _outcomes(protocol: ParaphraseProtocol, job: Any, rng: np.random.Generator) -> list[Any]:
    from telic.envs.rollout.rollout import EpisodeResult

    return protocol.outcomes(
        EpisodeResult(
            task=job.task,
            seed=job.seed,
            instruction=job.instruction,
            success=bool(rng.integers(2)),
            steps=3,
            first_success_step=None,
            crashed=None,
            policy_latency_ms=[],
            wall_s=0.0,
        )
    )


def test_what_the_protocol_does_not_take_is_one_line() -> None:
    with pytest.raises(ValueError, match="language_file=a is no setting of protocol=paraphrases"):
        EvaluateConfig(checkpoint="expert", protocol="paraphrases", language_file="a")
