"""Tables: their numbers rebuilt from the rows, the paper's curves and the files they are collected from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from bench.reporting.inputs import load_inputs
from bench.reporting.model import ReportInputs, ReportTable, Value
from bench.reporting.tables import make_tables
from bench.reporting.tables.cost import TOTAL, cost_tables
from bench.reporting.tables.deviations import deviation_tables, differences
from bench.reporting.tables.hyperparameters import VARIES, hyperparameter_tables
from bench.reporting.tables.offline_models import offline_model_tables
from bench.reporting.tables.scores import score_tables
from tests.conftest import ROOT
from tests.statistics_helpers import write_run

SHIPPED = ROOT / "results" / "runs"
ENVS = ("maze", "kitchen")


@pytest.fixture(scope="module")
def shipped() -> ReportInputs:
    """The first twelve runs that shipped: what is expected of them does not change when others come."""
    pairs = [f"{algo}-{env}-quick-s{seed}" for algo in ("simpl", "spirl") for env in ENVS for seed in range(3)]
    return load_inputs([SHIPPED / name for name in pairs])


def table_named(tables: tuple[ReportTable, ...], name: str) -> ReportTable:
    (found,) = [table for table in tables if table.name == name]
    return found


def records(table: ReportTable) -> list[dict[str, Value]]:
    return [dict(zip([column.label for column in table.columns], row, strict=True)) for row in table.rows]


def rows_of(pattern: str) -> pd.DataFrame:
    """Rows of the shipped runs, read without the code under test."""
    return pd.concat([pd.read_parquet(path) for path in sorted(SHIPPED.glob(f"{pattern}/episodes.parquet"))])


def test_every_table_has_all_forms(shipped: ReportInputs) -> None:
    made = make_tables(shipped)
    assert made.missing == ()
    assert [table.name for table in made.items] == [
        "across-quick", "scores-kitchen-quick", "scores-maze-quick", "budgets-kitchen-quick", "budgets-maze-quick",
        "cost-kitchen-quick", "cost-maze-quick", "offline-models-kitchen-quick", "offline-models-maze-quick",
        "rliable", "hyperparameters-simpl", "hyperparameters-spirl", "deviations",
    ]  # fmt: skip
    for table in made.items:
        assert len(table.to_markdown().splitlines()) == len(table.rows) + 2
        assert len(pd.read_csv(pd.io.common.StringIO(table.to_csv()))) == len(table.rows)
        assert table.to_latex().count(r"\\") >= len(table.rows) + 1


def test_skill_models_are_judged_before_any_reward_one_row_for_each(shipped: ReportInputs) -> None:
    """SiMPL and SPiRL of a seed share theirs, so six runs have three."""
    table = table_named(offline_model_tables(shipped).items, "offline-models-maze-quick")
    manifests = [
        next(stage["manifest"] for stage in json.loads(path.read_text())["stages"] if stage["name"] == "skills")
        for path in sorted(SHIPPED.glob("spirl-maze-quick-s[012]/run.json"))
    ]
    assert [(row["stage"], row["seed"]) for row in records(table)] == [("skills", 0), ("skills", 1), ("skills", 2)]
    for row, manifest in zip(records(table), manifests, strict=True):
        assert {name: row[name] for name in manifest["metrics"]} == manifest["metrics"]
    (missing,) = offline_model_tables(load_inputs([SHIPPED / "sac-maze-quick-s0"])).missing
    assert missing.startswith("models of offline data on maze, quick: no run learned one")


@pytest.mark.parametrize("env", ["maze", "kitchen"])
def test_scores_are_those_of_the_rows_and_of_the_paper(shipped: ReportInputs, env: str) -> None:
    table = table_named(score_tables(shipped).items, f"scores-{env}-quick")
    paper = pd.read_csv(ROOT / "results/paper/figure4_curves.csv")
    episodes = {"maze": (20, 50, 100, 200), "kitchen": (20, 50, 100)}[env]
    assert [(line["algorithm"], line["episodes"]) for line in records(table)] == [
        (algo, f"{stop - 10}-{stop}") for algo in ("simpl", "spirl") for stop in episodes
    ]
    for line in records(table):
        start, stop = map(int, str(line["episodes"]).split("-"))
        rows = rows_of(f"{line['algorithm']}-{env}-quick-s*")
        rows = rows[rows["phase"].isin(["explore", "adapt"]) & (rows["episode"] >= start) & (rows["episode"] < stop)]
        mean = rows["return"].mean()
        assert line["mean"] == pytest.approx(mean, abs=1e-9)
        assert line["mean, low"] <= mean <= line["mean, high"]  # type: ignore[operator]
        assert (line["seeds"], line["tasks"]) == (3, 10)
        name = {"simpl": "SiMPL", "spirl": "SPiRL"}[str(line["algorithm"])]
        at = paper[(paper["domain"] == env) & (paper["algorithm"] == name)]
        at = at[(at["episode"] >= start) & (at["episode"] < stop)]["mean"]
        if len(at):
            assert line["paper"] == pytest.approx(at.mean(), abs=1e-9)
            assert line["mean - paper"] == pytest.approx(mean - at.mean(), abs=1e-9)
        else:
            assert line["paper"] is None and line["mean - paper"] is None


def test_one_seed_has_no_interval_and_the_caption_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "one", [0.5, 1.0], episodes=25)
    (table,) = score_tables(load_inputs([tmp_path])).items
    (line,) = records(table)
    assert (line["mean"], line["mean, low"], line["mean, high"]) == (0.75, None, None)
    assert (line["IQM"], line["IQM, low"], line["IQM, high"]) == (0.75, None, None)
    assert "a, 10-20: one seed: no interval" in table.caption


def test_runs_too_short_for_any_score_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "short", [0.5], episodes=5)
    made = score_tables(load_inputs([tmp_path]))
    assert made.missing == ("scores on e, quick: no run completed 20 episodes of a target task",)


def test_costs_are_those_of_the_runs(shipped: ReportInputs) -> None:
    lines = {(line["algorithm"], line["stage"]): line for line in records(cost_tables(shipped).items[1])}
    stages = [json.loads(path.read_text())["stages"] for path in sorted(SHIPPED.glob("simpl-maze-quick-*/run.json"))]
    for index, stage in enumerate(["data", "skills", "meta_train", "adapt"]):
        hours = [own[index]["seconds"] / 3600 for own in stages]
        line = lines["simpl", stage]
        assert (line["core-hours"], line["lowest"], line["highest"]) == pytest.approx(
            (sum(hours) / 3, min(hours), max(hours))
        )
        assert line["runs"] == 3
    total = sum(stage["seconds"] for own in stages for stage in own) / 3 / 3600
    assert lines["simpl", TOTAL]["core-hours"] == pytest.approx(total)
    # Lengths of episodes, not the running count of env_steps that the table is made from.
    lengths = rows_of("simpl-maze-quick-s*").groupby("stage")["length"].sum() / 3
    assert lines["simpl", "meta_train"]["env_steps"] == pytest.approx(lengths["meta_train"])
    assert lines["simpl", "adapt"]["env_steps"] == pytest.approx(lengths["adapt"])
    assert lines["simpl", "skills"]["env_steps"] is None


def test_hyperparameters_have_the_values_that_were_used_and_their_sources(shipped: ReportInputs) -> None:
    table = table_named(hyperparameter_tables(shipped).items, "hyperparameters-spirl")
    lines = {str(line["field"]): line for line in records(table)}
    config = (SHIPPED / "spirl-maze-quick-s1" / "config.yaml").read_text()
    adapt = config.partition("adapt:\n")[2]
    assert lines["adapt.learning_rate"]["maze, quick"] == re.findall(r"  learning_rate: (\S+)", adapt)[0]
    assert lines["adapt.clip_targets"]["kitchen, quick"] == "yes"
    assert lines["data.source"]["maze, quick"] is None  # the maze's data has no such field
    assert "paper: 3e-4" in str(lines["adapt.learning_rate"]["source"])
    assert VARIES not in {line["maze, quick"] for line in lines.values()}


def test_a_field_that_seeds_do_not_share_varies(tmp_path: Path) -> None:
    for seed in (0, 1):
        key = {"config": {"rate": 0.5, "inner": {"seed": seed}}}
        stages = [{"name": "fit", "done": True, "seconds": 1.0, "artefact": "fit-x", "manifest": {"key": key}}]
        write_run(tmp_path / f"s{seed}", [1.0], seed=seed, stages=stages, algo="spirl", env="maze")
    made = hyperparameter_tables(load_inputs([tmp_path]))
    (table,) = made.items
    assert made.missing == ()
    assert table.rows == (("fit.rate", "0.5", ""), ("fit.inner.seed", VARIES, ""))


def test_values_without_sources_say_why(tmp_path: Path) -> None:
    manifest = {"key": {"config": {"rate": 0.5}}}
    stages = [{"name": "fit", "done": True, "seconds": 1.0, "artefact": "fit-x", "manifest": manifest}]
    write_run(tmp_path / "run", [1.0], algo="theirs", stages=stages)
    made = hyperparameter_tables(load_inputs([tmp_path]))
    assert [table.rows for table in made.items] == [(("fit.rate", "0.5", ""),)]
    (missing,) = made.missing
    assert missing.startswith("sources in the hyper-parameters of theirs: ") and "theirs" in missing.partition(": ")[2]


def test_every_listed_difference_is_in_the_table(shipped: ReportInputs) -> None:
    (table,) = deviation_tables(shipped).items
    found = {(str(row[0]), str(row[2])) for row in table.rows}
    files = [path for path in (ROOT / "algorithms").glob("*.py") if "\nDifferences from " in path.read_text()]
    assert len(files) >= 6
    for path in files:
        section = path.read_text().partition("\nDifferences from ")[2].partition('"""')[0].partition("\n\n")[0]
        items = [" ".join(item.split()) for item in section.split("\n- ")[1:]]
        assert items and {(path.stem, item) for item in items} <= found
    assert len(found) == sum(len(list(differences(path))) for path in files)


def test_lists_end_where_they_end(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text(
        '"""One.\n\nDifferences from A (2020)\n- first,\n  continued\n- second\n\nOther list\n- not one\n"""\n'
    )
    assert list(differences(path)) == [("A (2020)", "first, continued"), ("A (2020)", "second")]
    path.write_text("x = 1\n")
    assert list(differences(path)) == []
