"""Figures: what is drawn is what the rows, rliable and the paper say; every family on the shipped runs.

Numbers are read back from the drawn lines and bars, never from pixels.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rliable import library, metrics

from bench.errors import UserError
from bench.reporting.figures import make_figures
from bench.reporting.figures.aggregates import improvement_figures, interval_figures, profile_figures
from bench.reporting.figures.artefacts import is_category, latent_figures, path_figures
from bench.reporting.figures.cost import cost_figures
from bench.reporting.figures.per_task import per_task_figures
from bench.reporting.figures.studies import other_learning_figures, other_meta_training_figures, study_figures
from bench.reporting.figures.task_distributions import task_figures, training_task_figures
from bench.reporting.inputs import load_inputs
from bench.reporting.model import Made, ReportFigure, ReportInputs
from bench.reporting.palette import look_of_algorithm
from bench.reporting.save import save_figure
from bench.statistics.curves import efficiency_curve
from bench.sweep_file import shipped_sweeps
from envs.registry import task_distribution
from tests.conftest import ROOT
from tests.statistics_helpers import write_run

SHIPPED = ROOT / "results" / "runs"
ENVS = ("maze", "kitchen")


@pytest.fixture(scope="module")
def shipped() -> ReportInputs:
    """The first twelve runs that shipped: what is expected of them does not change when others come."""
    pairs = [f"{algo}-{env}-quick-s{seed}" for algo in ("simpl", "spirl") for env in ENVS for seed in range(3)]
    return load_inputs([SHIPPED / name for name in pairs])


def rows_of(pattern: str) -> pd.DataFrame:
    """Rows of the shipped runs, read without the code under test."""
    return pd.concat([pd.read_parquet(path) for path in sorted(SHIPPED.glob(f"{pattern}/episodes.parquet"))])


def window_matrix(pattern: str, start: int, stop: int) -> np.ndarray:
    """Scores (S, N) of target tasks."""
    rows = rows_of(pattern)
    inside = rows[rows["phase"].isin(["explore", "adapt"]) & rows["episode"].between(start, stop - 1)]
    return inside.pivot_table(index="seed", columns="task", values="return").to_numpy()


def figure_named(made: Made[ReportFigure], name: str) -> ReportFigure:
    (found,) = [figure for figure in made.items if figure.name == name]
    return found


def line(axes: Axes, label: str) -> Line2D:
    (found,) = [line for line in axes.lines if str(line.get_label()).split(" (")[0] == label]
    return found


def points(drawn: Line2D) -> np.ndarray:
    return np.column_stack([np.asarray(drawn.get_xdata(), dtype=float), np.asarray(drawn.get_ydata(), dtype=float)])


def test_every_figure_of_all_shipped_runs_is_drawn_and_saved(tmp_path: Path) -> None:
    made = make_figures(load_inputs([SHIPPED]))
    names = [figure.name for figure in made.items]
    assert len(names) == len(set(names)) >= 13
    for figure in made.items:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", figure.name)
        assert len(figure.title) > 10 and len(figure.alt) > 40
        if not figure.name.startswith("tasks"):
            assert re.search(r"\b[1-9]\d* seeds?\b|seed \d", figure.caption), figure.name
        (written,) = save_figure(figure.draw(), tmp_path / figure.name, [".png"])
        assert written.read_bytes().startswith(b"\x89PNG")
    for study in shipped_sweeps():
        assert f"{study}-quick" in names or any(line.startswith(f"{study} ") for line in made.missing)


def test_a_figure_has_three_forms_and_equal_figures_are_equal_files(shipped: ReportInputs, tmp_path: Path) -> None:
    figure = interval_figures(shipped).items[0]
    heads = [path.read_bytes()[:5] for path in save_figure(figure.draw(), tmp_path / figure.name)]
    assert (heads[0][1:4], heads[1], heads[2]) == (b"PNG", b"<?xml", b"%PDF-")
    first, second = (save_figure(figure.draw(), tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    with pytest.raises(UserError, match=r"cannot be written as '\.gif'; valid: \.png, \.svg, \.pdf"):
        save_figure(figure.draw(), tmp_path / "three", [".gif"])


def test_figure_4_shows_the_rows_and_the_papers_curves_on_true_axes(shipped: ReportInputs) -> None:
    figure = figure_named(study_figures(shipped), "figure4-quick")
    drawn = figure.draw()
    paper = pd.read_csv(ROOT / "results/paper/figure4_curves.csv")
    for axes, env, best, episodes in zip(drawn.axes, ("maze", "kitchen"), (1, 4), (200, 120), strict=True):
        assert axes.get_title().startswith(f"{env}, quick")
        assert axes.get_ylim() == pytest.approx((-0.02 * best, 1.02 * best))
        assert axes.get_xlim() == (0, episodes)
        assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
        for algo, name in (("simpl", "SiMPL"), ("spirl", "SPiRL")):
            rows = rows_of(f"{algo}-{env}-quick-s*")
            rows = rows[rows["phase"].isin(["explore", "adapt"])]
            expected = rows.groupby(rows["episode"] // 10)["return"].mean()
            colour = look_of_algorithm(algo).colour
            own = [part for part in axes.lines if part.get_linestyle() == "-" and to_hex(part.get_color()) == colour]
            # The line of an algorithm that explores is broken where exploration ends, and in the legend once.
            assert [len(points(part)) for part in own] == (
                [2, episodes // 10 - 2] if algo == "simpl" else [episodes // 10]
            )
            assert [str(part.get_label())[0] == "_" for part in own] == [False, True][: len(own)]
            shown = np.concatenate([points(part) for part in own])
            np.testing.assert_allclose(shown[:, 1], expected.to_numpy(), rtol=1e-9)
            np.testing.assert_allclose(shown[:, 0], 10 * expected.index.to_numpy() + 4.5)
            published = paper[(paper["domain"] == env) & (paper["algorithm"] == name) & (paper["episode"] <= episodes)]
            (dashed,) = [
                part for part in axes.lines if part.get_linestyle() == "--" and to_hex(part.get_color()) == colour
            ]
            np.testing.assert_allclose(points(dashed), published[["episode", "mean"]].to_numpy())
        (shade,) = axes.patches
        assert (shade.get_extents().transformed(axes.transData.inverted()).x1) == pytest.approx(20)
    assert "pearl-ft" in figure.caption.partition("Not run yet:")[2]
    assert (
        f"{rows_of('spirl-maze-quick-s*').query('episode >= 190')['return'].mean():.2f} in episodes 190-200"
        in figure.alt
    )


def test_the_band_is_the_interval_of_each_bin(shipped: ReportInputs) -> None:
    axes = figure_named(study_figures(shipped), "figure4-quick").draw().axes[0]
    (group,) = [group for group in shipped.groups if (group.env, group.label) == ("maze", "spirl")]
    curve = efficiency_curve(group, 10, "mean")
    colour = look_of_algorithm("spirl").colour
    (band,) = [part for part in axes.collections if to_hex(part.get_facecolor()[0]) == colour]
    outline = band.get_paths()[0].vertices
    for x, low, high in zip(curve.starts + 4.5, curve.low, curve.high, strict=True):
        ends = outline[outline[:, 0] == x][:, 1]
        assert (ends.min(), ends.max()) == pytest.approx((low, high))


def test_figure_10_shows_the_first_twenty_episodes(shipped: ReportInputs) -> None:
    axes = figure_named(study_figures(shipped), "figure10-quick").draw().axes[0]
    rows = rows_of("spirl-maze-quick-s*").query("episode < 20")
    expected = rows.groupby(rows["episode"] // 5)["return"].mean()
    np.testing.assert_allclose(points(line(axes, "spirl"))[:, 1], expected.to_numpy(), rtol=1e-9)
    assert axes.get_xlim() == (0, 20)


@pytest.mark.parametrize(("env", "start", "stop"), [("maze", 190, 200), ("kitchen", 90, 110)])
def test_the_interval_plot_has_rliables_numbers(shipped: ReportInputs, env: str, start: int, stop: int) -> None:
    drawn = figure_named(interval_figures(shipped), f"intervals-{env}-quick").draw()
    scores = {algo: window_matrix(f"{algo}-{env}-quick-s*", start, stop) for algo in ("simpl", "spirl")}
    best = {"maze": 1, "kitchen": 4}[env]
    oracle = (
        metrics.aggregate_iqm, metrics.aggregate_median, metrics.aggregate_mean,
        lambda values: metrics.aggregate_optimality_gap(values / best),
    )  # fmt: skip
    for axes, statistic in zip(drawn.axes, oracle, strict=True):
        shown = [np.asarray(part.get_xdata())[0] for part in axes.lines]
        assert shown == pytest.approx([statistic(values) for values in scores.values()], abs=1e-9)
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["simpl", "spirl"]


def test_the_profile_is_rliables(shipped: ReportInputs) -> None:
    panels = figure_named(profile_figures(shipped), "profiles-kitchen-quick").draw().axes
    scores = {algo: window_matrix(f"{algo}-kitchen-quick-s*", 90, 110) for algo in ("simpl", "spirl")}
    assert [axes.get_title() for axes in panels] == ["simpl", "spirl"]
    for axes, (algo, values) in zip(panels, scores.items(), strict=True):
        shown = points(line(axes, algo))
        profile, _ = library.create_performance_profile({algo: values}, shown[:, 0], reps=2)
        np.testing.assert_allclose(shown[:, 1], profile[algo], atol=1e-9)


def test_the_improvement_matrix_is_rliables_and_mirrored(shipped: ReportInputs) -> None:
    axes = figure_named(improvement_figures(shipped), "improvement-maze-quick").draw().axes[0]
    ours, theirs = (window_matrix(f"{algo}-maze-quick-s*", 190, 200) for algo in ("simpl", "spirl"))
    values = np.asarray(axes.images[0].get_array().filled(np.nan))  # type: ignore[union-attr]
    expected = metrics.probability_of_improvement(ours, theirs)
    assert values[0, 1] == pytest.approx(expected, abs=1e-9)
    assert values[1, 0] == pytest.approx(1 - expected, abs=1e-9)
    assert np.isnan(np.diag(values)).all()


def test_meta_training_curves_are_means_of_each_phase(shipped: ReportInputs) -> None:
    (axes,) = figure_named(other_meta_training_figures(shipped), "meta-training-kitchen-quick").draw().axes
    rows = rows_of("simpl-kitchen-quick-s*").query("phase == 'meta_train_posterior'")
    bins = rows["episode"] // 10
    per_task = rows.groupby(["seed", "task", bins])["return"].mean()
    expected = per_task.groupby(["task", "episode"]).mean().groupby("episode").mean()
    shown = points(line(axes, "simpl"))
    np.testing.assert_allclose(shown[:, 1], expected.to_numpy()[: len(shown)], rtol=1e-9)
    assert len(shown) >= len(expected) - 1


def test_cost_curves_end_where_the_rows_do(shipped: ReportInputs) -> None:
    steps, seconds, minutes = figure_named(cost_figures(shipped), "score-by-cost-maze-quick").draw().axes
    rows = rows_of("spirl-maze-quick-s*")
    last = rows[rows["episode"] == 199].groupby("seed")
    assert points(line(steps, "spirl"))[-1, 0] == pytest.approx(last["env_steps"].mean().min())
    assert points(line(seconds, "spirl"))[-1, 0] == pytest.approx(last["seconds"].max().min())
    records = [json.loads((SHIPPED / f"spirl-maze-quick-s{seed}" / "run.json").read_text()) for seed in range(3)]
    before = [sum(stage["seconds"] for stage in record["stages"][:-1]) for record in records]
    ends = (last["seconds"].max().to_numpy() + np.array(before)) / 60
    assert points(line(minutes, "spirl"))[-1, 0] == pytest.approx(ends.min())
    # The run that ends there is at its own last window; the others are between two of their episodes.
    assert 0.7 < points(line(steps, "spirl"))[-1, 1] < 1.0


def test_an_algorithm_has_one_colour_in_every_figure(shipped: ReportInputs) -> None:
    for figure in make_figures(shipped).items:
        drawn: Figure = figure.draw()
        for axes in drawn.axes:
            for algo in ("simpl", "spirl"):
                own = [part for part in axes.lines if str(part.get_label()).split(" (")[0] == algo]
                assert {to_hex(part.get_color()) for part in own} <= {look_of_algorithm(algo).colour}, figure.name


def test_many_lines_have_bars_and_few_have_bands(tmp_path: Path) -> None:
    for number in range(5):
        for seed in range(3):
            scores = [0.2 * number, 0.1 * number + 0.05 * seed]
            write_run(tmp_path / f"{number}-{seed}", scores, 60, algo=f"a{number}", env="toy-line", seed=seed)
    (many,) = other_learning_figures(load_inputs([tmp_path])).items
    assert {type(part).__name__ for part in many.draw().axes[0].collections} == {"LineCollection"}
    few = load_inputs([path for path in tmp_path.iterdir() if path.name[0] in "01"])
    bands = other_learning_figures(few).items[0].draw().axes[0].collections
    assert not any(type(part).__name__ == "LineCollection" for part in bands) and len(bands) == 2


def test_two_seeds_are_drawn_thin_and_dotted(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"three{seed}", [0.5, 0.1 * seed], 60, algo="three", env="toy-line", seed=seed)
        if seed < 2:
            write_run(tmp_path / f"two{seed}", [0.5, 0.1 * seed], 60, algo="two", env="toy-line", seed=seed)
    (figure,) = other_learning_figures(load_inputs([tmp_path])).items
    (axes,) = figure.draw().axes
    assert (line(axes, "two").get_linestyle(), line(axes, "three").get_linestyle()) == (":", "-")
    assert line(axes, "two").get_linewidth() < line(axes, "three").get_linewidth()
    assert "Thin and dotted: fewer than three seeds" in figure.caption


def test_algorithms_that_share_their_meta_training_are_drawn_once(tmp_path: Path) -> None:
    for algo in ("pearl", "pearl-ft"):
        stages = [{"name": "meta_train", "seconds": 1.0, "artefact": "meta_train-1", "done": True}]
        write_run(tmp_path / algo, [0.5], algo=algo, env="maze-easy", until="meta_train", stages=stages)
        rows = pd.read_parquet(tmp_path / algo / "episodes.parquet")
        rows = rows.assign(stage="meta_train", phase="meta_train_posterior")
        rows.to_parquet(tmp_path / algo / "episodes.parquet")
    (figure,) = other_meta_training_figures(load_inputs([tmp_path])).items
    labels = [str(part.get_label()) for part in figure.draw().axes[0].lines]
    assert [label for label in labels if not label.startswith("_")] == ["pearl = pearl-ft", "before inference (prior)"]


def test_the_heat_map_is_the_mean_of_each_task(shipped: ReportInputs) -> None:
    figure = figure_named(per_task_figures(shipped), "tasks-scores-maze-quick")
    axes = figure.draw().axes[0]
    shown = [float(text.get_text()) for text in axes.texts]
    for place, algo in enumerate(("simpl", "spirl")):
        expected = np.sort(window_matrix(f"{algo}-maze-quick-s*", 190, 200).mean(axis=0))
        np.testing.assert_allclose(np.sort(shown[10 * place : 10 * place + 10]), expected, atol=0.005001)
    assert len(axes.get_xticklabels()) == 10


def test_a_tasks_index_is_no_quantity() -> None:
    assert is_category(np.array([0.0, 3.0]), "index of the task")
    assert not is_category(np.array([0.5, 3.0]), "index of the task") and not is_category(np.zeros(2), "distance")


def test_one_seed_gives_no_band_and_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "one", [0.0, 1.0], episodes=40)
    inputs = load_inputs([tmp_path])
    (learning,) = other_learning_figures(inputs).items
    (axes,) = learning.draw().axes
    assert not any(np.isfinite(path.vertices).all() for part in axes.collections for path in part.get_paths())
    assert "one seed: no interval" in learning.caption
    assert "1 seed (0), 2 tasks" in learning.caption
    (intervals,) = interval_figures(inputs).items
    assert not intervals.draw().axes[0].patches
    assert "one seed: no interval" in intervals.caption
    assert improvement_figures(inputs).missing == (
        "probability of improvement on e, quick, episodes 20-40: needs two algorithms",
    )
    assert other_meta_training_figures(inputs).missing == (
        "meta-training curves: no run has episodes of meta-training",
    )


def test_missing_scores_are_named_in_the_caption(tmp_path: Path) -> None:
    write_run(tmp_path / "s0", [0.0, 1.0], episodes=20)
    write_run(tmp_path / "s1", [0.5], episodes=20, seed=1)
    (intervals,) = interval_figures(load_inputs([tmp_path])).items
    assert "Note: a: seed 1 has no score on task 1" in intervals.caption


def test_the_score_axis_of_an_unknown_task_distribution_is_open(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"s{seed}", [-3.0, 7.0], episodes=60, seed=seed)
    (figure,) = other_learning_figures(load_inputs([tmp_path])).items
    (axes,) = figure.draw().axes
    assert axes.get_ylabel() == "return"
    assert axes.get_ylim()[0] < 2 < axes.get_ylim()[1]


def test_a_lowest_score_that_no_learner_is_near_does_not_flatten_the_curve(tmp_path: Path) -> None:
    low, high = task_distribution("pendulum").score_range
    assert low < -2000 and high == 0
    for seed, score in enumerate((-150.0, -250.0)):  # of its one target task
        write_run(tmp_path / f"s{seed}", [score], episodes=60, seed=seed, env="pendulum")
    inputs = load_inputs([tmp_path])
    (axes,) = other_learning_figures(inputs).items[0].draw().axes
    assert -260 < axes.get_ylim()[0] < -200 and 0 < axes.get_ylim()[1] < 10
    (axes,) = profile_figures(inputs).items[0].draw().axes
    assert -270 < axes.get_xlim()[0] < -250


def test_the_maps_show_every_goal_of_every_split(shipped: ReportInputs) -> None:
    figure = figure_named(task_figures(shipped), "tasks-maze")
    panels = {axes.get_title().splitlines()[0]: axes for axes in figure.draw().axes if axes.get_title()}
    assert list(panels) == [
        "maze = maze-hard", "maze-20", "maze-10", "maze-top-top", "maze-top-bottom", "maze-easy", "maze-medium",
    ]  # fmt: skip
    released = pd.read_csv(ROOT / "envs/maze/data/maze_goals.csv")
    for name, splits in {"maze-10": ("train-10", "target"), "maze-top-bottom": ("train-top", "target-bottom")}.items():
        expected = [released[released["split"] == split][["x", "y"]].to_numpy() for split in splits]
        expected.append(np.array([task.spec["goal"] for task in task_distribution(name).validation_tasks]))
        for points_drawn, goals in zip(panels[name].collections, expected, strict=True):
            assert sorted(map(tuple, np.asarray(points_drawn.get_offsets()))) == sorted(map(tuple, goals))


def test_the_kitchens_orders_are_drawn_task_by_task(shipped: ReportInputs) -> None:
    (axes,) = figure_named(task_figures(shipped), "tasks-kitchen").draw().axes
    assert len(axes.lines) == 4 * (23 + 10 + 5)
    columns = ["training tasks (23)", "target tasks (10)", "validation tasks (5)"]
    assert [text.get_text() for text in axes.texts] == columns


def run_with_paths(folder: Path, exported: bool, seed: int = 0) -> dict[tuple[int, int], np.ndarray]:
    """A run on the maze that kept paths of two target tasks in episodes 0 and 20, and a latent space."""
    rng = np.random.default_rng(0)
    kept = {(task, at): rng.uniform(1, 20, (5 + task, 4)).astype(np.float32) for task in (0, 3) for at in (0, 20)}
    stages = [
        {"name": "adapt", "seconds": 1.0, "artefact": "adapt-1", "done": True},
        {"name": "fit", "seconds": 1.0, "artefact": "f", "done": True},
    ]
    write_run(folder / "run", [0.0, 1.0], episodes=30, env="maze", stages=stages, seed=seed)
    rows = pd.read_parquet(folder / "run" / "episodes.parquet").assign(stage="adapt")
    rows.to_parquet(folder / "run" / "episodes.parquet")
    names = {"adapt": folder / "run" / "paths-adapt.npz", "fit": folder / "run" / "latents-fit.npz"}
    if not exported:
        names = {"adapt": folder / "artefacts/adapt-1/paths.npz", "fit": folder / "artefacts/f/latents.npz"}
        for path in names.values():
            path.parent.mkdir(parents=True)
    keys = sorted(kept)
    np.savez(
        names["adapt"], task=[task for task, _ in keys], episode=[at for _, at in keys],
        ends=np.cumsum([len(kept[key]) for key in keys]), states=np.concatenate([kept[key] for key in keys]),
    )  # fmt: skip
    line = np.outer(np.arange(6.0), [3.0, 0.0, 4.0])
    np.savez(names["fit"], latents=line, value=np.arange(6.0), what="points on a line", value_name="place")
    return kept


@pytest.mark.parametrize("exported", [True, False])
def test_paths_are_drawn_as_they_were_kept(tmp_path: Path, exported: bool) -> None:
    kept = run_with_paths(tmp_path, exported)
    (figure,) = path_figures(load_inputs([tmp_path / "run"])).items
    panels = figure.draw().axes
    assert [axes.get_title() for axes in panels] == ["a, episode 0", "a, episode 20"]
    for axes, at in zip(panels, (0, 20), strict=True):
        shown = {tuple(np.asarray(part.get_xdata())) for part in axes.lines}
        assert {tuple(path[:, 0]) for (_, episode), path in kept.items() if episode == at} <= shown
    assert "a: seed 0" in figure.caption and "episodes 0, 20 on target tasks of maze" in figure.caption


def test_of_several_seeds_the_first_that_kept_something_is_shown(tmp_path: Path) -> None:
    run_with_paths(tmp_path, exported=True, seed=1)
    write_run(tmp_path / "older", [0.5, 0.5], env="maze", seed=0)
    inputs = load_inputs([tmp_path])
    assert {run.label for run in inputs.runs} == {"a"} and len(inputs.runs) == 2
    (paths,), (latents,) = path_figures(inputs).items, latent_figures(inputs).items
    assert "a: seed 1" in paths.caption and "seed 1" in latents.caption


def test_a_latent_space_is_seen_from_where_it_is_widest(tmp_path: Path) -> None:
    run_with_paths(tmp_path, exported=True)
    (figure,) = latent_figures(load_inputs([tmp_path])).items
    axes = figure.draw().axes[0]
    offsets = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(np.sort(offsets[:, 0]), 5 * np.arange(-2.5, 3), atol=1e-6)
    np.testing.assert_allclose(offsets[:, 1], 0, atol=1e-6)
    assert "points on a line" in figure.caption and "100 % of the variance" in figure.caption
    assert figure.alt.endswith("Largest correlation of an axis with colour: 1.00.")


def test_runs_that_kept_nothing_and_damaged_files_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "empty" / "run", [0.5], env="maze")
    nothing = load_inputs([tmp_path / "empty"])
    assert any("no run has kept any" in line for line in path_figures(nothing).missing)
    assert latent_figures(nothing).missing
    run_with_paths(tmp_path, exported=True)
    file = tmp_path / "run" / "paths-adapt.npz"
    whole = file.read_bytes()
    for damaged in (whole[:-50], b"not one of ours"):
        file.write_bytes(damaged)
        made = path_figures(load_inputs([tmp_path / "run"]))
        assert made.items == ()
        (named,) = made.missing  # and not that none was kept
        assert named.startswith(f"paths on maze, quick: {file} cannot be read: ")
    damaged_latents = tmp_path / "run" / "latents-fit.npz"
    damaged_latents.write_bytes(b"not one of ours")
    (named,) = latent_figures(load_inputs([tmp_path / "run"])).missing
    assert named.startswith(f"latent space of a on maze, quick: {damaged_latents} cannot be read: ")


def test_a_damaged_file_does_not_hide_that_of_another_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        run_with_paths(tmp_path / f"s{seed}", exported=True, seed=seed)
    for name in ("paths-adapt.npz", "latents-fit.npz"):
        (tmp_path / "s0" / "run" / name).write_bytes(b"not one of ours")
    inputs = load_inputs([tmp_path])
    for made in (path_figures(inputs), latent_figures(inputs)):
        (figure,), (named,) = made.items, made.missing
        assert "seed 1" in figure.caption and "seed 0" not in figure.caption
        assert str(tmp_path / "s0") in named and "cannot be read" in named


def test_runs_that_end_with_meta_training_make_figure_8(tmp_path: Path) -> None:
    """Also beside a run that shares their stage and goes on: it counts once."""
    for name, seed, until in (("short", 0, "meta_train"), ("whole", 0, None), ("other", 1, "meta_train")):
        write_run(tmp_path / name, [0.5], seed=seed, algo="simpl", env="maze-easy", until=until)
        rows = pd.read_parquet(tmp_path / name / "episodes.parquet").assign(stage="meta_train")
        trained = rows.assign(phase="meta_train_posterior", **{"return": float(seed)})
        parts = [trained] if until else [trained, rows]
        pd.concat(parts).to_parquet(tmp_path / name / "episodes.parquet")
    inputs = load_inputs([tmp_path])
    assert [group.seeds for group in inputs.groups] == [(0,)]
    figure = figure_named(study_figures(inputs), "figure8-quick")
    (axes,) = figure.draw().axes
    np.testing.assert_allclose(points(line(axes, "simpl"))[:, 1], 0.5)
    assert "simpl: 2 seeds" in figure.caption
    assert other_meta_training_figures(inputs) == Made()  # the study's figure shows it
    assert "maze-medium (simpl, bc+maml, pearl, bc+pearl)" in figure.caption.partition("Not run yet: ")[2]


def test_runs_on_the_image_maze_make_figure_11(tmp_path: Path) -> None:
    """(a, b) its tasks on the map, (c) the two algorithms; beside them, what a flow as skill prior changes."""
    for algo, score in (("simpl", 0.75), ("spirl", 0.25)):
        write_run(tmp_path / algo, [score] * 10, algo=algo, env="image-maze")
        flow = {"overrides": {"skills.prior": "flow"}}
        write_run(tmp_path / f"{algo}-full", [score / 5] * 10, algo=algo, env="image-maze-full", **flow)
    inputs = load_inputs([tmp_path])
    figure = figure_named(study_figures(inputs), "figure11-quick")
    (axes,) = figure.draw().axes
    for algo, score in (("simpl", 0.75), ("spirl", 0.25)):
        np.testing.assert_allclose(points(line(axes, algo))[:, 1], score)
    assert "Not run yet" not in figure.caption
    maps = figure_named(task_figures(inputs), "tasks-image-maze").draw().axes
    assert [panel.get_title().split("\n")[0] for panel in maps if panel.get_title()] == [
        "image-maze",
        "image-maze-full",
    ]
    full = figure_named(study_figures(inputs), "image-maze-full-quick")
    labels = [str(drawn.get_label()) for drawn in full.draw().axes[0].lines]
    assert [label.split(" (")[0] for label in labels] == [f"{a} --skills.prior flow" for a in ("simpl", "spirl")]
    assert full.caption.partition("Not run yet: ")[2].startswith("image-maze-full (simpl, spirl)")


def test_an_algorithm_that_goes_on_for_far_longer_is_drawn_as_the_level_it_ends_at(tmp_path: Path) -> None:
    """As the paper's Figure 8 has it: the shorter curves are what the axis shows."""
    for algo, episodes, score in (("simpl", 20, 0.5), ("pearl", 40, 0.25), ("bc+maml", 90, 0.75)):
        write_run(tmp_path / algo, [score, score], algo=algo, env="maze-easy", until="meta_train", episodes=episodes)
        rows = pd.read_parquet(tmp_path / algo / "episodes.parquet")
        if algo == "bc+maml":  # its tasks are drawn at random: the last bins are of those that were drawn most often
            late = rows["episode"] >= 60
            rows.loc[late, "return"] = 0.0
            rows = rows[~late | (rows["task"] == rows["task"].min())]
        rows.assign(stage="meta_train", phase="meta_train_posterior").to_parquet(tmp_path / algo / "episodes.parquet")
    figure = figure_named(study_figures(load_inputs([tmp_path])), "figure8-quick")
    (axes,) = figure.draw().axes
    level = line(axes, "bc+maml, in the end")
    assert level.get_linestyle() == "-."  # dashes are the paper's
    np.testing.assert_allclose(points(level)[:, 1], 0.75)
    assert axes.get_xlim() == (0, 40)
    assert line(axes, "pearl").get_linestyle() != "--"
    assert "Dash-dotted: bc+maml on maze-easy goes on for 90 episodes" in figure.caption


def test_a_nan_in_a_run_that_ends_with_meta_training_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "nan", [float("nan")], algo="simpl", env="maze-easy", until="meta_train")
    rows = pd.read_parquet(tmp_path / "nan" / "episodes.parquet")
    rows.assign(phase="meta_train_posterior").to_parquet(tmp_path / "nan" / "episodes.parquet")
    inputs = load_inputs([tmp_path])
    assert inputs.runs == ()
    assert [run.reason for run in inputs.excluded] == ["20 returns are not finite, the first in task task-0, episode 0"]


def test_a_legend_of_many_long_names_stays_within_its_figure(tmp_path: Path) -> None:
    for number in range(7):
        write_run(tmp_path / f"r{number}", [0.5], episodes=60, algo=f"algorithm-of-another-package-{number}")
    drawn = other_learning_figures(load_inputs([tmp_path])).items[0].draw()
    drawn.canvas.draw()
    box, (legend,) = drawn.bbox, drawn.legends
    extent = legend.get_window_extent()
    assert box.x0 <= extent.x0 and extent.x1 <= box.x1
    assert {text.get_text() for text in legend.get_texts()} == {
        f"algorithm-of-another-package-{number}" for number in range(7)
    }


def test_scores_stand_above_their_number_of_training_tasks(tmp_path: Path, shipped: ReportInputs) -> None:
    scores = {"maze": 0.75, "maze-20": 0.5, "maze-10": 0.25, "maze-top-top": 1.0}
    for env, score in scores.items():
        for seed in (0, 1):
            write_run(tmp_path / f"{env}{seed}", [score, score], algo="simpl", env=env, seed=seed)
    (figure,) = training_task_figures(load_inputs([tmp_path])).items
    (axes,) = figure.draw().axes
    np.testing.assert_allclose(points(line(axes, "simpl")), [[10, 0.25], [20, 0.5], [40, 0.75]])
    assert "maze-top-top" not in figure.caption  # other target tasks
    assert training_task_figures(shipped).missing


def test_a_kitchen_path_shows_when_subtasks_are_done(shipped: ReportInputs) -> None:
    tasks = task_distribution("kitchen")
    states = np.zeros((11, 30), np.float32)
    states[5:, 22] = -0.75  # the microwave is open from the middle on
    axes = Figure().add_subplot()
    assert tasks.draw_paths_on is not None
    tasks.draw_paths_on([states], tasks.target_tasks[:1], axes)
    marks = [part for part in axes.lines if part.get_markersize() == 7 and len(np.asarray(part.get_xdata()))]
    assert [(np.asarray(part.get_xdata())[0], part.get_marker()) for part in marks] == [(0.5, "P")]
    with pytest.raises(ValueError, match="1 episodes but 2 tasks"):
        tasks.draw_paths_on([states], tasks.target_tasks[:2], axes)


def test_labels_with_many_overrides_leave_room_for_what_is_drawn(tmp_path: Path) -> None:
    """A layout without room for its axes is a warning, which is an error here; half an inch is the least to read."""
    overrides = {"adapt.critic_updates_per_step": "6", "adapt.episodes": "6", "adapt.learning_rate": "1e-4"}
    for index, changes in enumerate(({}, overrides)):
        write_run(tmp_path / f"r{index}", [1.0, 2.0], 25, algo="simpl", env="kitchen", overrides=changes)
    inputs = load_inputs([tmp_path])
    (heat_map,) = [one for one in per_task_figures(inputs).items if one.name == "tasks-scores-kitchen-quick"]
    for figure in (heat_map, *improvement_figures(inputs).items):
        drawn = figure.draw()
        drawn.draw_without_rendering()
        assert drawn.axes[0].get_window_extent().width > 0.5 * drawn.dpi
        assert drawn.axes[0].get_window_extent().height > 0.5 * drawn.dpi
