"""The command line: speed of help, one-line errors, JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import algorithms.registry
from bench.process import OPT_OUT, wanted_environment
from tests.conftest import ROOT, Bench

BENCH = Path(sys.executable).with_name("bench")
HELP_SECONDS = 0.5


def test_help_is_fast() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run([BENCH, "--help"], check=True, capture_output=True)
        return time.perf_counter() - started

    # The best of some: other processes may use the machine at the same time.
    assert min(seconds() for _ in range(5)) < HELP_SECONDS


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["data", "build", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from bench.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'mujoco', 'gymnasium'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.splitlines()[-1] == "[]"


def test_listing_names_imports_no_torch() -> None:
    program = (
        "import sys; import algorithms.registry, envs.registry\n"
        "assert algorithms.registry.algorithm_names() and envs.registry.task_distribution_names()\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "unknown command 'rnu': did you mean 'run'"),
        (["data", "bild", "maze"], "unknown command 'bild': did you mean 'build'"),
        (["run", "--algo", "toy"], "bench run needs --env NAME"),
        (["run", "--algo", "toyy", "--env", "toy-line"], "unknown algorithm 'toyy': did you mean 'toy'"),
        (["run", "--algo", "toy", "--env", "toy-lime"], "unknown task distribution 'toy-lime'"),
        (["run", "--algo", "toy", "--env", "toy-line", "--preset", "smok"], "did you mean 'smoke'"),
        (["run", "--algo", "toy", "--env", "toy-line", "--sed", "1"], "unknown argument '--sed': did you mean --seed"),
        (["run", "--algo", "toy", "--env", "toy-line", "--seed", "-1"], "expected a whole number from 0"),
        (["run", "--algo", "toy", "--env", "toy-line", "--threads", "0"], "expected a whole number from 1"),
        (["run", "--algo", "toy", "--env", "toy-line", "--tasks", "x"], "expected indices such as 0,3"),
        (["run", "--algo", "toy", "--env", "toy-line", "--tasks", "9"], "no target task 9; valid: 0 to 2"),
        (["run", "--algo", "toy", "--env", "toy-line", "--device", "gpu"], "invalid choice: 'gpu'"),
        (["run", "--algo", "toy", "--env", "toy-line", "fit.update=1"], "did you mean 'fit.updates'"),
        (["run", "--algo", "toy", "--env", "toy-line", "fit.updates=-1"], "expected a whole number from 0"),
        (["run", "--algo", "toy", "--env", "toy-line", "fit.updates=1e20"], "expected a whole number from 0"),
        (["show", "nothing"], "there is no run in runs yet"),
        (["list", "fit.updates=1"], "takes no configuration fields"),
        (["data", "info", "toy-line"], "bench data build toy-line --preset quick"),
        (["summary", "/nowhere", "-o", "x.csv"], "/nowhere is not a folder"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    arguments: list[str], message: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = bench(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


def test_cuda_is_refused_where_there_is_none(bench: Bench, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    outcome = bench("run", "--algo", "toy", "--env", "toy-line", "--device", "cuda", "--out", tmp_path)
    assert outcome.code == 2
    assert "torch finds no CUDA device" in outcome.err


def test_help_of_a_pair_lists_every_field_with_its_value(bench: Bench) -> None:
    outcome = bench("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--help")
    assert outcome.code == 0
    of_presets = re.search(r"--fit.updates int  \[default 40, here 10; (.*)\]\n        Gradient updates.", outcome.out)
    assert of_presets is not None
    assert of_presets.group(1).split(", ") == ["smoke 10", "quick 40"]
    assert "--adapt.pause_seconds float  [default 0.0]" in outcome.out, "no preset sets it"
    assert "--fit.kind linear|tanh  [default linear]" in outcome.out
    assert "--data.seed int  [default 0]" in outcome.out
    assert "--seed SEED" in outcome.out


def test_version(bench: Bench) -> None:
    assert bench("--version").out.startswith("simpl-bench 0.")


def test_list_as_json(bench: Bench) -> None:
    content = json.loads(bench("list", "--json").out)
    assert set(content) == {"algorithms", "task_distributions", "pairs"}
    toy = next(algorithm for algorithm in content["algorithms"] if algorithm["name"] == "toy")
    assert toy == {"name": "toy", "summary": "a test of the harness", "unavailable": None, "stages": ["fit", "adapt"]}
    line = next(tasks for tasks in content["task_distributions"] if tasks["name"] == "toy-line")
    assert (line["train_tasks"], line["target_tasks"], line["data_presets"]) == (1, 3, ["smoke", "quick"])
    assert line["validation_tasks"] == 2
    pairs = {(pair["algo"], pair["env"]): pair for pair in content["pairs"]}
    assert pairs["toy", "toy-line"] == {
        "algo": "toy", "env": "toy-line", "presets": ["smoke", "quick"], "why_not": None, "quick_minutes": None,
    }  # fmt: skip
    other = next(tasks["name"] for tasks in content["task_distributions"] if tasks["family"] != "toy")
    assert pairs["toy", other]["presets"] == []
    assert "no preset for the family" in pairs["toy", other]["why_not"]


def test_an_algorithm_whose_package_is_missing_says_how_to_install_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(algorithms.registry, "_entries", dict(algorithms.registry._entries))
    algorithms.registry.register_algorithm("needy", "tests.toy:ALGORITHM", "needs what is not there", "no_such_package")
    reason = "algorithm 'needy' needs the package 'no_such_package', which is not installed: "
    reason += "pip install 'simpl-bench[no_such_package]'"
    for command in ("run", "profile"):
        outcome = bench(command, "--algo", "needy", "--env", "toy-line")
        assert (outcome.code, outcome.out, outcome.err) == (2, "", f"bench: {reason}\n")
    listed = json.loads(bench("list", "--json").out)
    (needy,) = [algorithm for algorithm in listed["algorithms"] if algorithm["name"] == "needy"]
    assert needy["unavailable"] == reason
    assert "needy" not in {pair["algo"] for pair in listed["pairs"]}
    profile = bench("profile", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--seconds", "0")
    assert profile.code == 0
    assert f"left out: {reason}\n" in profile.err


def test_list_as_tables_names_everything(bench: Bench) -> None:
    text = bench("list").out
    assert "toy-line" in text
    assert "fit -> adapt" in text


def test_show_as_json_and_as_tables(bench: Bench, tmp_path: Path) -> None:
    bench("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--out", tmp_path)
    content = json.loads(bench("show", "toy-toy-line-smoke-s0", "--out", tmp_path, "--json").out)
    assert set(content) >= {
        "run", "algo", "env", "preset", "seed", "target_tasks", "overrides", "status", "started", "updated", "device",
        "threads", "versions", "stages", "windows", "target_episodes", "failures", "total_seconds", "folder",
    }  # fmt: skip
    assert (content["status"], content["target_episodes"], content["failures"]) == ("done", 75, [])
    assert [stage["name"] for stage in content["stages"]] == ["data", "fit", "adapt"]
    assert {stage["state"] for stage in content["stages"]} == {"done"}
    assert content["windows"][0]["n_tasks"] == 3
    assert content["windows"][-1] == {"window": "490-500", "mean_score": None, "n_tasks": 0}
    text = bench("show", tmp_path / "toy-toy-line-smoke-s0").out
    assert "toy on toy-line, smoke, seed 0; done" in text
    assert "0-20" in text
    assert "190-200" not in text


def test_an_unknown_run_gets_the_nearest_name(bench: Bench, tmp_path: Path) -> None:
    bench("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--out", tmp_path)
    outcome = bench("show", "toy-toy-line-smoke-s1", "--out", tmp_path)
    assert outcome.code == 2
    assert "did you mean 'toy-toy-line-smoke-s0'" in outcome.err


def test_a_computing_process_restarts_itself_with_the_allocators_environment(tmp_path: Path) -> None:
    # The process reports the environment it was started with: what libc saw, not what Python set later.
    program = (
        "import sys; from bench.process import restart_with_environment\n"
        "restart_with_environment(3)\n"
        "print(open('/proc/self/environ').read().replace(chr(0), chr(10)))"
    )
    clean = {"PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=clean, cwd=ROOT)
    assert {f"{name}={value}" for name, value in wanted_environment(3).items()} <= set(result.stdout.splitlines())
    assert "OMP_NUM_THREADS=3" in result.stdout
    kept = subprocess.run(command, check=True, capture_output=True, text=True, env={**clean, OPT_OUT: "1"}, cwd=ROOT)
    assert "OMP_NUM_THREADS" not in kept.stdout
