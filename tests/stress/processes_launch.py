"""Let several processes of this machine work together as Lightning's `ddp` would start them.

They are forked from one that has everything imported, as on a busy machine the import takes longer than a small run.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only


def in_processes(count: int, work: Callable[[int], object], folder: Path, *, seconds: float = 300) -> list[str]:
    """Let processes work together; returns what each of them raised, in one line, or an empty text.

    Args:
        count: number of processes W.
        work: what each does; takes its number.
        folder: where each notes its end.
        seconds: how long it may take; a process that is still there is killed, and has "no end".
    """
    folder.mkdir(parents=True, exist_ok=True)
    ends = [folder / f"end-{rank}" for rank in range(count)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    waiting = set()
    for rank, end in enumerate(ends):
        end.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            _work(rank, count, port, work, end)
        waiting.add(child)
    deadline = time.monotonic() + seconds
    while waiting and time.monotonic() < deadline:
        waiting -= {child for child in waiting if os.waitpid(child, os.WNOHANG)[0]}
        time.sleep(0.01)
    for child in waiting:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return [end.read_text() if end.exists() else "no end" for end in ends]


def _work(rank: int, count: int, port: int, work: Callable[[int], object], end: Path) -> NoReturn:
    try:
        if count > 1:
            # What Lightning sets for the processes that it starts.
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": 0, "LOCAL_RANK": rank}
            os.environ.update({name: str(value) for name, value in place.items()})
            rank_zero_only.rank = rank  # type: ignore[attr-defined]
        torch.set_num_threads(1)
        work(rank)
        message = ""
    except BaseException as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
    end.write_text(message)
    os._exit(0)
