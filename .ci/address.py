"""Write the repository's address into what a package index shows, before a release is built.

Links of README.md into the repository become whole addresses, and pyproject.toml gets the pages of the project.

python .ci/address.py https://github.com/OWNER/NAME
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGES = {
    "Repository": "",
    "Documentation": "/blob/HEAD/docs/index.md",
    "Changelog": "/blob/HEAD/CHANGELOG.md",
    "Issues": "/issues",
}


def with_address(markdown: str, address: str) -> str:
    """Markdown whose links and pictures are found from everywhere."""

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link["picture"] else "blob"
        return f"{link['picture']}[{link['text']}]({address}/{kind}/HEAD/{link['place']})"

    return re.sub(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?!https?:|#)(?P<place>[^)]+)\)", absolute, markdown)


def with_pages(pyproject: str, address: str) -> str:
    """The pages of the project under [project.urls]."""
    lines = "".join(f'{name} = "{address}{place}"\n' for name, place in PAGES.items())
    changed, count = re.subn(
        r"^\[project\.urls\].*\n", lambda found: found.group() + lines, pyproject, flags=re.MULTILINE
    )
    if count != 1:
        raise ValueError("pyproject.toml: no [project.urls]")
    return changed


def main(address: str, root: Path) -> None:
    """Change both files."""
    for name, change in (("README.md", with_address), ("pyproject.toml", with_pages)):
        path = root / name
        path.write_text(change(path.read_text(encoding="utf-8"), address.rstrip("/")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(__file__).resolve().parents[1])
