"""User errors, reported in one line."""

import difflib
import errno
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

WORKER_LOST = ("killed by signal: Killed", "killed by signal: Bus error", ") exited unexpectedly")
_MEMORY = "allocate memory|out of memory|not enough memory|bad_alloc|could not create a primitive|_ALLOC_FAILED"
MEMORY = (*f"{_MEMORY}|failed to map segment|can't start new thread".split("|"), *WORKER_LOST)
"""Messages of torch, drivers and system when memory is exhausted; `WORKER_LOST` of a loading process."""


class UserError(Exception):
    """Bad input. The command line prints the message as one line and exits with code 2."""


class BadValueError(UserError, ValueError):
    """Invalid argument: a `ValueError` in Python, one line and exit code 2 on the command line."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the work after it was saved: the message says how to go on, the code is 128 and the signal's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def at(place: str) -> Iterator[None]:
    """Name the place in whatever `UserError` comes up."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def listed(names: Iterable[object], most: int = 5) -> str:
    """Name some of many."""
    texts = [str(name) for name in names]
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def is_printable(name: str) -> bool:
    """Whether a name can be shown and stored: no control characters, nothing that is not Unicode."""
    return name.isprintable() or not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def require_printable(names: Iterable[str], place: str) -> None:
    """Refuse names that cannot be shown or stored; the UserError says `place`, where they come from."""
    for name in names:
        if not is_printable(name):
            encoding = sys.getfilesystemencoding().lower()
            if encoding != "utf-8" and any("\ud800" <= character <= "\udfff" for character in name):
                raise UserError(
                    f"{place}: this process reads the names of files as {encoding}, which cannot spell {name!r}; set "
                    "PYTHONUTF8=1"
                )
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
    """The error for a name of a kind, such as "model", that is not in a list, with the nearest names that are."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    if nearest:
        hint = f"nearest: {', '.join(nearest)}"
    elif len(names) <= 24:
        hint = f"known: {', '.join(names)}"
    else:
        hint = f"none of the {len(names)} known ones looks like it"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised for, says that the memory of host or device is exhausted."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError | ImportError) and any(text in str(error) for text in MEMORY):
        return True
    return error.__context__ is not None and out_of_memory(error.__context__)
