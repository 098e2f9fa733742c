"""What can be run: algorithms, task distributions, presets, and which pairs fit."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from algorithms.registry import algorithm_entries
from algorithms.stage import Algorithm
from bench.errors import StorageError, UserError
from bench.estimates import SHIPPED_RUNS
from bench.files import read_json
from bench.lookup import find_algorithm, find_task_distribution, presets_of_pair, why_impossible
from bench.results import run_changes, total_seconds
from bench.store import RUN_FILE
from bench.tables import print_table
from envs.core import TaskDistribution
from envs.registry import task_distribution_names

_EVERY_PRESET = 3
"""``smoke``, ``quick``, ``paper``."""


def listing() -> dict[str, Any]:
    """Everything ``bench list`` says, as JSON. What cannot be loaded is listed with the reason."""
    found: dict[str, Algorithm] = {}
    algorithms = []
    for entry in algorithm_entries():
        record: dict[str, Any] = {"name": entry.name, "summary": entry.summary, "unavailable": None, "stages": []}
        try:
            found[entry.name] = find_algorithm(entry.name)
        except UserError as error:
            record["unavailable"] = str(error)
        else:
            record["stages"] = [stage.name for stage in found[entry.name].stages]
        algorithms.append(record)
    distributions: list[TaskDistribution] = []
    environments: list[dict[str, Any]] = []
    for name in task_distribution_names():
        try:
            tasks = find_task_distribution(name)
        except UserError as error:
            environments.append({"name": name, "unavailable": str(error)})
            continue
        distributions.append(tasks)
        environments.append(
            {
                "name": name, "unavailable": None, "family": tasks.family, "summary": tasks.summary,
                "train_tasks": len(tasks.train_tasks), "target_tasks": len(tasks.target_tasks),
                "validation_tasks": len(tasks.validation_tasks),
                "episode_env_steps": tasks.episode_env_steps, "data_presets": list(tasks.data_presets),
            }
        )  # fmt: skip
    pairs, minutes = [], quick_minutes()
    for name, algorithm in found.items():
        for tasks in distributions:
            reason = why_impossible(algorithm, tasks)
            presets = [] if reason else list(presets_of_pair(algorithm, tasks))
            quick = minutes.get((name, tasks.name))
            pairs.append(
                {"algo": name, "env": tasks.name, "presets": presets, "why_not": reason, "quick_minutes": quick}
            )
    return {"algorithms": algorithms, "task_distributions": environments, "pairs": pairs}


def print_listing(as_json: bool) -> None:
    """Print the listing as tables or as JSON."""
    content = listing()
    if as_json:
        print(json.dumps(content, indent=2))
        return
    print_table(
        "Algorithms (--algo)", ("name", "stages", "summary"),
        [(a["name"], " -> ".join(a["stages"]) or "unavailable", a["unavailable"] or a["summary"])
         for a in content["algorithms"]],
    )  # fmt: skip
    print_table(
        "Task distributions (--env)", ("name", "training", "target", "validation tasks", "summary"),
        [(e["name"], "unavailable", "-", "-", e["unavailable"]) if e["unavailable"] else
         (e["name"], str(e["train_tasks"]), str(e["target_tasks"]), str(e["validation_tasks"] or "-"), e["summary"])
         for e in content["task_distributions"]],
    )  # fmt: skip
    print(matrix_text(content))


def matrix_text(content: dict[str, Any], width: int = 80) -> str:
    """Which pairs fit together, a letter for each preset; as many columns as ``width`` characters allow.

    A pair with every preset shows what a run of it takes at ``quick``, where that was measured.
    """
    names = [a["name"] for a in content["algorithms"] if not a["unavailable"]]
    envs = [e["name"] for e in content["task_distributions"] if not e["unavailable"]]
    pairs = {(pair["algo"], pair["env"]): pair for pair in content["pairs"]}
    first = max(map(len, [*envs, "env"])) + 1
    cells = {
        (name, env): _cell_text(pairs[name, env]["presets"], pairs[name, env].get("quick_minutes"))
        for name in names for env in envs
    }  # fmt: skip
    widths = {name: 2 + max(len(name), *(len(cells[name, env]) for env in envs)) for name in names}
    blocks: list[list[str]] = [[]]
    for name in names:
        if blocks[-1] and first + sum(widths[other] for other in blocks[-1]) + widths[name] > width:
            blocks.append([])
        blocks[-1].append(name)
    lines = ["Pairs: yes has every preset (smoke, quick, paper), with the minutes that quick took; - does not fit"]
    for block in blocks:
        lines += ["", "env".ljust(first) + "".join(name.rjust(widths[name]) for name in block)]
        lines += [env.ljust(first) + "".join(cells[name, env].rjust(widths[name]) for name in block) for env in envs]
    return "\n".join(lines)


def _cell_text(presets: list[str], minutes: float | None) -> str:
    if not presets:
        return "-"
    if minutes is not None:
        return f"{minutes:.0f} min"
    return "yes" if len(presets) >= _EVERY_PRESET else "+".join(presets)


def quick_minutes(shipped: Path = SHIPPED_RUNS) -> dict[tuple[str, str], float]:
    """Median wall time of all stages of the shipped runs at ``quick`` without changes, by algorithm and environment."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in sorted(shipped.glob(f"*/{RUN_FILE}")):
        try:
            record = read_json(path)
        except StorageError:
            continue  # Whoever needs the run itself will say what is wrong.
        if record.get("preset") == "quick" and record.get("until") is None and not run_changes(record):
            found.setdefault((record["algo"], record["env"]), []).append(total_seconds(record) / 60)
    return {pair: statistics.median(values) for pair, values in found.items()}
