"""What installed packages add through entry points, and what is said of a package that is broken."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator
from typing import Any, NamedTuple


class BrokenPluginError(ImportError):
    """An installed package adds something that cannot be used. The message is one line and names the package."""


class Plugin(NamedTuple):
    """One entry point."""

    name: str
    target: str
    """``module:attribute``"""
    package: str
    """The distribution that declares it."""


def plugins(group: str) -> Iterator[Plugin]:
    """The entry points of a group; nothing is imported."""
    for point in importlib.metadata.entry_points(group=group):
        yield Plugin(point.name, point.value, point.dist.name if point.dist is not None else point.value)


def name_taken(kind: str, plugin: Plugin, owner: str) -> BrokenPluginError:
    """The error for a ``plugin`` whose name is that of ``owner``'s."""
    return BrokenPluginError(
        f"the package {plugin.package!r} adds the {kind} {plugin.name!r}, a name that {owner} has already taken: "
        "rename its entry point, or uninstall it"
    )


def load_target(kind: str, name: str, target: str, package: str | None) -> Any:
    """What ``target`` (``module:attribute``) names.

    Raises ``BrokenPluginError`` where it comes from a ``package`` and cannot be had, for whatever reason.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module of somebody else's can raise anything
        if package is None:
            raise
        raise broken(kind, name, package, error) from error


def broken(kind: str, name: str, package: str, error: Exception) -> BrokenPluginError:
    """The error for ``package``'s ``name``, which raised ``error``."""
    reason = " ".join(str(error).split()) or "no reason given"
    return BrokenPluginError(
        f"{kind} {name!r} of the package {package!r} cannot be loaded: {type(error).__name__}: {reason}"
    )
