"""The figures of the studies that ship: a panel for each task distribution of a sweep, a line for each algorithm.

What a study compares is in its sweep file; a figure here is made of those of its runs that exist, and names the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.reporting.figures.drawing import file_name
from bench.reporting.figures.learning import learning_figure, learning_panel
from bench.reporting.figures.meta_training import meta_figure, meta_panel
from bench.reporting.model import Made, ReportFigure, ReportInputs
from bench.reporting.palette import in_order
from bench.results import run_label
from bench.sweep_file import FEW_EPISODES, LEARNING, META_TRAINING, SweepSpec, load_sweep, shipped_sweeps

FIRST_EPISODES = 20


def study_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """A figure per shipped sweep and preset of which there are runs."""
    figures, missing = [], []
    if inputs.published.empty:
        missing.append("the paper's curves: no file of published curves is here (bench report --paper CSV)")
    for name in shipped_sweeps():
        spec = load_sweep(name)
        made = [figure for preset in _presets(inputs) for figure in _figure(inputs, spec, preset)]
        figures += made
        if not made:
            what = "meta-training runs" if spec.picture == META_TRAINING else "runs"
            missing.append(f"{name} ({spec.title}): none of its {what} is here; bench sweep {name} makes them")
    return Made(tuple(figures), tuple(missing))


def other_learning_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """Learning curves of every task distribution and preset that has an algorithm which no study's figure shows."""
    shown = _shown(inputs, LEARNING)
    figures = []
    for env, preset in sorted({(group.env, group.preset) for group in inputs.groups}):
        labels = [group.label for group in inputs.groups if (group.env, group.preset) == (env, preset)]
        if any((env, preset, label) not in shown for label in labels):
            title = f"Learning the target tasks of {env}, preset {preset}"
            panel = learning_panel(inputs, env, preset)
            figures.append(learning_figure(file_name("learning", env, preset), title, [panel]))
    return Made(tuple(figures))


def other_meta_training_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """The same for meta-training."""
    shown = _shown(inputs, META_TRAINING)
    figures, trained = [], False
    for env, preset in sorted({(run.env, run.preset) for run in inputs.runs}):
        panel = meta_panel(inputs, env, preset)
        trained = trained or panel is not None
        labels = [] if panel is None else [label for group in panel.groups for label in group.label.split(" = ")]
        if panel is not None and any((env, preset, label) not in shown for label in labels):
            title = f"Meta-training on {env}, preset {preset}"
            figures.append(meta_figure(file_name("meta-training", env, preset), title, [panel]))
    missing = () if trained else ("meta-training curves: no run has episodes of meta-training",)
    return Made(tuple(figures), missing)


def _shown(inputs: ReportInputs, picture: str) -> set[tuple[str, str, str]]:
    """(task distribution, preset, label) of everything in the studies with this picture."""
    return {
        (env, preset, label)
        for name in shipped_sweeps()
        if (spec := load_sweep(name)).picture == picture
        for preset in _presets(inputs)
        for env, labels in study_rows(spec, preset).items()
        for label in labels
    }


def study_rows(spec: SweepSpec, preset: str) -> dict[str, list[str]]:
    """Labels of a study's runs by task distribution, both in the sweep's order; empty without this preset."""
    found: dict[str, list[str]] = {}
    for request in spec.requests(preset) if preset in spec.presets else ():
        overrides = {override.name: override.text for override in request.overrides}
        label = run_label({"algo": request.algo, "overrides": overrides, "data": request.data})
        labels = found.setdefault(request.env, [])
        if label not in labels:
            labels.append(label)
    return found


def _presets(inputs: ReportInputs) -> list[str]:
    return sorted({run.preset for run in inputs.runs})


def _figure(inputs: ReportInputs, spec: SweepSpec, preset: str) -> Iterator[ReportFigure]:
    """One, or none where no run of the study exists."""
    wanted = study_rows(spec, preset)
    meta = spec.picture == META_TRAINING
    there = {(one.env, one.label) for one in (inputs.runs if meta else inputs.groups) if one.preset == preset}
    envs = [env for env, labels in wanted.items() if any((env, label) in there for label in labels)]
    name, title = file_name(spec.name, preset), f"{spec.title} ({spec.name}, preset {preset})"
    if meta:
        metas = [panel for env in envs if (panel := meta_panel(inputs, env, preset, wanted[env])) is not None]
        drawn = {(p.env, label) for p in metas for group in p.groups for label in group.label.split(" = ")}
        figure = meta_figure(name, title, metas) if metas else None
    else:
        first = FIRST_EPISODES if spec.picture == FEW_EPISODES else None
        panels = [learning_panel(inputs, env, preset, wanted[env], first) for env in envs]
        drawn = {(panel.env, group.label) for panel in panels for group in panel.groups}
        figure = learning_figure(name, title, panels) if panels else None
    if figure is None:
        return
    absent = [
        f"{env} ({', '.join(labels)})"
        for env, all_labels in wanted.items()
        if (labels := [label for label in in_order(all_labels) if (env, label) not in drawn])
    ]
    caption = f"{figure.caption} Not run yet: {'; '.join(absent)}." if absent else figure.caption
    some = sorted({env for env, _ in drawn}, key=list(wanted).index)
    part = f"; {len(some)} of its {len(wanted)} task distributions" if len(some) < len(wanted) else ""
    yield replace(figure, caption=caption, title=f"{figure.title}{part}")
