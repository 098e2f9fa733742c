"""The layers point one way, the core names no algorithm or environment, and ``envs`` needs no torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from algorithms.registry import algorithm_names
from envs.registry import task_distribution, task_distribution_names
from tests.conftest import ROOT

MAY_IMPORT = {
    "envs": {"envs"},
    "algorithms": {"algorithms", "envs"},
    "bench": {"bench", "slurm", "algorithms", "envs"},  # bench and slurm are one layer: they call each other
    "slurm": {"bench", "slurm", "algorithms", "envs"},
    "results": {"algorithms", "envs"},  # its studies
}
LAYERS = {*MAY_IMPORT, "tests"}
CORE = [
    *sorted((ROOT / "bench").rglob("*.py")),
    ROOT / "algorithms" / "stage.py",
    *(ROOT / "envs" / name for name in ("core.py", "randomness.py", "trajectories.py")),
]
TEST_NAMES = {"toy", "toy-line"}


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def sources(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


@pytest.mark.parametrize("layer", sorted(MAY_IMPORT))
def test_layers_point_one_way(layer: str) -> None:
    for path in sources(layer):
        used = {module.partition(".")[0] for module in imported_modules(path)} & LAYERS
        assert used <= MAY_IMPORT[layer], f"{path.relative_to(ROOT)} imports {sorted(used - MAY_IMPORT[layer])}"


def test_the_harness_uses_only_the_general_modules_below_it() -> None:
    general = {"algorithms.budget", "algorithms.registry", "algorithms.stage", "envs.core", "envs.randomness"}
    general |= {"envs.data_files", "envs.plugins", "envs.registry", "envs.trajectories"}
    for path in sources("bench"):
        below = {module for module in imported_modules(path) if module.partition(".")[0] in ("algorithms", "envs")}
        assert below <= general, f"{path.relative_to(ROOT)} imports {sorted(below - general)}"


def test_envs_never_imports_torch() -> None:
    for path in sources("envs"):
        assert "torch" not in {module.partition(".")[0] for module in imported_modules(path)}, path
    names = [name for name in task_distribution_names() if name not in TEST_NAMES]
    program = (
        "import sys; from envs.registry import task_distribution\n"
        f"for name in {names!r}: task_distribution(name)\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.splitlines()[-1] == "False"


def code_without_docstrings(path: Path) -> str:
    """The names and strings of a module's code; documentation may give examples, code may not know them."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                statement
                for statement in body
                if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            ]
    return ast.unparse(tree)


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_names_no_algorithm_and_no_environment(path: Path) -> None:
    distributions = [name for name in task_distribution_names() if name not in TEST_NAMES]
    families = {task_distribution(name).family for name in distributions}
    names = {*algorithm_names(), *distributions, *families} - TEST_NAMES
    code = re.sub(r"simpl[-_]bench", "", code_without_docstrings(path), flags=re.IGNORECASE)
    found = [name for name in names if re.search(rf"(?<![a-z]){re.escape(name)}(?![a-z])", code, re.IGNORECASE)]
    assert not found, f"{path.relative_to(ROOT)} names {found}"
