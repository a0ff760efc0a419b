"""The sentences: enough of them, each for one task, the held-out ones apart; files of others."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from telic.envs.playtable.instructions import GENERATED, Phrases, instructions, sentences
from telic.envs.playtable.rules import COLOURS, TASK_RULES


def test_every_task_has_sentences_of_its_own_to_train_on_and_to_be_asked_with() -> None:
    training, held_out = sentences(Phrases.training), sentences(Phrases.held_out)
    assert list(training) == list(held_out) == list(TASK_RULES)
    counts = Counter(
        text for part in (training, held_out) for all_ in part.values() for text in all_
    )
    assert max(counts.values()) == 1
    assert len(counts) == 34 * (16 + GENERATED + 3)
    for task in TASK_RULES:
        assert instructions(task) == training[task]
        assert all(t == t.strip().lower() and "{" not in t for t in training[task])
        for text in (*training[task][:16], *held_out[task]):
            named = [colour for colour in COLOURS if colour in text.split()]
            assert named == [colour for colour in COLOURS if colour in task.split("_")]


def test_opposites_are_told_apart() -> None:
    words = {"left": {"left", "leftward", "counterclockwise"}}
    words["right"] = {"right", "rightward", "clockwise"}
    for task in TASK_RULES:
        side = task.rpartition("_")[2]
        if side in words and task.startswith(("rotate", "push")):
            other = words["left" if side == "right" else "right"]
            for text in (*instructions(task)[:16], *instructions(task, Phrases.held_out)):
                assert words[side] & set(text.split()) and not other & set(text.split())


def test_none_of_the_sentences_is_one_of_calvin(shared: Path) -> None:
    theirs = sentences(language_file=str(shared / "data/calvin_lang_train.yaml"))
    known = {text.lower() for texts in theirs.values() for text in texts}
    ours = {text for phrases in Phrases for texts in sentences(phrases).values() for text in texts}
    assert len(known) == 389
    assert not known & ours


def test_a_language_file_is_read_as_it_is(tmp_path: Path) -> None:
    table = {task: [f"please {task}", "now"] for task in reversed(TASK_RULES)}
    file = tmp_path / "words.yaml"
    file.write_text(yaml.safe_dump(table))
    read = sentences(Phrases.held_out, str(file))
    assert list(read) == list(TASK_RULES)
    assert read["open_drawer"] == ("please open_drawer", "now")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"open_drawer": None}, "open_drawer is None, expected a list of sentences"),
        ({"open_drawer": "open it"}, "open_drawer is 'open it', expected a list of sentences"),
        ({"open_drawer": ["open", 3]}, "open_drawer has 3 among its sentences, expected text"),
        ({"open_drawer": []}, r"open_drawer is \[\], expected a list"),
        ({"open_draw": ["a"]}, "unknown task 'open_draw'; did you mean open_drawer"),
    ],
)
def test_bad_language_files_are_one_line(change: dict, says: str, tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text(yaml.safe_dump({task: ["do it"] for task in TASK_RULES} | change))
    with pytest.raises(ValueError, match=says) as error:
        sentences(language_file=str(file))
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_files_that_are_something_else_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    for text, says in (
        ("[a, b]", "is a list, expected task -> list of sentences"),
        ("a: [", "is not yaml"),
        ("open_drawer: [a]", "no sentences for rotate_red_block_right and 32 more"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=says) as error:
            sentences(language_file=str(file))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"nowhere\.yaml: cannot be read"):
        sentences(language_file="nowhere.yaml")
    with pytest.raises(ValueError, match="unknown PlayTable task 'opendrawer'; did you mean"):
        instructions("opendrawer")
