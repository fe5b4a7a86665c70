"""Look into the wheel and the source archive: no data, no weights, no path of the machine that built them.

python .ci/check_dist.py dist
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SUFFIXES = {".py", ".pyi", ".j2", ".css", ".typed", ".txt", ".md", ".toml", ".cfg", ".in", ".yaml", ".yml", ".cff", ""}
LARGEST = 200_000
"""Bytes of one file; sources are far smaller."""


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files in an archive."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist() if not name.endswith("/"))
    else:
        with tarfile.open(path) as source:
            for member in source.getmembers():
                file = source.extractfile(member)
                if file is not None:
                    yield member.name, file.read()


def problems(name: str, content: bytes, places: list[str]) -> Iterator[str]:
    """What is wrong with one file."""
    if PurePosixPath(name).suffix not in SUFFIXES:
        yield "not a kind of file that a release holds"
    if len(content) > LARGEST:
        yield f"{len(content):,} bytes, as only data are"
    for place in places:
        if place.encode() in content:
            yield f"holds the path {place}"


def main() -> int:
    """Check all archives in a folder; 1 if something is wrong."""
    root = Path(__file__).resolve().parents[1]
    archives = sorted(Path(sys.argv[1]).glob("dpaat-*"))
    kinds = {".whl" if path.suffix == ".whl" else ".tar.gz" for path in archives}
    if kinds != {".whl", ".tar.gz"}:
        print(f"{sys.argv[1]}: needs a wheel and a source archive, found {[path.name for path in archives]}")
        return 1
    home, temporary = Path.home(), Path(tempfile.gettempdir()).resolve()
    places = [str(place) + os.sep for place in {root, root.parent, home, temporary} if place != Path(place.anchor)]
    places += ["/home/", "/Users/"]
    found = 0
    for archive in archives:
        count = 0
        for name, content in members(archive):
            count += 1
            for problem in problems(name, content, places):
                found += 1
                print(f"{archive.name}: {name}: {problem}")
        print(f"{archive.name}: {count} files, {archive.stat().st_size:,} bytes")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
