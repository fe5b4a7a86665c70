"""Terminal output: consoles, progress, what is slow; readers that are gone, and other encodings."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

SLOW = ("torch", "lightning", "timm", "matplotlib")
"""Libraries whose loading is announced."""
CLEAR = "\r\x1b[K"
"""Goes to the beginning of a terminal's line and clears it."""
GONE = (errno.EPIPE, errno.EIO)
"""A pipe whose reader has ended; a terminal that was closed."""


class Output:
    """A standard stream, None if it was closed; what is written after its reader has gone is dropped.

    With `all_errors`, so is what cannot be written for another reason, such as a full disk.
    """

    def __init__(self, stream: TextIO | None, *, all_errors: bool) -> None:
        self._stream: TextIO = io.StringIO() if stream is None else stream
        self._all_errors = all_errors
        self._announced = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, if there is anybody to read it, in place of what is announced."""
        if text and isinstance(sys.stderr, Output):
            sys.stderr.announce("")
        self._do(lambda: self._stream.write(text))
        return len(text)

    def announce(self, what: str) -> None:
        """On a terminal, say what is being done until something else is written; an empty text clears it."""
        if (what or self._announced) and self._stream.isatty():
            self._announced = bool(what)
            self._do(lambda: self._stream.write(CLEAR + (f"{what} ..." if what else "")))
            self._do(self._stream.flush)

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


class _Announcer(MetaPathFinder):
    """Announces libraries that take long to load."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Say so, and leave the search to others."""
        if name in SLOW:
            announce(f"loading {name}")


def announce(what: str) -> None:
    """Name what takes a while, on the last line of a terminal, until something else is written."""
    if isinstance(sys.stderr, Output):
        sys.stderr.announce(what)


def console() -> "Console":
    """Where commands print: names of files and classes are no markup and no emoji, and a progress bar makes room."""
    from rich.console import Console

    class Terminal(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
            with tqdm.external_write_mode() if tqdm else nullcontext():
                super().print(*objects, **options)
                sys.stdout.flush()

    return Terminal(markup=False, emoji=False)


def say(text: str) -> None:
    """Print a line as it is."""
    console().print(text, highlight=False, soft_wrap=True)


def warn(lines: Iterable[str]) -> None:
    """Print warnings."""
    for line in lines:
        say(f"warning: {line}")


def remove_bars() -> None:
    """Clear progress bars that an error or Ctrl-C left behind."""
    for bar in [*getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())]:
        bar.leave = False
        bar.close()


@contextmanager
def silenced(quiet: bool, machine: bool | None) -> Iterator[None]:
    """Print nothing, with `machine` on standard error; errors are raised, and told by whoever catches them."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        out = redirect_stdout(nowhere if quiet else sys.stderr) if quiet or machine else nullcontext()
        err = redirect_stderr(nowhere) if quiet else nullcontext()
        with out, err:
            yield


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
        sys.meta_path.insert(0, announcer := _Announcer())
        try:
            yield
        finally:
            sys.meta_path.remove(announcer)
            announce("")
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
