"""What a report is made of: the runs it starts from, and the figures and tables they become.

Axes: S seed, N task, E episode.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from bench.errors import StorageError
from bench.files import read_json
from bench.results import target_rows
from bench.statistics.episodes import EpisodeReturns, Excluded
from bench.statistics.with_rliable import RUNS
from bench.store import ARTEFACTS_FOLDER, MANIFEST, ArtefactStore, stage_file_name
from bench.tables import csv_cell

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = [
    "Column", "EpisodeReturns", "Excluded", "LoadedRun", "Made", "ReportFigure", "ReportInputs", "ReportTable", "Value",
]  # fmt: skip

Value = str | float | int | None
"""A cell: None is a number that does not exist (one seed has no interval) and is shown as nothing."""

Item = TypeVar("Item", covariant=True)


@dataclass(frozen=True)
class LoadedRun:
    """One run that is in the statistics."""

    folder: Path
    record: Mapping[str, Any]
    """``run.json``"""
    rows: pd.DataFrame
    """Its ``episodes.parquet``: all phases, meta-training included."""
    label: str
    """The algorithm, with the overrides and the data that set it apart."""

    @property
    def algo(self) -> str:
        return str(self.record["algo"])

    @property
    def env(self) -> str:
        return str(self.record["env"])

    @property
    def preset(self) -> str:
        return str(self.record["preset"])

    @property
    def seed(self) -> int:
        return int(self.record["seed"])

    @property
    def has_targets(self) -> bool:
        """Some row is of a target task."""
        return bool(len(target_rows(self.rows)))

    def stage_file(self, stage: Mapping[str, Any], name: str) -> Path | None:
        """A file that one of the run's stages left, such as ``paths.npz``; None where it left none.

        In an exported run it stands beside the rows with the stage in its name, otherwise in the artefact.
        """
        exported = self.folder / stage_file_name(str(stage["name"]), name)
        artefact = ArtefactStore(self.folder.parent / ARTEFACTS_FOLDER).folder(str(stage.get("artefact", ""))) / name
        return next((path for path in (exported, artefact) if path.is_file()), None)

    def stage_key(self, stage: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What determines the artefact of one of the run's stages (``config`` and more), by its manifest.

        An exported run holds its manifests; another one has its artefacts beside it. None where neither is there, or
        can be read.
        """
        if "manifest" in stage:
            return cast(Mapping[str, Any], stage["manifest"]["key"])
        manifest = ArtefactStore(self.folder.parent / ARTEFACTS_FOLDER).folder(stage["artefact"]) / MANIFEST
        try:
            key = read_json(manifest).get("key")
        except StorageError:
            return None
        return key if isinstance(key, Mapping) else None


@dataclass(frozen=True)
class ReportInputs:
    """All that figures and tables are made from."""

    folders: tuple[Path, ...]
    """As they were asked for."""
    runs: tuple[LoadedRun, ...]
    """Every run that is not excluded, by task distribution, label, preset and seed; also those that were asked to end
    before their target tasks (``--until``), which are in no group."""
    groups: tuple[EpisodeReturns, ...]
    """Their returns on the target tasks, a group per task distribution, label and preset."""
    excluded: tuple[Excluded, ...]
    """Runs that failed, hold a NaN, cannot be read or repeat another; each with its reason."""
    published: pd.DataFrame
    """The paper's curves: columns ``domain, algorithm, episode, mean``; no rows where there is no such file."""
    method: str = RUNS
    """Whose intervals are drawn (``bench.statistics.with_rliable.METHODS``)."""

    def runs_of(self, group: EpisodeReturns) -> tuple[LoadedRun, ...]:
        """The runs of a group, by seed."""
        wanted = set(group.runs)
        return tuple(run for run in self.runs if str(run.folder) in wanted)


@dataclass(frozen=True)
class ReportFigure:
    """A figure that can be drawn."""

    name: str
    """Stem of its files, and unique in a report: lower-case letters, digits and ``-``."""
    title: str
    caption: str
    """What is shown, of how many runs, seeds and tasks, and what the bands are."""
    alt: str
    """The same for those who do not see it: what is on the axes, and what the numbers say."""
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    label: str
    unit: str = ""
    """Shown behind the label; empty where the numbers have none."""
    decimals: int | None = None
    """Decimals of its numbers; None for a column of text."""

    @property
    def numeric(self) -> bool:
        return self.decimals is not None

    @property
    def heading(self) -> str:
        """``seconds (s)``"""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, value: Value) -> str:
        """A cell as it is shown. Raises ``TypeError`` for text in a column of numbers."""
        if value is None:
            return ""
        if self.decimals is None:
            return str(value)
        if isinstance(value, str):
            raise TypeError(f"column {self.label!r} holds numbers, got {value!r}")
        return f"{value:,.{self.decimals}f}"


@dataclass(frozen=True)
class ReportTable:
    """A table, and its three forms."""

    name: str
    """Stem of its files, and unique in a report: lower-case letters, digits and ``-``."""
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.name}: a row has {len(row)} cells, expected {len(self.columns)}: {row}")

    def texts(self) -> list[list[str]]:
        """Every cell as it is shown, row by row."""
        return [[column.text(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def compact(self) -> ReportTable:
        """The same for a page: a number and the ends of its interval, three columns (``X``, ``X, low``, ``X, high``),
        become one."""
        columns: list[Column] = []
        places: list[tuple[int, ...]] = []
        labels = [column.label for column in self.columns]
        place = 0
        while place < len(labels):
            ends = labels[place + 1 : place + 3]
            merged = ends == [f"{labels[place]}, low", f"{labels[place]}, high"]
            own = self.columns[place]
            columns.append(Column(own.heading) if merged else own)
            places.append((place, place + 1, place + 2) if merged else (place,))
            place += 3 if merged else 1
        rows = [
            tuple(row[own[0]] if len(own) == 1 else self._interval_text(row, own) for own in places)
            for row in self.rows
        ]
        return ReportTable(self.name, self.title, self.caption, tuple(columns), tuple(rows))

    def _interval_text(self, row: tuple[Value, ...], places: tuple[int, ...]) -> str:
        point, low, high = (self.columns[place].text(row[place]) for place in places)
        return f"{point} [{low}, {high}]" if low else point

    def to_markdown(self) -> str:
        """A GitHub-flavoured table; numbers to the right. Text is only text: no HTML that a page would carry out."""
        lines = [
            [column.heading for column in self.columns],
            ["---:" if column.numeric else "---" for column in self.columns],
            *self.texts(),
        ]
        return "".join(f"| {' | '.join(map(markdown_text, line))} |\n" for line in lines)

    def to_latex(self) -> str:
        """A ``table`` with booktabs rules; everything that LaTeX would take for a command is escaped."""
        layout = "".join("r" if column.numeric else "l" for column in self.columns)
        lines = [[column.heading for column in self.columns], *self.texts()]
        head, *body = (" & ".join(latex_text(cell) for cell in line) + r" \\" for line in lines)
        return "\n".join(
            [
                r"\begin{table}", r"\centering", rf"\caption{{{latex_text(self.title)}. {latex_text(self.caption)}}}",
                rf"\label{{tab:{self.name}}}", rf"\begin{{tabular}}{{{layout}}}", r"\toprule", head, r"\midrule", *body,
                r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
            ]
        )  # fmt: skip

    def to_csv(self) -> str:
        """Full precision, for programs; a number that does not exist is empty, and no text is a formula."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.heading for column in self.columns])
        writer.writerows([csv_cell(value) for value in row] for row in self.rows)
        return file.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "\n": " ",
}  # fmt: skip


def markdown_text(text: str) -> str:
    """Text in a cell of a Markdown table: no HTML, no end of the cell."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


@dataclass(frozen=True)
class Made(Generic[Item]):
    """What a family of figures or tables made of the runs, and what it could not make."""

    items: tuple[Item, ...] = ()
    missing: tuple[str, ...] = ()
    """One line each: what is not there, and what it would need."""

    @staticmethod
    def joined(parts: Sequence[Made[Item]]) -> Made[Item]:
        """All of them, in order."""
        return Made(
            tuple(item for part in parts for item in part.items),
            tuple(line for part in parts for line in part.missing),
        )


FigureFamily = Callable[[ReportInputs], Made[ReportFigure]]
TableFamily = Callable[[ReportInputs], Made[ReportTable]]
