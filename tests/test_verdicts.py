"""One analysis: the same rows have the same verdict wherever it is asked for.

Random result sets: two to five algorithms on one or two task distributions, equal, overlapping or other seeds, single
tasks and gaps, ties as few episodes give them, runs that end early.
"""

from __future__ import annotations

import csv
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from bench.compare import compare_algorithms
from bench.power import PowerRequest, power_answers
from bench.reporting.findings import Findings, find
from bench.reporting.findings_tables import comparisons_table, standings_table
from bench.statistics.analysis import studies
from bench.statistics.episodes import EpisodeReturns
from tests.conftest import Bench
from tests.statistics_helpers import NAN, write_run

SETS = 200


def random_groups(seed: int) -> list[EpisodeReturns]:
    """A result set, as it is after loading."""
    rng = np.random.default_rng(seed)
    groups = []
    for env in ("e", "f")[: rng.integers(1, 3)]:
        tasks = int(rng.integers(1, 6))
        for label in "abcde"[: rng.integers(2, 6)]:
            seeds = np.sort(rng.choice(8, rng.integers(1, 7), replace=False))
            if rng.random() < 0.5:
                seeds = np.arange(len(seeds))
            episodes = int(rng.choice([12, 40, 60]))
            chance = np.clip(rng.random() + 0.2 * rng.standard_normal((len(seeds), tasks)), 0, 1)
            values = rng.binomial(1, chance[..., None], (len(seeds), tasks, episodes)).astype(float)
            if rng.random() < 0.2:
                values[rng.integers(len(seeds)), rng.integers(tasks), episodes // 2 :] = NAN
            names = tuple(f"task-{task}" for task in range(tasks))
            groups.append(
                EpisodeReturns(
                    label, env, "quick", tuple(map(int, seeds)), tuple(range(tasks)), names, values, (0.0, 1.0), ()
                )
            )
    return groups


def decisions_of_report(found: Findings) -> dict[tuple[str, str, str], str]:
    """By A, B and window, as the table of the report has them; the standings must say the same."""
    table, standings = comparisons_table(found), standings_table(found)
    if table is None:
        return {}
    names = [column.label for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    made = {(str(r["A"]), str(r["B"]), str(r["episodes"])): str(r["A is"]) for r in rows}
    if standings is not None:
        for row in standings.rows:
            own = dict(zip([column.label for column in standings.columns], row, strict=True))
            label = str(own["algorithm"])
            better = {b for (a, b, w), d in made.items() if a == label and d == "better" and w == found.window_name}
            better |= {a for (a, b, w), d in made.items() if b == label and d == "worse" and w == found.window_name}
            assert set(filter(None, str(own["better than"]).split(", "))) == better
    return made


@pytest.mark.parametrize("seed", range(SETS))
def test_compare_power_and_report_agree(seed: int) -> None:
    groups = random_groups(seed)
    for study in studies(groups):
        own = [group for group in groups if group.env == study.env]
        found = find(own)
        report = decisions_of_report(found)
        compared = 0
        for a, b in combinations([group.label for group in own], 2):
            # As README's command asks, for all task distributions at once; with --env; and the other way round.
            everywhere = [r for r in compare_algorithms(groups, a, b) if r.a.env == study.env]
            alone, swapped = compare_algorithms(own, a, b), compare_algorithms(own, b, a)
            (decided,), (again,), (other,) = ([r.decided for r in rs] for rs in (everywhere, alone, swapped))
            assert decided == again
            assert [(c.decision, c.p_holm) for c in decided] == [(c.swapped().decision, c.p_holm) for c in other]
            for c in decided:
                assert c.decision == report[a, b, c.window]
                assert c.family == (found.family if c.p_holm is not None else 0)
                compared += 1
        assert compared == len(report)
        for answer in power_answers(own, PowerRequest(0.1, 0.8, 0.05)):
            assert answer.comparisons == max(1, found.family)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_commands_agree_on_folders(seed: int, tmp_path: Path, bench: Bench) -> None:
    rng = np.random.default_rng(seed)
    for place, algo in enumerate("abc"):
        for run in range(4):
            scores = np.clip(0.3 * place + 0.1 * rng.standard_normal(3), 0, 1)
            name = f"{algo}{run}"
            write_run(tmp_path / "runs" / name, list(scores), 40, algo=algo, env="toy-line", seed=run)
    assert bench("report", tmp_path / "runs", "-o", tmp_path / "report").code == 0
    with (tmp_path / "report" / "tables" / "comparisons-toy-line-quick.csv").open(newline="") as file:
        report = list(csv.DictReader(file))
    assert len(report) == 3
    for row in report:
        content = json.loads(bench("compare", row["A"], row["B"], "--results", tmp_path / "runs", "--json").out)
        (decided,) = [c for c in content["comparisons"] if c["family"]]
        assert (decided["decision"], decided["p_holm"]) == (row["A is"], pytest.approx(float(row["p"])))
