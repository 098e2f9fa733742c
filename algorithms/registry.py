"""Names of algorithms. An algorithm is one file and one line here, or an entry point of another package.

Modules are imported when an algorithm is asked for, so that listing names costs no torch import.
"""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from envs.plugins import broken, load_target, name_taken, plugins

if TYPE_CHECKING:
    from algorithms.stage import Algorithm

ENTRY_POINT_GROUP = "simpl_bench.algorithms"


class UnknownAlgorithmError(LookupError):
    """No algorithm has this name. The message holds the nearest valid name."""


class MissingPackageError(ImportError):
    """An algorithm needs an optional package. The message says how to install it."""


@dataclass(frozen=True)
class AlgorithmEntry:
    """Where an algorithm is found: ``target`` is ``module:attribute``, the attribute being an ``Algorithm``."""

    name: str
    target: str
    summary: str
    package: str | None = None
    """An optional package that it needs, by the name it is imported and asked for (``pip install
    'simpl-bench[PACKAGE]'``)."""
    origin: str | None = None
    """The installed package that added it; None: it is this package's own."""


_entries: dict[str, AlgorithmEntry] = {}


def register_algorithm(name: str, target: str, summary: str, package: str | None = None) -> None:
    """Make ``target`` (``"package.module:ATTRIBUTE"``) known as ``name``; ``package`` as in ``AlgorithmEntry``.

    Raises ``ValueError`` when the name is taken by another target.
    """
    known = _entries.setdefault(name, AlgorithmEntry(name, target, summary, package))
    if known.target != target:
        raise ValueError(
            f"algorithm {name!r} is already registered as {known.target}; choose another name than {target}"
        )


@cache
def _load_entry_points() -> None:
    """Raises ``BrokenPluginError`` where a package takes a name that another has."""
    for plugin in plugins(ENTRY_POINT_GROUP):
        entry = AlgorithmEntry(plugin.name, plugin.target, f"from {plugin.package}", origin=plugin.package)
        known = _entries.setdefault(plugin.name, entry)
        if known.target != plugin.target:
            raise name_taken("algorithm", plugin, known.origin or "simpl-bench")


def algorithm_entries() -> tuple[AlgorithmEntry, ...]:
    """All registered algorithms, in order of registration; nothing is imported."""
    _load_entry_points()
    return tuple(_entries.values())


def algorithm_names() -> tuple[str, ...]:
    """Names of all registered algorithms, in order of registration."""
    return tuple(entry.name for entry in algorithm_entries())


def algorithm(name: str) -> Algorithm:
    """Import and return the algorithm called ``name``.

    Raises ``UnknownAlgorithmError`` for an unknown name, ``MissingPackageError`` when an optional package is missing
    and ``BrokenPluginError`` when it is another package's and cannot be had.
    """
    names = algorithm_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownAlgorithmError(f"unknown algorithm {name!r}: {hint}valid: {', '.join(names)}")
    package = _entries[name].package
    if package is not None and importlib.util.find_spec(package) is None:
        install = f"pip install 'simpl-bench[{package}]'"
        raise MissingPackageError(
            f"algorithm {name!r} needs the package {package!r}, which is not installed: {install}"
        )
    entry = _entries[name]
    found: Algorithm = load_target("algorithm", name, entry.target, entry.origin)
    if entry.origin is not None and not hasattr(found, "stages"):
        raise broken("algorithm", name, entry.origin, TypeError(f"{entry.target} is no Algorithm but {found!r}"))
    return found


# New lines go last: the colour of an algorithm in all figures goes by its place.
register_algorithm("simpl", "algorithms.simpl:ALGORITHM", "skill-based meta-reinforcement learning")
register_algorithm("spirl", "algorithms.spirl:ALGORITHM", "skill-prior reinforcement learning, no meta-training")
register_algorithm("sac", "algorithms.sac:ALGORITHM", "soft actor-critic from scratch, primitive actions")
register_algorithm("bc+maml", "algorithms.bc_maml:ALGORITHM", "meta-learning from a cloned policy, no skills")
register_algorithm("maml", "algorithms.bc_maml:MAML", "MAML without behaviour cloning: the validation of bc+maml")
register_algorithm("mtrl", "algorithms.mtrl:ALGORITHM", "policies of the training tasks distilled into one, then SPiRL")
register_algorithm("pearl", "algorithms.pearl:PEARL", "meta-RL with a task encoder; primitive actions, no offline data")
register_algorithm("pearl-ft", "algorithms.pearl:PEARL_FT", "PEARL, then SAC on the target task")
register_algorithm("bc+pearl", "algorithms.bc_pearl:ALGORITHM", "PEARL around a policy cloned from the offline data")
register_algorithm("sac-tianshou", "algorithms.sac_tianshou:ALGORITHM", "SAC by tianshou: checks sac", "tianshou")
