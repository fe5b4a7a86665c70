"""What the user did wrong, told in one line."""

from __future__ import annotations

import difflib
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
