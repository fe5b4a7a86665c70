"""Bad input, generated, through the command line: one clear line and exit code 2, or handled; never a traceback.

    python tests/stress/bad_input.py [--in-process 5000] [--shell 50] [--seed 0] [--only table,npz] [--out FILE.json]

Every case is a small set of files and a command that reads them. It counts as refused if the exit code is 2 and stderr
holds one line, as handled if the exit code is 0, or 1 from `dpaat data check`, which so says that it found problems.
It fails if it ends otherwise, computes for more than a minute, runs planted code, or changes anything outside the
folders for results and for the cache. `--case KIND:NUMBER` runs one case and shows what it prints.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

BAR = re.compile(r"\d% ?\|")
LIMIT, WAIT = 60, 600
"""Seconds of computing, and in all, that a case may take."""


class HangError(BaseException):
    """A case took too long; not an Exception, so that nothing in the package catches it."""


@dataclass(frozen=True)
class Ending:
    """How a command ended: exit code, what it wrote on stderr, and the traceback if it raised."""

    code: int | None
    errors: str
    raised: str = ""


class Sandbox:
    """A folder with a place for input, results, cache and home, and what it looked like before a case.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.input, self.out, self.base = root / "input", root / "out", root / "base"
        self.watched = [self.input, self.base, root / "home", root / "cwd"]
        for folder in (*self.watched, self.out, root / "cache"):
            folder.mkdir()
        os.environ |= {"HOME": str(root / "home"), "DPAAT_CACHE": str(root / "cache")}
        os.chdir(root / "cwd")

    def clear(self) -> None:
        """Empty the folders of a case."""
        for folder in (self.input, self.out):
            shutil.rmtree(folder)
            folder.mkdir()

    def state(self) -> dict[str, tuple[int, int, int]]:
        """Type and permissions, size and time of change of everything that no command may touch."""
        found = {}
        for top in self.watched:
            for parent, folders, files in os.walk(top):
                for path in [parent, *(os.path.join(parent, name) for name in (*folders, *files))]:  # noqa: PTH118
                    status = os.lstat(path)
                    found[os.fsdecode(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
        return found


def in_process(arguments: list[str]) -> Ending:
    """Call the entry point in this process, with both streams caught as the shell would."""
    from dpaat.cli import main

    def stop(number: int, frame: FrameType | None) -> None:
        raise HangError

    with tempfile.TemporaryFile("w+", errors="replace") as errors, open(os.devnull, "w") as nowhere:  # noqa: PTH123
        kept = [os.dup(1), os.dup(2)]
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(nowhere.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        signal.signal(signal.SIGALRM, stop)
        signal.signal(signal.SIGPROF, stop)
        signal.alarm(WAIT)
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        code, raised = None, ""
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except HangError:
            raised = "took too long\n" + traceback.format_exc(limit=-6)
        except BaseException:
            raised = traceback.format_exc()
        finally:
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            sys.stdout.flush()
            sys.stderr.flush()
            for number, saved in enumerate(kept, start=1):
                os.dup2(saved, number)
                os.close(saved)
        errors.seek(0)
        return Ending(code, errors.read(), raised)


def through_shell(arguments: list[str]) -> Ending:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "dpaat", *(argument.replace("\0", "0") for argument in arguments)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=WAIT, check=False)
    except subprocess.TimeoutExpired:
        return Ending(None, "", "took too long")
    return Ending(done.returncode, done.stderr.decode(errors="replace"))


def verdict(ending: Ending, changed: list[str], command: str) -> str:
    """One word for how a case ended, or what is wrong with that."""
    # Progress bars rewrite their own line.
    lines = [line for line in ending.errors.replace("\r", "\n").splitlines() if line.strip() and not BAR.search(line)]
    if changed:
        return f"changed {changed[0]}"
    if ending.raised:
        return f"raised {ending.raised.strip().splitlines()[-1][:200]}"
    if ending.code == 2:
        clear = len(lines) == 1 and lines[0].startswith("dpaat: error: ") and len(lines[0]) > 25
        return "refused" if clear else f"{len(lines)} lines on stderr: {lines[:2]}"
    if lines:
        return f"exit code {ending.code}, but on stderr: {lines[0][:200]}"
    return "handled" if ending.code == 0 or (ending.code == 1 and command == "data") else f"exit code {ending.code}"


def make_base(sandbox: Sandbox) -> None:
    """Two finished, evaluated runs, whose copies are damaged later."""
    from bad_input_data import folder_set
    from bad_input_runs import TRAIN

    data = folder_set(sandbox.base / "base-images", ("a", "b", "c"))
    for name, method in (("one", "dpaat"), ("two", "standard")):
        run = str(sandbox.base / name)
        evaluate = ["evaluate", run, "--device=cpu", "--attack=fgsm", "--eps=2/255,8/255"]
        for arguments in ([*TRAIN, f"--method={method}", f"--data=folder:{data}", f"--out={run}"], evaluate):
            ending = in_process(arguments)
            if ending.code != 0:
                raise SystemExit(f"the sound run failed: {ending.errors}{ending.raised}")


def make_kinds(sandbox: Sandbox) -> dict[str, Callable[[random.Random], list[str]]]:
    """All kinds of bad input by name; each writes its files and gives the command."""
    from bad_input_data import KINDS
    from bad_input_runs import Runs

    def bind(make: Callable[..., list[str]], *places: Path) -> Callable[[random.Random], list[str]]:
        return lambda source: make(source, *places)

    kinds = {name: bind(make, sandbox.input) for name, make in KINDS.items()}
    runs = Runs(sandbox.base).kinds
    return kinds | {name: bind(make, sandbox.input, sandbox.out) for name, make in runs.items()}


def run_case(
    sandbox: Sandbox, make: Callable[[random.Random], list[str]], seed: str, run: Callable[[list[str]], Ending]
) -> tuple[str, Ending, list[str]]:
    """Generate and run one case; the same seed gives the same case."""
    sandbox.clear()
    arguments = make(random.Random(seed))
    before = sandbox.state()
    ending = run(arguments)
    after = sandbox.state()
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return verdict(ending, changed, arguments[0]), ending, arguments


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-process", type=int, default=5000, help="cases through the entry point")
    parser.add_argument("--shell", type=int, default=50, help="cases through the shell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="kinds, comma-separated; default all")
    parser.add_argument("--case", help="KIND:NUMBER, one case of this seed, with all that it prints")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    out = arguments.out.resolve() if arguments.out else None
    with tempfile.TemporaryDirectory(prefix="dpaat-bad-input-") as folder:
        sandbox = Sandbox(Path(folder).resolve())
        make_base(sandbox)
        kinds = make_kinds(sandbox)
        if arguments.case:
            kind, number = arguments.case.rsplit(":", 1)
            found, ending, command = run_case(sandbox, kinds[kind], f"{arguments.seed} {kind} {number}", in_process)
            print(command, ending.errors, ending.raised, found, sep="\n")
            return 0
        names = arguments.only.split(",") if arguments.only else list(kinds)
        result = measure(sandbox, {name: kinds[name] for name in names}, arguments)
    print(json.dumps(result, indent=1))
    if out:
        from dpaat.provenance import provenance

        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(provenance("cpu") | result, indent=1) + "\n")
    return 1 if result["failures"] else 0


def measure(
    sandbox: Sandbox, kinds: dict[str, Callable[[random.Random], list[str]]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Run all cases, the kinds in turn, and count how they ended."""
    counts: dict[str, dict[str, Counter[str]]] = {"in_process": {}, "shell": {}}
    failures: list[dict[str, str]] = []
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest = 0.0
    for way, total, run in (
        ("in_process", arguments.in_process, in_process),
        ("shell", arguments.shell, through_shell),
    ):
        for number in range(total):
            kind = list(kinds)[number % len(kinds)]
            case = f"{kind}:{number // len(kinds)}"
            began = time.monotonic()
            found, ending, _ = run_case(sandbox, kinds[kind], f"{arguments.seed} {case.replace(':', ' ')}", run)
            slowest = max(slowest, time.monotonic() - began)
            good = found in ("refused", "handled")
            counts[way].setdefault(kind, Counter())[found if good else "failed"] += 1
            if not good:
                failures.append({"case": case, "way": way, "found": found, "traceback": ending.raised[-1500:]})
                print(f"{way} {case}: {found}", file=sys.stderr, flush=True)
            if (number + 1) % 100 == 0:
                passed = time.monotonic() - started
                print(f"{way} {number + 1}/{total}, {passed:.0f} s", file=sys.stderr, flush=True)
    totals = {
        way: dict(sum((Counter(found) for found in each.values()), Counter())) for way, each in counts.items() if each
    }
    return {
        "seed": arguments.seed,
        "cases": {way: {kind: dict(found) for kind, found in each.items()} for way, each in counts.items() if each},
        "totals": totals,
        "failures": failures,
        "seconds": round(time.monotonic() - started, 1),
        "slowest_case_seconds": round(slowest, 1),
        "peak_memory_growth_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
    }


if __name__ == "__main__":
    sys.exit(main())
