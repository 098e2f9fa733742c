"""The report as a whole: what a page of runs good and bad says, that it is safe, self-contained and always the same."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from bench.files import write_sealed_json
from bench.reporting.page import _with_code
from bench.reporting.report import ReportRequest, write_report
from tests.conftest import ROOT, Bench
from tests.statistics_helpers import run_rows, write_run

LARGEST_BYTES = 10_000_000
SHIPPED = sorted((ROOT / "results" / "runs").glob("*-maze-quick-*"))
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


class Parsed(HTMLParser):
    """Elements with their attributes, headings, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden = tag if tag in ("style", "script") else self._hidden

    def handle_endtag(self, tag: str) -> None:
        self._hidden = "" if tag == self._hidden else self._hidden

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data

    def attributes(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)


def report_of(*folders: Path, out: Path) -> str:
    return write_report(ReportRequest(folders, out)).read_text()


def study(folder: Path, seeds: int = 3) -> None:
    """Two algorithms on a task distribution of the toy's, some runs each."""
    for seed in range(seeds):
        for algo, level in (("good", 0.8), ("poor", 0.2)):
            scores = [level + 0.01 * seed, level + 0.1, level]
            write_run(folder / f"{algo}-s{seed}", scores, 40, algo=algo, env="toy-line", seed=seed)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of shipped runs, those on one task distribution: drawing all takes a while."""
    out = tmp_path_factory.mktemp("shipped") / "report"
    report_of(*SHIPPED, out=out)
    return out


def test_it_is_one_page_of_less_than_10_mb_that_asks_for_nothing(shipped: Path) -> None:
    page = (shipped / "index.html").read_text()
    assert len(page.encode()) < LARGEST_BYTES
    parsed = Parsed(page)
    loading = [
        value
        for tag, attributes in parsed.elements
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "poster", "action", "formaction", "background")
        or (name == "href" and tag not in ("a",))
    ]
    assert loading and all(value is not None and value.startswith("data:") for value in loading)
    assert not re.search(r"@import|url\(", page)
    assert not any(tag in ("iframe", "object", "embed", "base", "form") for tag, _ in parsed.elements)
    (policy,) = [m["content"] for m in parsed.attributes("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy


def test_every_link_leads_to_a_place_in_the_page_or_to_a_file(shipped: Path) -> None:
    parsed = Parsed((shipped / "index.html").read_text())
    ids = {attributes["id"] for _, attributes in parsed.elements if "id" in attributes}
    assert len(ids) == sum("id" in attributes for _, attributes in parsed.elements)
    targets = [attributes["href"] or "" for attributes in parsed.attributes("a")]
    assert sum(target.endswith("episodes.parquet") for target in targets) == len(SHIPPED) > 0
    for target in targets:
        assert target[1:] in ids if target.startswith("#") else (shipped / unquote(target)).is_file(), target


def test_every_picture_has_its_words_and_its_files(shipped: Path) -> None:
    pictures = list(Parsed((shipped / "index.html").read_text()).attributes("img"))
    assert len(pictures) >= 4
    for picture in pictures:
        assert len(picture["alt"] or "") > 20
        assert base64.b64decode((picture["src"] or "").removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
        assert int(picture["width"] or 0) > 100 and int(picture["height"] or 0) > 50
    stems = {path.stem for path in (shipped / "figures").iterdir()}
    assert len(stems) == len(pictures)
    assert {path.suffix for path in (shipped / "figures").iterdir()} == {".png", ".svg", ".pdf"}
    assert {path.suffix for path in (shipped / "tables").iterdir()} == {".csv", ".md", ".tex"}


def test_language_headings_and_tables_are_as_screen_readers_need_them(shipped: Path) -> None:
    page = (shipped / "index.html").read_text()
    parsed = Parsed(page)
    assert next(parsed.attributes("html"))["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("table") == tags.count("caption") >= 4
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        head, _, body = table.partition("</thead>")
        scopes = [[heading["scope"] for heading in Parsed(part).attributes("th")] for part in (head, body)]
        assert scopes[0] and set(scopes[0]) == {"col"}
        assert set(scopes[1]) <= {"row"} and len(scopes[1]) in (0, body.count("<tr"))  # each row has one, or none has
    assert {"header", "main", "nav", "footer"} <= set(tags)


def test_text_is_readable_in_both_colour_schemes() -> None:
    """Contrast of every pair that the style puts on one another, by WCAG 2.2: 4.5 or more."""
    style = (ROOT / "bench" / "reporting" / "page" / "report.css").read_text()
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", part)) for part in style.split("@media", 2)[:2])
    assert set(light) == set(dark) and "prefers-color-scheme: dark" in style
    pairs = [("ink", "paper"), ("soft", "paper"), ("link", "paper"), ("ink", "shade"), ("soft", "shade")]
    for colours in (light, dark):
        for ink, paper in [*pairs, ("warn-ink", "warn-paper")]:
            brighter, darker = sorted((luminance(colours[ink]), luminance(colours[paper])), reverse=True)
            assert (brighter + 0.05) / (darker + 0.05) >= 4.5, (ink, paper)


def luminance(colour: str) -> float:
    channels = np.array([int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    study(tmp_path / "runs")
    first, second = tmp_path / "first", tmp_path / "second"
    report_of(tmp_path / "runs", out=tmp_path / "report")
    shutil.copytree(tmp_path / "report", first)
    report_of(tmp_path / "runs", out=tmp_path / "report")
    shutil.copytree(tmp_path / "report", second)
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(names) > 10
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_what_beats_what_is_in_the_summary_and_in_the_tables(tmp_path: Path) -> None:
    study(tmp_path / "runs")
    text = Parsed(report_of(tmp_path / "runs", out=tmp_path / "report")).text
    assert "Episodes 20-40: good has the highest mean score, 0.84" in text
    assert "Highest score: good on toy-line." in text and "can be told apart" in text
    assert "good is better than poor by 0.60" in text
    assert "3 seeds are few" in text
    table = pd.read_csv(tmp_path / "report" / "tables" / "comparisons-toy-line-quick.csv")
    assert table.loc[0, "A - B"] == pytest.approx(0.6)


def test_names_and_tracebacks_are_text_and_nothing_else(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    study(runs)
    for seed in range(2):
        write_run(
            runs / f"evil-{seed}", [0.5, 0.6], 40, algo="e", seed=seed, run=EVIL, overrides={"x": r"<b>$\frac$</b>"}
        )
    broken = runs / "broken <script>alert(2)<b>"
    write_run(
        broken,
        [0.5],
        error=EVIL,
        status="failed",
        stages=[{"name": "fit", "artefact": "fit-1", "done": False, "seconds": None}],
    )
    partial = runs / "artefacts" / "fit-1.partial"
    partial.mkdir(parents=True)
    trace = f'Traceback (most recent call last):\n  File "x.py"\nValueError: {EVIL}\n'
    write_sealed_json(partial / "failure.json", {"error": EVIL, "traceback": trace, "seconds": 1.0})
    parsed = Parsed(report_of(runs, out=tmp_path / "report"))
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert all((picture["src"] or "").startswith("data:image/png;base64,") for picture in parsed.attributes("img"))
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert trace.rstrip() in parsed.text and EVIL in parsed.text
    assert "broken <script>alert(2)<b>" in parsed.text


def test_code_in_the_words_of_fields_is_shown_as_code_and_stays_text(shipped: Path) -> None:
    assert _with_code("``a < b`` or ``<b>`` & c") == "<code>a &lt; b</code> or <code>&lt;b&gt;</code> &amp; c"
    page = (shipped / "index.html").read_text()
    assert "<code>" in page and "``" not in page


def test_a_failed_run_a_nan_and_a_repetition_are_named_loudly_and_are_in_no_number(
    tmp_path: Path, bench: Bench
) -> None:
    runs = tmp_path / "runs"
    study(runs)
    before = Parsed(report_of(runs, out=tmp_path / "before")).text
    write_run(
        runs / "dead", [0.9], 40, algo="good", env="toy-line", seed=7, status="failed", error="ValueError: no good"
    )
    write_run(runs / "nan", [0.9, 0.9, 0.9], 40, algo="good", env="toy-line", seed=8)
    rows = run_rows([0.9, 0.9, 0.9], 40)
    rows.loc[50, "return"] = float("nan")
    rows.assign(error="").to_parquet(runs / "nan" / "episodes.parquet")
    shutil.copytree(runs / "good-s0", runs / "twin")
    outcome = bench("report", runs, "-o", tmp_path / "report")
    assert outcome.code == 0
    after = Parsed((tmp_path / "report" / "index.html").read_text()).text
    reasons = {
        "dead": "failed: ValueError: no good",
        "nan": "1 return is not finite, the first in task task-1, episode 10",
        "twin": f"repeats seed 0 of {runs / 'good-s0'}",
    }
    assert "3 left out of everything below:" in after
    for name, reason in reasons.items():
        assert f"left out: {runs / name} ({reason})" in outcome.err
        assert after.count(reason) == 2  # in the summary, and where all of them are
    standings = [line for line in before.splitlines() if "has the highest mean score" in line]
    assert standings and all(line in after for line in standings)


def test_a_folder_with_failed_runs_only_still_has_a_report(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "dead", [0.9], status="failed", error="ValueError: no good")
    text = Parsed(report_of(tmp_path / "runs", out=tmp_path / "report")).text
    assert "No run can be used" in text
    assert "failed: ValueError: no good" in text
    assert "0 runs of 0 algorithms" in text


def test_without_any_run_there_is_one_line_and_no_folder(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "runs").mkdir()
    for folder, words in (("runs", "no run (a folder with run.json)"), ("nowhere", "is not a folder")):
        outcome = bench("report", tmp_path / folder, "-o", tmp_path / "report")
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert words in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_one_seed_says_that_there_is_no_interval(tmp_path: Path) -> None:
    study(tmp_path / "runs", seeds=1)
    text = Parsed(report_of(tmp_path / "runs", out=tmp_path / "report")).text
    assert "0.83 (one seed: no interval)" in text
    assert "one seed: no interval, and no verdict" in text
    assert not re.search(r"\bnan\b", text)


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, bench: Bench) -> None:
    study(tmp_path / "runs", seeds=1)
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "index.html").write_text("<p>years of work</p>")
    outcome = bench("report", tmp_path / "runs", "-o", precious)
    assert outcome.code == 2 and "holds something that is not a report; choose another folder with -o" in outcome.err
    assert (precious / "index.html").read_text() == "<p>years of work</p>"
    stale = tmp_path / "report" / "figures" / "of-runs-now-gone.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    (tmp_path / "report" / "index.html").write_text('<meta name="generator" content="simpl-bench report">')
    assert "good has the highest mean score" in report_of(tmp_path / "runs", out=tmp_path / "report")
    assert not stale.exists()


def test_its_scores_are_those_of_the_readme(shipped: Path) -> None:
    """In the last window that all algorithms have; all of the README's cells are checked against ``bench summary``."""
    head, _, body = (ROOT / "README.md").read_text().partition("| `maze`, episodes |")[2].partition("\n")
    column = [cell.strip() for cell in head.split("|")].index("190-200") + 1
    standings = pd.read_csv(shipped / "tables" / "standings-maze-quick.csv")
    assert len(standings) == body.partition("\n\n")[0].count("\n| `")
    for algo, score in zip(standings["algorithm"], standings["mean"], strict=True):
        row = next(line for line in body.splitlines() if line.startswith(f"| `{algo}` |"))
        assert row.split("|")[column + 1].strip() == f"{score:.2f}"


def test_commands_repeat_their_runs(shipped: Path) -> None:
    text = Parsed((shipped / "index.html").read_text()).text
    for folder in SHIPPED:
        record: dict[str, Any] = json.loads((folder / "run.json").read_text())
        assert (
            f"bench run --algo {record['algo']} --env {record['env']} --preset quick --seed {record['seed']}\n" in text
        )
        assert record["versions"]["git_commit"] in text
