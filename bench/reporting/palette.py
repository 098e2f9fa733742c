"""One colour and one marker for each algorithm, the same in every figure.

Colours are those of Petroff 2021, "Accessible Color Sequences for Data Visualization" (arXiv 2107.02270), chosen so
that readers with a colour-vision deficiency can tell them apart; the marker says it once more. An algorithm of this
repository has the place of its registry line. One from elsewhere gets a colour from its name alone, so it keeps it
whatever else is installed or shown; two of those may share a colour, then their markers differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from algorithms.registry import algorithm_entries

_OWN_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_OTHER_COLOURS = ("#000000", "#4000e0", "#004060", "#402000", "#200060", "#404040")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "<", ">", "h", "*")
_OWN_PACKAGE = "algorithms."
LineStyle = str | tuple[int, tuple[int, ...]]
_LINE_STYLES: tuple[LineStyle, ...] = ("-", (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
"""Of variants of one algorithm; dashes are for published curves."""


@dataclass(frozen=True)
class Look:
    """How one group of runs is drawn."""

    colour: str
    marker: str
    line_style: LineStyle = "-"


def algorithm_of(label: str) -> str:
    """The algorithm's name in a label (``ALGO --adapt.n_step 1``)."""
    return label.split()[0]


def look_of_algorithm(name: str) -> Look:
    """Colour and marker of an algorithm, registered or not."""
    own = [entry.name for entry in algorithm_entries() if entry.target.startswith(_OWN_PACKAGE)]
    if name in own and own.index(name) < len(_OWN_COLOURS):
        place = own.index(name)
        return Look(_OWN_COLOURS[place], MARKERS[place % len(MARKERS)])
    digest = hashlib.sha256(name.encode()).digest()
    return Look(_OTHER_COLOURS[digest[0] % len(_OTHER_COLOURS)], MARKERS[digest[1] % len(MARKERS)])


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A look for each label of one figure: the algorithm's colour; its variants are lighter or darker, other lines."""
    found: dict[str, Look] = {}
    seen: dict[str, int] = {}
    for label in sorted(set(labels)):
        name = algorithm_of(label)
        look = look_of_algorithm(name)
        place = seen.get(name, 0)
        seen[name] = place + 1
        found[label] = Look(_shade(look.colour, place), look.marker, _LINE_STYLES[place % len(_LINE_STYLES)])
    return found


def _shade(colour: str, place: int) -> str:
    """The colour of a variant: lighter and darker in turn."""
    share = (0.0, 0.5, -0.4, 0.25)[place % 4]
    towards = 255 if share > 0 else 0
    channels = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(channel + abs(share) * (towards - channel)):02x}" for channel in channels)


def in_order(labels: Sequence[str]) -> list[str]:
    """Labels in the registry's order, then by name: the order of legends and rows."""
    names = [entry.name for entry in algorithm_entries()]

    def key(label: str) -> tuple[int, str]:
        name = algorithm_of(label)
        return (names.index(name) if name in names else len(names), label)

    return sorted(set(labels), key=key)
