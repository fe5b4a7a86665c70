"""Ways to spoil bytes, JSON values and names, for `bad_input.py`."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from random import Random
from typing import Any

TEXTS = (
    "",
    " ",
    "0",
    "-1",
    "nan",
    "inf",
    "1e999",
    "1e30",
    "9" * 5000,
    "--5",
    "null",
    "true",
    "[1, {",
    "{}",
    "a,b;c|d",
    "../../escape",
    "/",
    "~nobody-of-this-name/x",
    "x" * 300,
    "x" * 5000,
    "a\nb\rc",
    "\t",
    "\x00",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "\ufeffid",
    "\udcff",
    "ß字🩺é",
    "e\u0301",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "[/bold]",
    "[bold",
    "%s%n",
    "$(touch crater)",
    "; touch crater",
    "__import__('os').system('touch crater')",
    "!!python/object/apply:os.system ['touch crater']",
    "=1+1",
    "con",
    ".",
    "..",
    "٣",
    " 8/255 ",
    "8//255",
    "1" + " " * 400 + "/" + " " * 400 + "/",
)
"""Texts that have made programs stumble."""

VALUES: tuple[Any, ...] = (
    *TEXTS,
    None,
    True,
    0,
    -1,
    1,
    2**63,
    10**400,
    0.5,
    -1e300,
    1e309,
    [],
    [[]],
    {},
    {"a": 1},
    [None],
)

NAMES = tuple(text for text in TEXTS if text not in ("", ".", "..") and len(text) < 250 and not set(text) & set("/\0"))
"""The texts that a Linux file system takes as a file name."""


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.crater,)


def trap(crater: Path, protocol: int = 2) -> bytes:
    """A pickle that leaves a file behind when it is loaded."""
    return pickle.dumps({"state_dict": Trap(crater)}, protocol)


def spoil(random: Random, content: bytes) -> bytes:
    """Cut, flip, drop, double, insert or replace some bytes."""
    start, stop = sorted(random.randrange(len(content) + 1) for _ in range(2)) if content else (0, 0)
    way = random.randrange(8)
    if way == 0:
        return content[:start]
    if way == 1:
        return content[start:]
    if way == 2:
        return content[:start] + content[stop:]
    if way == 3:
        return content[:stop] + content[start:]
    if way == 4:
        return content[:start] + random.randbytes(random.choice((1, 4, 64))) + content[start:]
    if way == 5:
        return random.randbytes(random.choice((0, 1, 16, 1000)))
    flipped = bytearray(content)
    for _ in range(random.choice((1, 1, 8, 200)) if content else 0):
        flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def spoil_text(random: Random, content: str) -> bytes:
    """Put a difficult text into a text file, or damage its bytes."""
    if random.random() < 0.4:
        return spoil(random, content.encode())
    parts = content.split(random.choice(",\n: "))
    parts[random.randrange(len(parts))] = random.choice(TEXTS)
    return random.choice(",\n: ").join(parts).encode(errors="surrogateescape")


def spoil_json(random: Random, document: Any) -> str:
    """Replace, drop or double one value somewhere in a JSON document."""
    spoilt = copy.deepcopy(document)
    place = spoilt
    for _ in range(random.choice((0, 0, 1, 2, 3, 4, 6))):
        inner = place.values() if isinstance(place, dict) else place
        deeper = [value for value in inner if isinstance(value, dict | list) and value]
        if not deeper:
            break
        place = random.choice(deeper)
    key = random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
    way = random.randrange(6)
    if way == 0:
        del place[key]
    elif way == 1 and isinstance(place, list):
        place.append(place[key])
    elif way == 2 and isinstance(place, dict):
        place[str(random.choice(TEXTS))] = place.pop(key)
    else:
        place[key] = random.choice(VALUES)
    return json.dumps(spoilt, allow_nan=True)
