"""What is submitted: the batch script word for word, chunks, all or nothing, and what a cut-off submission leaves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.graph import StageGraph, merge_plans
from bench.node_records import sweep_folder
from bench.run import RunOptions
from slurm import executor
from slurm.arrays import plan_arrays
from slurm.cluster import SlurmError
from slurm.ledger import JobArray, new_submission, read_submissions
from slurm.profiles import Profile, Resources
from slurm.states import node_states
from tests.conftest import Bench
from tests.slurm_helpers import MiniSlurm, toy_plan, write_profile, write_toy_sweep

SCRIPT = """\
#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-1%1
#SBATCH --chdir=FOLDER/code
#SBATCH --cpus-per-task=2
#SBATCH --dependency=afterany:4:17
#SBATCH --error=FOLDER/logs/%A_%a_0_log.err
#SBATCH --gpus-per-node=1
#SBATCH --job-name=mine
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=8000MB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/logs/%A_%a_0_log.out
#SBATCH --partition=main
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=90
#SBATCH --wckey=submitit

# setup
export PATH=/site/bin:/usr/bin:/bin"${PATH:+:$PATH}"
export SLURM_EXPORT_ENV=ALL
export SLURM_CONF=CONFIGURATION
module load cuda
export PYTHONPATH=FOLDER/code:/plugins
export OMP_NUM_THREADS=2
export MKL_NUM_THREADS=2
export MALLOC_MMAP_MAX_=0
export MALLOC_TRIM_THRESHOLD_=100000000000
trap : TERM USR2

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output FOLDER/logs/%A_%a_%t_log.out --error FOLDER/logs/%A_%a_%t_log.err --cpus-per-task 2 \
/bin/sh -c 'trap "" TERM USR2; exec "$0" "$@"' PYTHON -u -m submitit.core._submit FOLDER/logs
"""


def queue() -> list[str]:
    return subprocess.run(["squeue", "-h", "-o", "%j"], capture_output=True, text=True, check=True).stdout.split()


def make_graph(out: Path, seeds: int = 2) -> StageGraph:
    return merge_plans([toy_plan(seed) for seed in range(seeds)], out)


def test_arrays_hold_every_node_once_and_after_its_inputs_and_keep_the_limits(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, 23)
    profile = Profile("p", Resources(), {"fit": Resources(stages_per_job=3), "report": Resources(stages_per_job=50)})
    arrays = plan_arrays(graph, graph.missing(), profile, max_array_size=5)
    assert [(array.stage, len(array.packs)) for array in arrays] == [
        ("data", 1), ("fit", 5), ("fit", 3), ("adapt", 5), ("adapt", 5), ("adapt", 5), ("adapt", 5), ("adapt", 3),
        ("report", 1),
    ]  # fmt: skip
    order = [node for array in arrays for pack in array.packs for node in pack]
    assert len(order) == len({node.name for node in order}) == len(graph.missing())
    position = {node.name: index for index, node in enumerate(order)}
    assert all(position[name] < position[node.name] for node in order for name in node.inputs)


@pytest.mark.slurm
def test_the_batch_script_word_for_word(slurm: MiniSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/plugins")
    monkeypatch.setenv("PATH", "/site/bin:/usr/bin:/bin")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    asked = Resources("main", "lab", "normal", minutes=90, cpus=2, memory_mb=8000, gpus=1)
    made = executor.make_executor(tmp_path, "mine", asked, ("module load cuda",), ["4", "17"], 1)
    made.parameters["map_count"] = 2
    text = made._make_submission_file_text(made._submitit_command_str, "")
    text = text.replace(os.environ["SLURM_CONF"], "CONFIGURATION")
    assert text.replace(str(tmp_path), "FOLDER").replace(sys.executable, "PYTHON") == SCRIPT


@pytest.mark.slurm
@pytest.mark.parametrize("where", ["", "[stages.adapt]\n"])
def test_an_unknown_partition_leaves_nothing_in_the_queue(
    where: str, slurm: MiniSlurm, bench: Bench, tmp_path: Path
) -> None:
    """The second case is refused after two arrays were accepted."""
    slurm.open_queue(False)
    profile = tmp_path / "bad.toml"
    profile.write_text(f'memory_mb = 900\n{where}partition = "nosuch"\n')
    asked = ("sweep", write_toy_sweep(tmp_path), "--preset", "smoke", "--out", tmp_path, "--executor", "slurm")
    outcome = bench(*asked, "--profile", profile)
    assert outcome.code == 2
    assert "invalid partition specified: nosuch" in outcome.err and outcome.err.count("\n") == 1
    assert queue() == []
    arrays = [array for known in read_submissions(sweep_folder(tmp_path, "toys-smoke")) for array in known.arrays]
    assert len(arrays) == (3 if where else 1) and all(array.dropped for array in arrays)
    assert bench("status", "toys-smoke", "--out", tmp_path).code == 2  # Nothing of it is known.
    slurm.open_queue(True)
    assert bench(*asked, "--profile", write_profile(tmp_path), "--dry-run").code == 0


def test_without_slurm_the_error_says_so(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = write_toy_sweep(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = bench("sweep", sweep, "--preset", "smoke", "--out", tmp_path / "out", "--executor", "slurm")
    assert outcome.code == 2
    assert "no Slurm here: sbatch, srun" in outcome.err and outcome.err.count("\n") == 1
    assert not list((tmp_path / "out").rglob("submission.json"))


@pytest.mark.slurm
def test_a_slurm_whose_controller_does_not_answer_is_named(
    slurm: MiniSlurm, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "slurm.conf"
    shown = (slurm.base / "etc" / "slurm.conf").read_text()
    conf.write_text(re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=9", shown))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    asked = ("sweep", write_toy_sweep(tmp_path), "--preset", "smoke", "--out", tmp_path / "out")
    outcome = bench(*asked, "--executor", "slurm")
    assert outcome.code == 2
    assert "Slurm's controller does not answer" in outcome.err and outcome.err.count("\n") == 1
    assert not list((tmp_path / "out").rglob("submission.json"))


@pytest.mark.slurm
def test_an_array_whose_id_was_never_recorded_is_found_by_its_name_and_taken_back(
    slurm: MiniSlurm, tmp_path: Path
) -> None:
    """As when the submitting shell is killed between ``sbatch`` and the record."""
    out = tmp_path / "out"
    graph, folder = make_graph(out), sweep_folder(out, "cut")
    slurm.open_queue(False)
    cut_off = JobArray("cut.0001.0.data.12345678", "data", ((next(iter(graph.nodes)),),))
    new_submission(folder, "cut", "default").with_array(cut_off).write()
    for name in (cut_off.name, "other"):
        subprocess.run(["sbatch", "-J", name, "--wrap", "true"], check=True, cwd=tmp_path, capture_output=True)
    executor.submit(graph, "cut", RunOptions(out), write_profile(tmp_path), None)
    assert cut_off.name not in queue() and "other" in queue()
    assert len(queue()) == 5
    assert set(node_states(folder).values()) == {"pending"}
    executor.cancel("cut", out)
    assert queue() == ["other"]
    slurm.open_queue(True)


@pytest.mark.slurm
def test_max_parallel_chains_the_arrays_and_throttles_each(slurm: MiniSlurm, tmp_path: Path) -> None:
    slurm.open_queue(False)
    graph = make_graph(tmp_path, 4)
    executor.submit(graph, "few", RunOptions(tmp_path), write_profile(tmp_path), 2)
    shown = subprocess.run(["squeue", "-h", "-o", "%i %E"], capture_output=True, text=True, check=True).stdout
    first, second, third, fourth = sorted(shown.splitlines(), key=lambda line: int(re.split(r"\D", line)[0]))
    assert all("%2" in line for line in (second, third, fourth))
    for before, after in ((first, second), (second, third), (third, fourth)):
        assert f"afterany:{re.split('[ _]', before)[0]}" in after
    slurm.open_queue(True)


@pytest.mark.slurm
def test_two_submissions_at_once_are_refused(slurm: MiniSlurm, tmp_path: Path) -> None:
    from bench.errors import UserError
    from bench.locks import lock_file

    with (
        lock_file(sweep_folder(tmp_path, "one") / "slurm" / ".lock", wait=False),
        pytest.raises(UserError, match="one is being submitted by pid"),
    ):
        executor.submit(make_graph(tmp_path), "one", RunOptions(tmp_path), write_profile(tmp_path), None)


def test_commands_that_fail_are_told_in_one_line() -> None:
    from slurm.cluster import call

    with pytest.raises(SlurmError, match="no-such-command is not on the PATH"):
        call(["no-such-command"])
    with pytest.raises(SlurmError, match=r"sh: one; two$"):
        call(["sh", "-c", "echo 'sh: error: one' >&2; echo 'sh: two' >&2; exit 1"])
    with pytest.raises(SlurmError, match="sleep has not answered for 0 s"):
        call(["sleep", "5"], seconds=0.1)
