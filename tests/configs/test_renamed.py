"""Keys that are called otherwise now are read by their old names, and said."""

import pytest

from telic.configs.launch import compose
from telic.configs.renamed import KEYS, with_new_names
from telic.evaluate import EvaluateConfig
from telic.train import TrainConfig


def test_an_old_key_is_read_and_the_new_one_said() -> None:
    with pytest.warns(UserWarning, match="^numbers is called precision now: precision="):
        config = compose(EvaluateConfig, "evaluate", ["checkpoint=a", "numbers=packed"])
    assert config.precision == "fp32_packed"


def test_an_old_setting_of_a_policy_is_read() -> None:
    given = ["data.stores=[a]", "policy/formulation=ddpm", "policy.formulation.answer=v"]
    with pytest.warns(UserWarning, match="prediction_type=v_prediction"):
        config = compose(TrainConfig, "train", given)
    assert config.policy.formulation.prediction_type.value == "v_prediction"  # type: ignore[union-attr]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("before", ["", "+", "evaluate.", "train."])
def test_stages_of_a_recipe_keep_theirs(before: str, key: str) -> None:
    with pytest.warns(UserWarning, match="is called"):
        assert with_new_names([f"{before}{key}=x"]) == [f"{before}{KEYS[key]}=x"]


@pytest.mark.parametrize("argument", ["precision=int8", "-m", "goal=numbers=3", "number=3"])
def test_all_else_is_left_alone(argument: str) -> None:
    assert with_new_names([argument]) == [argument]
