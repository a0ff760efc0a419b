"""What a user types is what a key of text holds; what is recorded can be typed again."""

import shlex
import subprocess
from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from telic.configs.launch import USER_ERRORS, compose, one_line
from telic.configs.words import as_hydra, command_line, key_types, sweeps, text_of, word
from telic.control import ControlConfig
from telic.evaluate import EvaluateConfig
from telic.policy.inference_config import SamplingChoice


@dataclass(kw_only=True)
class Inner:
    title: str | None = None
    cameras: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Config:
    goal: str = ""
    count: int = 1
    stores: list[str] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)


def read(*arguments: str) -> Any:
    """Return the config that a command line gives, read by Hydra's own parser."""
    config = OmegaConf.structured(Config)
    for override in OverridesParser.create().parse_overrides(as_hydra(arguments, Config)):
        assert not override.is_sweep_override()
        OmegaConf.update(config, override.key_or_group, override.value())
    return OmegaConf.to_object(config)


PLAIN = [
    "what's there",
    "open (the) drawer",
    "Öffne die Schublade",
    "a=b",
    "move it, then (maybe) stop",
    "first: look; then: go",
    'say "now"',
    "C:\\demos\\",
    "  padded  ",
    "",
    " ",
    "true",
    "1e3",
    "010",
    "[a]",
    "{a:b}",
    "choice(a,b)",
    "str(3)",
    "50 % of $5 @ 3*2 + ~x ? |",
    "'one' and 'two'",
    "it's",
    "'",
    '"',
    "\\",
    "two\nlines",
    "cost ${",
    "青いブロック 🤖",
    "-m",
]


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_is_what_it_looks_like(text: str) -> None:
    config = read(f"goal={text}", f"inner.title={text}")
    assert (config.goal, config.inner.title) == (text, text)


UNLISTED = ("", " ", "  padded  ", "'one' and 'two'")  # blanks are stripped, commas part entries


@pytest.mark.parametrize("text", [t for t in PLAIN if t not in UNLISTED and "," not in t])
def test_a_list_of_plain_text_is_what_it_looks_like(text: str) -> None:
    config = read(f"stores=[{text}, other.zarr]", f"inner.cameras=['a,b',{text}]")
    assert config.stores == [text, "other.zarr"]
    assert config.inner.cameras == ["a,b", text]
    assert read("stores=[]").stores == []


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("goal='quoted, by hand'", "quoted, by hand"),
        ('goal="it\'s"', "it's"),
        ("goal=${inner.title}", "from there"),
        ("goal='${inner.title}, and more'", "from there, and more"),
        ("goal=what's in ${inner.title}", "what's in from there"),
        ("goal=\\${inner.title}", "${inner.title}"),
    ],
)
def test_what_hydra_reads_is_kept(argument: str, expected: str) -> None:
    assert read("inner.title=from there", argument).goal == expected
    assert read("inner.title=null").inner.title is None


def test_with_m_a_comma_separates_what_is_swept() -> None:
    def values(argument: str) -> list[str]:
        (text,) = as_hydra(["-m", argument], Config)[1:]
        override = OverridesParser.create().parse_override(text)
        return [
            getattr(value, "text", value)
            for value in override.sweep_iterator(transformer=lambda value: value)
        ]

    assert values("goal=a,b c") == ["a", "b c"]
    assert values("goal=what's there,open (the) drawer") == ["what's there", "open (the) drawer"]
    assert as_hydra(["-m", "goal=range(1,3)"], Config)[1] == "goal=range(1,3)"
    assert as_hydra(["-m", "count=1,2"], Config)[1] == "count=1,2"
    assert sweeps(["-m", "goal=a,b", "count=1"], "goal")
    assert not sweeps(["-m", "goal=a,b", "count=1"], "count")
    assert not sweeps(["-m", "goal='a,b'"], "goal")


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
@example("\\${")
@example("${a} \\")
@example("\\\\'${")
@settings(max_examples=300, deadline=None)
def test_any_text_that_is_recorded_comes_back(text: str) -> None:
    config = read(f"goal={word(text)}", f"inner.title={word(text)}", f"stores={word([text, text])}")
    if text != "???":  # OmegaConf's word for what is missing
        assert (config.goal, config.inner.title, config.stores) == (text, text, [text, text])


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0$"), max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_that_is_typed_is_read(text: str) -> None:
    typed = text.strip()
    quoted = len(typed) > 1 and typed[0] == typed[-1] and typed[0] in ("'", '"')
    if not quoted and typed.lower() not in ("null", "???"):
        assert read(f"goal={text}").goal == text


@pytest.mark.parametrize(
    ("typed", "text"),
    [("null", None), ("it's (b)", "it's (b)"), ("'it\\'s'", "it's"), ("a', 'b'", "a', 'b'")],
)
def test_what_is_typed_for_a_key_of_text_can_be_asked(typed: str, text: str | None) -> None:
    assert text_of(typed) == text


def test_keys_without_text_are_left_to_hydra() -> None:
    given_ = ["count=3", "--cfg", "job", "stores=x", "experiment=debug", "~inner", "+x=1"]
    assert as_hydra(given_, Config) == given_
    assert as_hydra(["count=3)", "new.key=it's"], Config) == ["count='3)'", "new.key='it\\'s'"]
    assert list(key_types(Config)) == ["goal", "count", "stores", "inner", "inner.title",
                                       "inner.cameras"]  # fmt: skip


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
@example("null")
@example("'quoted'")
@example("${a}")
@settings(max_examples=200, deadline=None)
def test_any_text_in_a_recorded_command_comes_back(text: str) -> None:
    _, *words = shlex.split(command_line("run", {"goal": text, "stores": [text]}))
    config = read(*words)
    if text != "???":
        assert (config.goal, config.stores) == (text, [text])


def test_a_recorded_command_is_as_it_would_be_typed() -> None:
    line = command_line("run", {"sampling": "2", "out": "a=b (c)", "tasks": ["mt10"], "count": 1})
    assert line == "run sampling=2 'out=a=b (c)' 'tasks=[mt10]' count=1"


def test_a_recorded_command_is_the_same_config_again() -> None:
    """Through a real shell: what it splits the line into composes to what was recorded."""
    changed = {
        "checkpoint": "runs/it's (the) best=1/ö ${x}",
        "out": "a=b, c",
        "tasks": ["mt10", "metaworld/reach-v3"],
        "episodes_per_task": 1,
        "max_steps": None,
        "resume": False,
        "threads": 2,
        "temperature": 0.5,
    }
    line = command_line("evaluate-policy", changed)
    print_words = f"printf '%s\\0' {line}"
    split = subprocess.run(["bash", "-c", print_words], capture_output=True, text=True, check=True)
    _, *words = split.stdout.split("\0")[:-1]
    assert words == shlex.split(line)[1:]
    config = compose(EvaluateConfig, "evaluate", words)
    assert {key: getattr(config, key) for key in changed} == changed


def test_a_value_for_a_group_is_that_of_its_shorthand() -> None:
    given_ = ["checkpoint=a", "sampling=2", "sampling.sampler=ddim"]
    assert as_hydra(given_, EvaluateConfig)[1] == "sampling.preset='2'"
    config = compose(EvaluateConfig, "evaluate", given_)
    assert config.sampling == SamplingChoice(preset="2", sampler="ddim")
    assert as_hydra(["sampling=null"], EvaluateConfig) == ["sampling.preset=null"]
    assert as_hydra(["-m", "sampling=2,5"], EvaluateConfig)[1] == "sampling.preset=2,5"
    whole = compose(EvaluateConfig, "evaluate", ["checkpoint=a", "sampling={steps: 3}"])
    assert whole.sampling == SamplingChoice(steps=3)


def test_a_sampler_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(USER_ERRORS) as refused:
        compose(EvaluateConfig, "evaluate", ["checkpoint=a", "sampling.sampler=huen"])
    assert one_line(refused.value, EvaluateConfig) == (
        "sampling.sampler=huen is not one of euler, ddim, heun, dpmpp_2m, euler_ancestral, ddpm, "
        "dpmpp_2m_sde; did you mean heun?"
    )


@pytest.mark.parametrize(
    ("schema", "name"), [(EvaluateConfig, "evaluate"), (ControlConfig, "control")]
)
def test_one_thing_of_the_sampling_is_chosen(schema: type[Any], name: str) -> None:
    config = compose(schema, name, ["checkpoint=a", "sampling.sampler=heun", "sampling.steps=3"])
    assert config.sampling == SamplingChoice(sampler="heun", steps=3)
