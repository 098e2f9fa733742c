"""Cluster profiles: the shipped ones load, tables change what they name, and mistakes are refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.errors import UserError
from slurm.profiles import FOLDER, Resources, load_profile, profile_names


@pytest.mark.parametrize("name", profile_names())
def test_a_shipped_profile_loads(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.for_stage("report").stages_per_job > 1


def test_the_example_names_every_field() -> None:
    text = (FOLDER / "example.toml").read_text()
    for field in Resources.__dataclass_fields__:
        assert re.search(rf"^(# )?{field} = ", text, flags=re.MULTILINE), field


def test_a_stages_table_changes_only_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('partition = "cpu"\nminutes = 90\nsetup = ["true"]\n[stages.adapt]\nminutes = 5\ngpus = 1\n')
    profile = load_profile(str(path))
    assert profile.for_stage("skills") == Resources(partition="cpu", minutes=90)
    assert profile.for_stage("adapt") == Resources(partition="cpu", minutes=5, gpus=1)
    assert profile.setup == ("true",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minuts = 5", "unknown field 'minuts': did you mean 'minutes'?"),
        ("[stages.adapt]\nsetup = []", "unknown field 'setup'"),
        ("minutes = 0", "minutes must be an integer from 1, got 0"),
        ("minutes = true", "minutes must be an integer from 1, got True"),
        ("gpus = -1", "gpus must be an integer from 0, got -1"),
        ("partition = 3", "partition must be text, got 3"),
        ("[stages.adapt]\nminutes = '5'", "stages.adapt.minutes must be an integer from 1, got '5'"),
        ("stages = 3", "stages must be tables"),
        ("setup = 'module load x'", "setup must be a list of shell lines"),
        ("max_restarts = -1", "max_restarts must be an integer from 0, got -1"),
        ("minutes = ", "is not TOML"),
    ],
)
def test_a_mistake_is_refused_and_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_profile(str(path))
    assert str(path) in str(error.value)


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown profile 'defalt': did you mean 'default'"):
        load_profile("defalt")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the profile .*none\.toml"):
        load_profile(str(tmp_path / "none.toml"))
