"""What can be run: algorithms, task distributions, presets, and which pairs fit."""

from __future__ import annotations

import json
from typing import Any

from algorithms.registry import algorithm_entries
from algorithms.stage import Algorithm
from bench.errors import UserError
from bench.lookup import find_algorithm, find_task_distribution, presets_of_pair, why_impossible
from bench.tables import print_table
from envs.core import TaskDistribution
from envs.registry import task_distribution_names


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
    pairs = []
    for name, algorithm in found.items():
        for tasks in distributions:
            reason = why_impossible(algorithm, tasks)
            presets = [] if reason else list(presets_of_pair(algorithm, tasks))
            pairs.append({"algo": name, "env": tasks.name, "presets": presets, "why_not": reason})
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
    names = [a["name"] for a in content["algorithms"] if not a["unavailable"]]
    presets = {(pair["algo"], pair["env"]): " ".join(pair["presets"]) or "-" for pair in content["pairs"]}
    print_table(
        "Presets of each pair", ("env", *names),
        [(e["name"], *(presets[(name, e["name"])] for name in names))
         for e in content["task_distributions"] if not e["unavailable"]],
    )  # fmt: skip
