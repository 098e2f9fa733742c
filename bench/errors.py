"""Errors that are the user's to mend: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_MESSAGE = 1000
_LONGEST_NAME = 200


class UserError(Exception):
    """Something the user asked for cannot be done; the message says what, the value, and what is valid."""

    exit_code = 2


class StorageError(UserError):
    """A file cannot be read or written (permissions, full disk), or is damaged."""


class StageFailedError(UserError):
    """A stage raised; its traceback is in ``failure.json`` beside its checkpoint."""

    exit_code = 1


class InterruptedRunError(UserError):
    """SIGINT or SIGTERM arrived; everything is saved. The exit code is the shell's 128 + signal number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


def one_line(text: str) -> str:
    """A message on one line of a length that can be read, without what steers a terminal."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    if len(line) <= _LONGEST_MESSAGE:
        return line
    end = _LONGEST_MESSAGE // 4
    return f"{line[: _LONGEST_MESSAGE - end]} [...] {line[-end:]}"


def nearest_name(name: str, valid: Iterable[str]) -> str | None:
    """The valid name closest to ``name``, or None when nothing resembles it."""
    if len(name) > _LONGEST_NAME:
        return None  # Nothing is called so, and comparing takes its time.
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.3)
    return close[0] if close else None


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UserError:
    """The error for an unknown name: ``unknown <kind> '<name>': did you mean '<near>'? valid: ...``."""
    names = list(valid)
    near = nearest_name(name, names)
    hint = f"did you mean {near!r}? " if near else ""
    shown = ", ".join(names) if len(names) <= 30 else f"{', '.join(names[:30])}, ... ({len(names)} in all)"
    return UserError(f"unknown {kind} {name!r}: {hint}valid: {shown or 'none'}")
