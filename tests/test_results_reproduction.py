"""The sweep that makes the shipped results anew can run, whole and in the order of its worth."""

from __future__ import annotations

import pytest

from bench.sweep import plan_runs
from bench.sweep_file import load_sweep
from tests.conftest import ROOT

FILE = ROOT / "results" / "reproduction.toml"


@pytest.mark.parametrize(("preset", "runs", "first"), [("paper", 8, "kitchen"), ("quick", 150, "maze")])
def test_every_run_of_it_is_possible(preset: str, runs: int, first: str) -> None:
    plans, left_out = plan_runs(load_sweep(str(FILE)).requests(preset))
    assert left_out == ()
    assert len({plan.run_name for plan in plans}) == runs
    assert plans[0].request.env == first
