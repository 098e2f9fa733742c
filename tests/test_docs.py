"""Every command in README and CONTRIBUTING runs, and the Python there works as it stands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

import algorithms.registry
from algorithms.registry import algorithm_names
from bench.lookup import find_algorithm, find_task_distribution, presets_of_pair, why_impossible
from bench.results import learning_curve, read_run
from bench.summary import write_summary
from envs.kitchen.readers import human_trajectories
from envs.maze.layout import reference_layout
from envs.maze.planner import path_length_map
from envs.registry import task_distribution_names
from tests.conftest import ROOT, Bench

PAGES = ("README.md", "CONTRIBUTING.md")
MAZE_PAGE = "envs/maze/README.md"
IMAGE_MAZE_PAGE = "envs/image_maze/README.md"
KITCHEN_PAGE = "envs/kitchen/README.md"
DATA_PAGE = "envs/kitchen/DATA.md"
ALGORITHMS_PAGE = "algorithms/README.md"
TUNING_PAGE = "results/tuning/README.md"
VALIDATION_PAGES = ("envs/validation/README.md", "results/validation/README.md")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [line.partition("  #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    for page in PAGES:
        assert all(command.startswith(("bench ", "make ")) for command in commands(page)), commands(page)


@pytest.mark.parametrize("command", sorted({c for page in PAGES for c in commands(page) if c.startswith("make ")}))
def test_make_knows_the_target(command: str) -> None:
    result = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_main_job_is_a_valid_run(bench: Bench) -> None:
    dry = subprocess.run(["make", "run", "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (arguments,) = re.findall(r"bin/bench (run .*)", dry)
    assert bench(*shlex.split(arguments), "--help").code == 0


def at_smoke_size(command: str) -> list[str]:
    """The arguments of a ``bench`` command with its preset, also where run names hold it, replaced by ``smoke``."""
    words = [re.sub(r"-(quick|paper)(-s|$)", r"-smoke\2", word) for word in shlex.split(command)[1:]]
    words = ["smoke" if word in ("quick", "paper") else word for word in words]
    if words[0] == "run" and "--preset" not in words:
        words += ["--preset", "smoke"]
    if words[0] == "tune":
        at = words.index("--trials") if "--trials" in words else len(words)
        words[at : at + 2] = ["--trials", "2"]
    return words


@pytest.mark.timeout(900)  # a dozen small but real runs
@pytest.mark.parametrize("page", [*PAGES, VALIDATION_PAGES[1], TUNING_PAGE])
def test_every_bench_command_runs_at_smoke_size(
    page: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        if command.startswith("bench "):
            outcome = bench(*at_smoke_size(command))
            assert outcome.code == 0, f"{command}: {outcome.err}"


def test_the_line_that_makes_csv_of_rows_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = re.findall(r"`(pandas\..*?to_csv.*?)`", (ROOT / "README.md").read_text())
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    exec(f"import pandas; {line}", {})
    made = pd.read_csv("episodes.csv")
    assert {"task", "episode", "return", "env_steps"} <= set(made) and len(made) > 1000


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """What ``bench summary results/runs`` makes of the shipped rows; the table that ships is this, byte for byte."""
    made = tmp_path_factory.mktemp("summary") / "summary.csv"
    write_summary([ROOT / "results" / "runs"], made)
    assert made.read_bytes() == (ROOT / "results" / "summary.csv").read_bytes()
    return pd.read_csv(made, keep_default_na=False).query("preset == 'quick'")


def results_section() -> str:
    """The README's results, each paragraph in one line."""
    (section,) = re.findall(r"## Results\n(.*?)\n## ", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return re.sub(r"(?<=[^\n|])\n(?=[^\n|])", " ", section)


def test_every_number_in_the_results_tables_comes_from_the_shipped_rows(summary: pd.DataFrame) -> None:
    """Each score is the mean over the shipped seeds of one window; the last column is the mean wall time."""
    tables = re.findall(r"\| `([\w-]+)`, episodes (\|.*?)\n\|[-|]+\n((?:\|.*\n)+)", results_section() + "\n")
    assert {"maze", "kitchen"} <= {env for env, _, _ in tables} <= set(summary["env"])
    for env, head, body in tables:
        own = summary[summary["env"] == env]
        windows = re.findall(r"\d+-\d+", head)
        assert windows == list(dict.fromkeys(own["window"])) and head.rstrip(" |").endswith("minutes")
        expected = []
        for (algo, changes), runs in own.groupby(["algo", "changes"]):
            scores = runs.groupby("window")["mean_score"].mean()
            minutes = runs.groupby("seed")["seconds"].first().mean() / 60
            label = f"`{' '.join([algo, *changes.split()])}`"
            cells = [label, *(f"{scores[window]:.2f}" for window in windows), f"{minutes:.0f}"]
            expected.append(f"| {' | '.join(cells)} |")
        assert sorted(body.splitlines()) == sorted(expected)


def test_what_the_readme_says_of_the_paper_is_in_its_curves() -> None:
    curves = pd.read_csv(ROOT / "results" / "paper" / "figure4_curves.csv").set_index(
        ["domain", "algorithm", "episode"]
    )

    def between(algorithm: str, start: int, stop: int) -> pd.Series:
        curve = curves["mean"]["kitchen"][algorithm]
        return curve[(curve.index >= start) & (curve.index < stop)]

    text = results_section()
    at = [f"{curves['mean']['maze', algorithm, e]:.2f}" for algorithm in ("SiMPL", "SPiRL") for e in (40, 100)]
    assert "SiMPL {} at episode 40 and {} at 100, SPiRL {} and {}.".format(*at) in text
    early = between("SiMPL", 40, 60)
    late = [between(algorithm, 90, 110).mean() for algorithm in ("SiMPL", "SPiRL")]
    assert (
        f"SiMPL {early.min():.1f} to {early.max():.1f} in 40-60 and {late[0]:.1f} in 90-110, "
        f"SPiRL about {between('SPiRL', 40, 60).mean():.1f} and {late[1]:.1f}."
    ) in text


def test_who_leads_in_how_many_seeds_of_the_kitchen_is_as_the_readme_says(summary: pd.DataFrame) -> None:
    scores = summary[summary["env"] == "kitchen"].pivot(index="seed", columns=["window", "algo"], values="mean_score")
    leads = {
        window: int((scores[window]["simpl"] > scores[window]["spirl"]).sum()) for window in scores.columns.levels[0]
    }
    assert (len(scores), leads) == (3, {"0-20": 3, "20-40": 3, "40-60": 1, "90-110": 0})
    words = (
        "SiMPL leads it in the first 40 episodes in every seed, at 40-60 in one seed of three, and at 90-110 in none."
    )
    assert words in results_section()


def test_how_far_simpl_leads_on_the_image_maze_is_as_the_readme_says(summary: pd.DataFrame) -> None:
    """The paper's figure 11c, over its first 100 episodes."""
    first, last = {}, {}
    for algo, runs in summary[summary["env"] == "image-maze"].groupby("algo"):
        folders = [ROOT / "results" / "runs" / f"{algo}-image-maze-quick-s{seed}" for seed in sorted(set(runs["seed"]))]
        first[algo] = np.array([learning_curve(read_run(folder)[1])[:100].mean() for folder in folders])
        last[algo] = runs[runs["window"] == "190-200"]["mean_score"].mean()
    assert (first["simpl"] > first["spirl"]).all()
    assert (
        f"SiMPL leads SPiRL as in the paper, {first['simpl'].mean():.2f} against {first['spirl'].mean():.2f} over the "
        "first 100 episodes, its 20 of exploration among them, and in every seed"
    ) in results_section()
    assert f"both rise, to {last['simpl']:.2f} and {last['spirl']:.2f} after 200" in results_section()


def test_both_fail_on_far_goals_of_the_image_maze_as_the_readme_says(summary: pd.DataFrame) -> None:
    """The paper's negative result (appendix C), and with a flow as skill prior."""
    lengths = path_length_map(reference_layout(40), (10, 24))
    tasks = find_task_distribution("image-maze-full").target_tasks
    far = [place for place, task in enumerate(tasks) if lengths[tuple(map(int, task.spec["goal"]))] > 30]
    folders = sorted((ROOT / "results" / "runs").glob("*-image-maze-full-*"))
    rows = [read_run(folder)[1].query("stage == 'adapt'") for folder in folders]
    reached = [own[own["task"].isin(far)]["success"].mean() for own in rows]
    assert (
        f"the {len(far)} target goals more than 30 cells away are reached in at most {100 * max(reached):.2f} % of a "
        "run's episodes"
    ) in results_section()
    runs = summary[summary["env"] == "image-maze-full"].groupby(["changes", "algo"])["seed"].unique()
    seeds = [
        f"`{' '.join([algo, *changes.split()])}` {', '.join(map(str, own))}" for (changes, algo), own in runs.items()
    ]
    assert f"(Seeds: {'; '.join(seeds)}.)" in results_section()


def test_the_matrix_in_the_readme_is_what_the_registries_say() -> None:
    """Every algorithm, its stages, and the worlds that it has all three presets for."""
    page = (ROOT / "README.md").read_text()
    (table,) = re.findall(r"\| algorithm \| stages \|.*?\n\|---.*?\n(.*?)\n\n", page, flags=re.DOTALL)
    shown = {}
    for line in table.splitlines():
        name, stages, maze, kitchen, images, others = (cell.strip() for cell in line.strip("|").split("|"))
        yes = (maze == "yes", kitchen == "yes", images == "yes")
        shown[name.split("`")[1]] = (stages, *yes, set(re.findall("`(.*?)`", others)))
    worlds = [find_task_distribution(env) for env in task_distribution_names() if env != "toy-line"]
    expected = {}
    for name in algorithm_names():
        if name == "toy":
            continue
        algorithm = find_algorithm(name)
        fits = {
            world.name for world in worlds
            if why_impossible(algorithm, world) is None
            and set(presets_of_pair(algorithm, world)) >= {"smoke", "quick", "paper"}
        }  # fmt: skip
        families = [{w.name for w in worlds if w.family == family} for family in ("maze", "kitchen", "image-maze")]
        assert all(family <= fits or not family & fits for family in families)
        stages = " → ".join(stage.name for stage in algorithm.stages)
        expected[name] = (stages, *(family <= fits for family in families), fits.difference(*families))
    assert shown == expected


def test_the_data_pages_commands_work_on_a_file_in_d4rls_layout(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import in full; the run as far as its plan, which reads the file."""
    monkeypatch.chdir(tmp_path)
    import_command, run_command = (shlex.split(command)[1:] for command in commands(DATA_PAGE))
    human = human_trajectories()
    with h5py.File(import_command[3], "w") as file:
        file["observations"] = np.hstack([human.observations, np.zeros_like(human.observations)])
        file["actions"] = human.actions
        file["terminals"] = np.isin(np.arange(len(human.actions)), human.episode_ends - 1)
    imported = bench(*import_command)
    assert imported.code == 0, imported.err
    assert Path("mixed.hdf5").exists()
    planned = bench(*run_command, "--help")
    assert planned.code == 0, planned.err
    assert "data.checksum" in planned.out


def test_links_lead_somewhere() -> None:
    for page in (
        *PAGES,
        MAZE_PAGE,
        IMAGE_MAZE_PAGE,
        KITCHEN_PAGE,
        DATA_PAGE,
        ALGORITHMS_PAGE,
        TUNING_PAGE,
        *VALIDATION_PAGES,
    ):
        for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
            assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_maze_pages_code_draws_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(MAZE_PAGE, "python")
    exec(compile(code, MAZE_PAGE, "exec"), {})
    assert (tmp_path / "maze_tasks.png").stat().st_size > 10_000


def test_trained_policies_take_as_long_for_a_cell_as_the_image_mazes_page_says() -> None:
    """Of the shipped runs on the maze that were trained for 100 episodes, successes on goals at least 15 cells away."""
    maze = find_task_distribution("maze")
    runs = [ROOT / "results/runs" / f"{algo}-maze-quick-s{seed}" for algo in ("simpl", "spirl") for seed in range(3)]
    rows = pd.concat([pd.read_parquet(run / "episodes.parquet") for run in runs])
    rows = rows[(rows["phase"] == "adapt") & rows["success"] & (rows["episode"] >= 100)]
    paths = path_length_map(reference_layout(20), (10, 10))
    cells = rows["task"].map({i: paths[tuple(task.spec["goal"])] for i, task in enumerate(maze.target_tasks)})
    each = rows["length"][cells >= 15].mean() / cells[cells >= 15].mean()
    assert f"take {each:.0f} env_steps for each cell" in (ROOT / IMAGE_MAZE_PAGE).read_text()
    assert f"so 710 are {710 / each:.0f} cells" in (ROOT / IMAGE_MAZE_PAGE).read_text()


def test_simpls_successes_on_the_image_maze_take_as_long_as_its_page_says() -> None:
    folders = [ROOT / "results" / "runs" / f"simpl-image-maze-quick-s{seed}" for seed in range(3)]
    late = pd.concat([read_run(folder)[1].query("stage == 'adapt' and episode >= 100") for folder in folders])
    env_steps = late.query("success == 1")["length"].mean()
    page = " ".join((ROOT / IMAGE_MAZE_PAGE).read_text().split())
    assert f"SiMPL's successes after its first 100 episodes take {env_steps:.0f} env_steps (shipped results)" in page


def test_the_image_maze_pages_code_draws_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    drawing, picture = blocks(IMAGE_MAZE_PAGE, "python")
    exec(compile(drawing, IMAGE_MAZE_PAGE, "exec"), {})
    assert f"# {capsys.readouterr().out.strip()}" in drawing
    exec(compile(picture, IMAGE_MAZE_PAGE, "exec"), {})
    assert (tmp_path / "image_maze_tasks.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("language", "file"),
    [
        ("python", "simpl_bench_example/skill_search.py"),
        ("python", "simpl_bench_example/near_goals.py"),
        ("toml", "pyproject.toml"),
    ],
)
def test_the_contributing_guide_shows_the_files_of_the_example_package(language: str, file: str) -> None:
    """Which ``test_example_package.py`` installs and runs."""
    assert (ROOT / "tests" / "example_package" / file).read_text() in blocks("CONTRIBUTING.md", language)


def test_the_contributing_guides_other_python_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registering line: with the arguments that the registry takes."""
    monkeypatch.setattr(algorithms.registry, "_entries", dict(algorithms.registry._entries))
    (line,) = [block for block in blocks("CONTRIBUTING.md", "python") if block.startswith("register_algorithm(")]
    exec(line, {"register_algorithm": algorithms.registry.register_algorithm})
    assert "skill-search" in algorithms.registry._entries
