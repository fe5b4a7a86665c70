"""Terminal output: readers that are gone, and locales that cannot spell file names."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.EIO)
"""A pipe whose reader has ended; a terminal that was closed."""


class Output:
    """A standard stream, None if it was closed; what is written after its reader has gone is dropped.

    With `all_errors`, so is what cannot be written for another reason, such as a full disk.
    """

    def __init__(self, stream: TextIO | None, *, all_errors: bool) -> None:
        self._stream: TextIO = io.StringIO() if stream is None else stream
        self._all_errors = all_errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, if there is anybody to read it."""
        self._do(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what is held back, if there is anybody to read it."""
        self._do(self._stream.flush)

    def _do(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            # Python flushes what is left when it ends, and would complain again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if not self._all_errors and error.errno not in GONE:
                raise


@contextmanager
def lasting_output() -> Iterator[None]:
    """Let nothing notice that the reader of standard output has gone; characters that it cannot encode are escaped."""
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a closed standard stream must not become one of the files that are opened later
    os.close(free)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with (
        redirect_stdout(Output(sys.stdout, all_errors=False)) as out,
        redirect_stderr(Output(sys.stderr, all_errors=True)),
    ):
        try:
            yield
        finally:
            with suppress(OSError):
                out.flush()


def use_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode where its locale reads the names of files in another encoding.

    Names would else be escaped or garbled in everything that is written about them. The output keeps its encoding.
    """
    if sys.getfilesystemencoding().lower() == "utf-8" or not sys.executable:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    environment = {"PYTHONIOENCODING": encoding, **os.environ, "PYTHONUTF8": "1"}
    os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)
