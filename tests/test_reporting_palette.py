"""Colours of algorithms: the same everywhere, whatever else is installed, and told apart with any colour vision."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import algorithms.registry
from algorithms.registry import register_algorithm
from bench.reporting.palette import in_order, look_of_algorithm, looks

# Pinned: pictures that are out in the world must keep their meaning. A new algorithm goes last.
COLOURS = {
    "simpl": "#3f90da", "spirl": "#ffa90e", "sac": "#bd1f01", "bc+maml": "#94a4a2", "maml": "#832db6",
    "mtrl": "#a96b59", "pearl": "#e76300", "pearl-ft": "#b9ac70", "bc+pearl": "#717581", "sac-tianshou": "#92dadd",
}  # fmt: skip
OWN = tuple(COLOURS)
# Machado, Oliveira & Fernandes 2009, "A Physiologically-based Model for Simulation of
# Color Vision Deficiency", severity 1
VISIONS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(colour: str, vision: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of an sRGB colour as it is seen."""
    channels = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(vision @ linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
def test_the_algorithms_colours_can_be_told_apart(vision: str) -> None:
    """A difference of 2.3 is just noticeable; 15 is plain even on thin lines."""
    seen = [lab(look_of_algorithm(name).colour, VISIONS[vision]) for name in OWN]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def test_no_algorithm_changes_its_colour() -> None:
    assert {name: look_of_algorithm(name).colour for name in OWN} == COLOURS


def test_markers_differ_too() -> None:
    assert len({look_of_algorithm(name).marker for name in OWN}) == len(OWN)


def test_what_else_is_registered_changes_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    names = (*OWN, "theirs", "another")
    before = {name: look_of_algorithm(name) for name in names}
    registry = algorithms.registry
    first = {"aaa": registry.AlgorithmEntry("aaa", "their_package:ALGORITHM", "comes before all of ours")}
    monkeypatch.setattr(registry, "_entries", {**first, **registry._entries})
    register_algorithm("theirs", "their_package:OTHER", "now registered")
    assert {name: look_of_algorithm(name) for name in names} == before


def test_a_name_from_elsewhere_has_its_look_for_good() -> None:
    """Figures of one study, drawn on two machines or years apart, must match: these are pinned."""
    assert look_of_algorithm("mine").colour == "#402000"
    assert look_of_algorithm("mine").marker == "p"
    assert look_of_algorithm("mine").colour not in {look_of_algorithm(name).colour for name in OWN}


def test_variants_of_one_algorithm_are_its_colour_lighter_and_in_another_line() -> None:
    found = looks(["spirl", "spirl --adapt.n_step 1", "sac"])
    plain, variant = found["spirl"], found["spirl --adapt.n_step 1"]
    assert (plain.colour, plain.marker, variant.marker) == ("#ffa90e", "s", "s")
    assert variant.colour == "#ffd486"  # half way to white: (255 + 255) / 2, (169 + 255) / 2, (14 + 255) / 2
    assert plain.line_style == "-" != variant.line_style
    assert found["sac"] == look_of_algorithm("sac")


def test_legends_are_in_the_registrys_order() -> None:
    assert in_order(["zzz", "spirl", "aaa", "simpl --a.b 1", "simpl"]) == [
        "simpl",
        "simpl --a.b 1",
        "spirl",
        "aaa",
        "zzz",
    ]
