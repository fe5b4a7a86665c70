"""User code: what `py:PKG.MODULE:NAME` refers to, and when a file may name it.

What is typed on the command line, or written in a program, is the user's. A file that names code runs it only where the
user says `--trust`, or where this user's own runs wrote the file: they sign the names with a key of the user's account.
"""

import hashlib
import hmac
import inspect
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from dpaat.errors import UserError, first_line

PREFIX = "py:"
TRUSTED = "DPAAT_TRUST"
"""Environment variable for further processes of a command: what it was told to trust, a line each; `ALL` of it."""
ALL = "1"
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
FIELDS = ("model", "data", "transform")
"""Fields of a training's configuration that can name code."""


def is_own(spec: object) -> bool:
    """Whether a text names code of the user's own."""
    return isinstance(spec, str) and spec.startswith(PREFIX)


def resolve(spec: str, field: str) -> Any:
    """Import what `py:PKG.MODULE:NAME` names; the working folder is looked through last.

    Raises UserError: not of this form, or nothing that can be imported; names the field.
    """
    module, _, name = spec.removeprefix(PREFIX).rpartition(":")
    if not module or not name:
        raise UserError(f"{field}: {spec!r} is not of the form py:PKG.MODULE:NAME, such as py:my_code:make")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds texts
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        found = import_module(module)
    except Exception as error:
        said = f"{first_line(error)}; its folder must be the working folder or on PYTHONPATH"
        raise UserError(f"{field}: {spec}: {module} cannot be imported ({said})") from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise UserError(f"{field}: {spec}: {module} has no {name!r}")
        found = getattr(found, part)
    return found


def call(factory: Any, spec: str, field: str, known: Mapping[str, Any], *, rest: str | None = None) -> Any:
    """Call a factory with those of the `known` arguments that it names; UserError for whatever goes wrong in it.

    `rest` is the one that a factory gets which names none of them, but takes any (`**kwargs`).
    """
    if not callable(factory):
        raise UserError(f"{field}: {spec} is {type(factory).__name__}, which cannot be called")
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    given = {name: value for name, value in known.items() if name in parameters}
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if rest and not given and any(each.kind is several[1] for each in parameters.values()):
        given = {rest: known[rest]}
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in several and n not in given]
    if needed:
        told = f"it is given what it names of {', '.join(known)}" if known else "it is given none"
        raise UserError(f"{field}: {spec} needs the argument {needed[0]!r}; {told}: give the rest a default")
    try:
        return factory(**given)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{field}: {spec} fails with {type(error).__name__}: {first_line(error)}") from None


def marks(names: Iterable[object]) -> dict[str, str]:
    """Sign those of some names of code, so that files with them are known as this user's later."""
    key = _key()
    return {} if key is None else {name: _mark(key, name) for name in names if is_own(name) and isinstance(name, str)}


def require_trust(names: Iterable[object], signed: object, place: object) -> None:
    """Refuse code that a file names, unless the user typed it, trusts it, or signed it; UserError names the file."""
    trusted = os.environ.get(TRUSTED, "").split("\n")
    for name in names:
        if not is_own(name) or ALL in trusted or name in trusted:
            continue
        assert isinstance(name, str)
        mark, key = (signed.get(name) if isinstance(signed, Mapping) else None), _key(make=False)
        if key is None or not isinstance(mark, str) or not hmac.compare_digest(_mark(key, name), mark):
            raise UserError(
                f"{place}: would run code, {name}, which you have not named yourself; give --trust to run it"
            )


@contextmanager
def trusting(names: Iterable[object] = (), *, everything: bool = False) -> Iterator[None]:
    """Trust some names meanwhile, or everything; also in the processes that are started meanwhile."""
    before = os.environ.get(TRUSTED)
    added = [ALL] * everything + [str(name) for name in names if is_own(name)]
    if added:
        os.environ[TRUSTED] = "\n".join([*filter(None, [before]), *added])
    try:
        yield
    finally:
        if added and before is None:
            del os.environ[TRUSTED]
        elif added:
            os.environ[TRUSTED] = str(before)


def named_in(arguments: Iterable[str]) -> list[str]:
    """Names of code in the arguments of a command."""
    return [text for each in arguments if is_own(text := each if is_own(each) else each.partition("=")[2])]


def _mark(key: bytes, name: str) -> str:
    return hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:32]


def _key(*, make: bool = True) -> bytes | None:
    """The key of this user's account, made when it is first needed; None where none can be kept."""
    try:
        path = Path(user_config_path("dpaat")) / "key"
        if not path.is_file() and make:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError), os.fdopen(os.open(path, NEW, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
        key = path.read_bytes()
    except (OSError, RuntimeError):
        return None
    return key if len(key) == 32 else None
