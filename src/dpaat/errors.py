"""What the user did wrong, told in one line."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The command line prints the message as one line and exits with code 2."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the work after it was saved; the command line prints the message and exits with `exit_code`.

    Args:
        message: what was saved, and how to go on.
        exit_code: 128 and the number of the signal: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def listed(names: Iterable[object], most: int = 5) -> str:
    """Name some of many."""
    texts = [str(name) for name in names]
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def is_printable(name: str) -> bool:
    """Whether a name can be shown and stored: no control characters, nothing that is not Unicode."""
    return name.isprintable() or not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def require_printable(names: Iterable[str], place: str) -> None:
    """Refuse names that cannot be shown or stored.

    Args:
        names: of files, classes and the like.
        place: where they come from, for the message.

    Raises:
        UserError: names the first.
    """
    for name in names:
        if not is_printable(name):
            raise UserError(f"{place}: the name {name!r} holds control characters or is not Unicode; rename it")


def one_line(message: str) -> str:
    """Bring a message into one line that a terminal shows as it is."""
    line = " ".join(message.split())
    return "".join(c if is_printable(c) else c.encode("unicode_escape").decode("ascii") for c in line)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Make the error for a name that is not in a list, with the nearest names that are.

    Args:
        kind: what the name stands for, such as "model".
        name: what the user wrote.
        known: all valid names.
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    if nearest:
        hint = f"nearest: {', '.join(nearest)}"
    elif len(names) <= 24:
        hint = f"known: {', '.join(names)}"
    else:
        hint = f"none of the {len(names)} known ones looks like it"
    return UserError(f"unknown {kind} {name!r}; {hint}")
