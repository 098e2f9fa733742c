"""The ledger of a sweep: what was asked for, durable and complete, so that any shell can tell how far it has come.

``<out>/sweeps/<sweep>/sweep.json`` is written before anything is started. A sweep is called ``<name>-<preset>``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from bench.errors import StorageError, UserError, unknown_name
from bench.files import is_file, read_sealed_json, replace_text, storage_errors, write_sealed_json
from bench.graph import REPORT, Estimate, StageGraph, StageNode, look_for
from bench.node_records import SWEEPS_FOLDER, now, sweep_folder
from bench.plan import RunRequest, request_from_json
from bench.shape import FileName, check_record

FORMAT = 1
LEDGER = "sweep.json"
LOCK = ".lock"
"""Beside the ledger: held by the process that runs the sweep on its machine."""
LOCAL, SLURM = "local", "slurm"
"""Executors."""


class _Node(TypedDict):
    name: FileName
    stage: FileName
    hash: str
    inputs: list[FileName]
    request: RunRequest
    runs: list[FileName]
    estimate: Estimate | None


class _Graph(TypedDict):
    nodes: list[_Node]
    stages_before_merging: int


class _Settings(TypedDict):
    device: Literal["auto", "cpu", "cuda"]
    threads: int
    checkpoint_seconds: float
    profile: str | None
    max_parallel: int | None


class _Content(TypedDict):
    """What ``sweep.json`` holds besides its format."""

    sweep: FileName
    title: str
    preset: str
    source: str
    executor: Literal["local", "slurm"]
    left_out: list[str]
    settings: _Settings
    created: str
    graph: _Graph


@dataclass(frozen=True)
class Ledger:
    """What ``sweep.json`` holds."""

    sweep: str
    """``<name>-<preset>``."""
    title: str
    preset: str
    source: str
    """The name or file it was read from."""
    executor: str
    """``local`` or ``slurm``: the one that last took it on."""
    left_out: tuple[str, ...]
    """Runs that cannot be planned, each with the reason."""
    graph: StageGraph
    """As it was planned; what exists is looked up when it is read."""
    settings: Mapping[str, Any]
    """Options of the executor, to go on with the same: ``device``, ``threads``, ``checkpoint_seconds``, ..."""
    created: str = ""

    def write(self, out: Path) -> None:
        """Make this the ledger. Raises ``StorageError``."""
        folder = sweep_folder(out, self.sweep)
        graph = {
            "nodes": [_node_content(node) for node in self.graph.nodes.values()],
            "stages_before_merging": self.graph.stages_before_merging,
        }
        content = {
            "format": FORMAT, "sweep": self.sweep, "title": self.title, "preset": self.preset, "source": self.source,
            "executor": self.executor, "left_out": list(self.left_out), "settings": dict(self.settings),
            "created": self.created or now(), "graph": graph,
        }  # fmt: skip
        with storage_errors(f"write {folder / LEDGER}"):
            folder.mkdir(parents=True, exist_ok=True)
            write_sealed_json(folder / LEDGER, content)

    @contextmanager
    def written(self, out: Path) -> Iterator[None]:
        """Make this the ledger for what is done inside; if that is refused, everything is as it was.

        Written before rather than after: whatever is killed in between, the sweep is known. Raises ``StorageError``.
        """
        path = sweep_folder(out, self.sweep) / LEDGER
        before = path.read_text(encoding="utf-8") if path.exists() else None
        self.write(out)
        try:
            yield
        except UserError:
            with storage_errors(f"restore {path}"):
                if before is None:
                    path.unlink()
                else:
                    replace_text(path, before)
            raise


def read_ledger(out: Path, sweep: str) -> Ledger:
    """The ledger of a sweep below ``out``, with what exists by now.

    Raises ``UserError`` with the nearest name when there is none, and when it is of another version; ``StorageError``
    when it is damaged.
    """
    path = sweep_folder(out, sweep) / LEDGER
    if not is_file(path):
        raise unknown_name(f"sweep (in {out / SWEEPS_FOLDER})", sweep, sweeps_below(out))
    remedy = "run bench sweep again to write it anew: no result is lost"
    content = read_sealed_json(path, remedy)
    found = content.pop("format", None)
    if found != FORMAT:
        raise UserError(f"{path} is of another version (format {found!r:.60}, expected {FORMAT}); {remedy}")
    check_record(content, _Content, path, remedy)
    graph = content.pop("graph")
    nodes = {node["name"]: _node(node) for node in graph["nodes"]}
    _check_graph(nodes, path, remedy)
    planned = StageGraph(nodes, graph["stages_before_merging"])
    return Ledger(
        graph=look_for(planned, out),
        left_out=tuple(content["left_out"]),
        **{name: content[name] for name in ("sweep", "title", "preset", "source", "executor", "settings", "created")},
    )


def _check_graph(nodes: Mapping[str, StageNode], path: Path, remedy: str) -> None:
    """Raise ``StorageError`` unless every node comes after its inputs, and is of some run."""
    before: set[str] = set()
    for node in nodes.values():
        if not before.issuperset(node.inputs) or not node.runs:
            raise StorageError(f"{path} does not hold what it should: {node.name} has no run or no inputs; {remedy}")
        before.add(node.name)
    reported = {run for node in nodes.values() if node.stage == REPORT for run in node.runs}
    if any(not reported.issuperset(node.runs) for node in nodes.values()):
        raise StorageError(f"{path} does not hold what it should: a run in it has no report; {remedy}")


def sweeps_below(out: Path) -> tuple[str, ...]:
    """Names of all sweeps below ``out``, sorted."""
    return tuple(sorted(path.parent.name for path in (out / SWEEPS_FOLDER).glob(f"*/{LEDGER}")))


def _node_content(node: StageNode) -> dict[str, Any]:
    content = asdict(node)
    del content["exists"]
    return content


def _node(content: Mapping[str, Any]) -> StageNode:
    estimate = content["estimate"]
    return StageNode(
        content["name"], content["stage"], content["hash"], tuple(content["inputs"]),
        request_from_json(content["request"]), tuple(content["runs"]),
        exists=False, estimate=None if estimate is None else Estimate(**estimate),
    )  # fmt: skip
