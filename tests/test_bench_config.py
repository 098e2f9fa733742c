"""Resolution of configuration: default, preset, command line; and what is refused."""

from __future__ import annotations

import pytest
import yaml

from bench.config import Override, check_override_names, resolve_config, split_overrides, yaml_text
from bench.errors import UserError
from tests.toy import FitConfig

CLASSES = {"fit": FitConfig}


def test_overrides_are_separated_in_all_three_forms() -> None:
    others, overrides = split_overrides(
        ["run", "--algo", "a", "--fit.learning_rate", "1e-3", "--fit.updates=7", "fit.clip=-1", "--seed", "0"]
    )
    assert others == ["run", "--algo", "a", "--seed", "0"]
    assert overrides == (
        Override("fit.learning_rate", "1e-3"),
        Override("fit.updates", "7"),
        Override("fit.clip", "-1"),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fit.updates"], "needs a value"),
        (["--fit.updates", "--seed"], "needs a value"),
        (["fit.updates=1", "fit.updates=2"], "given twice"),
    ],
)
def test_incomplete_and_repeated_overrides_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_overrides(arguments)


def test_the_command_line_wins_over_the_preset_and_the_preset_over_the_default() -> None:
    preset = {"fit.updates": 10, "fit.learning_rate": 1, "other.updates": 99}
    config = resolve_config(FitConfig, "fit", preset, [Override("fit.updates", "20")], "quick")
    assert (config.updates, config.learning_rate, config.kind) == (20, 1.0, "linear")
    assert type(config.learning_rate) is float


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("fit.updates", "many", "fit.updates: expected a whole number, got 'many'"),
        ("fit.updates", "-5", "fit.updates: expected a whole number from 0"),
        ("fit.updates", "1e15", "fit.updates: expected a whole number from 0"),
        ("fit.pause_seconds", "nan", "fit.pause_seconds: expected a finite number"),
        ("fit.kind", "tnah", "did you mean 'tanh'"),
        ("fit.learning_rate", "0", "fit: learning_rate must be above 0"),
    ],
)
def test_bad_values_are_refused_in_one_line(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve_config(FitConfig, "fit", {}, [Override(name, text)], "quick")
    assert "\n" not in str(caught.value)


def test_a_bad_preset_names_itself() -> None:
    with pytest.raises(UserError, match=r"fit.updates: .* \(from preset 'odd'\)"):
        resolve_config(FitConfig, "fit", {"fit.updates": "few"}, [], "odd")


def test_an_unknown_field_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown field 'fit.learning_rat': did you mean 'fit.learning_rate'"):
        check_override_names([Override("fit.learning_rat", "1")], CLASSES)
    with pytest.raises(UserError, match=r"did you mean 'fit.updates'"):
        check_override_names([Override("fitt.updates", "1")], CLASSES)


def test_the_written_yaml_holds_the_same_values() -> None:
    config = FitConfig(learning_rate=1e-5, widths=(8, 16), kind="tanh")
    content = yaml.safe_load(yaml_text({"fit": config}))
    assert content["fit"]["learning_rate"] == 1e-5
    assert content["fit"]["widths"] == [8, 16]
    assert content["fit"]["clip"] is None
    assert content["fit"]["nesterov"] is False
    assert content["fit"]["kind"] == "tanh"
