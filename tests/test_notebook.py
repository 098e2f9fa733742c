"""The Python interface: the page that shows it is executed, and says what comes out."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pandas as pd
import pytest

from bench import notebook
from bench.errors import UserError
from tests.conftest import ROOT
from tests.statistics_helpers import write_run


def test_the_page_is_what_its_code_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "results" / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == page.count("```python") >= 3
    names: dict[str, object] = {}
    for code, expected in blocks:
        with redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        assert [line.rstrip() for line in printed.getvalue().splitlines()] == expected.splitlines()


def test_a_run_is_made_and_read_back(tmp_path: Path) -> None:
    folder = notebook.run("toy", "toy-line", preset="smoke", out=tmp_path, adapt__episodes=6)
    rows = notebook.load_episodes(folder)
    assert set(rows["label"]) == {"toy --adapt.episodes 6"} and rows["episode"].max() == 5


def test_comparisons_and_figures_are_those_of_the_commands(tmp_path: Path) -> None:
    for seed in range(3):
        for algo, level in (("a", 0.8), ("b", 0.4)):
            write_run(
                tmp_path / f"{algo}{seed}", [level + 0.01 * seed, level], 40, algo=algo, env="toy-line", seed=seed
            )
    table = notebook.compare("b", "a", tmp_path)
    assert isinstance(table, pd.DataFrame)
    assert list(table["decision"]) == ["not decided", "worse", "not decided"]
    assert table.loc[1, "difference"] == pytest.approx(-0.4)
    assert "intervals-toy-line-quick" in notebook.figures(tmp_path)
    with pytest.raises(UserError, match="did you mean 'intervals-toy-line-quick'"):
        notebook.draw("interval-toy-line-quick", tmp_path)
