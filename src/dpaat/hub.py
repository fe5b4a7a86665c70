"""Publish a network on a model hub: what an export holds, and nothing that tells of single images or patients."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import huggingface_hub
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from dpaat.errors import UserError, first_line, listed
from dpaat.export import CARD, FILES, export
from dpaat.runs import INFO
from dpaat.storage import read_json

HOME = re.compile(rb"(?:/home/|/Users/|[A-Za-z]:\\{1,2}Users\\{1,2})[^\s/\\\"']+|/root/")
"""Paths that name whoever made the export."""


def push(source: Path, repo: str, *, public: bool = False) -> tuple[str, list[str]]:
    """Push an export, or the export of a run (without ONNX), to a repository of models on the Hugging Face hub.

    The server is `HF_ENDPOINT`, the login that of `hf auth login` or `HF_TOKEN`. A repository that is not there is
    made, private unless `public`. Returns the repository's address, and the names of the files that were pushed. Raises
    UserError: neither a run nor an export, anything in it that an export does not hold, a public repository where
    `public` was not said, or whatever the hub refuses.
    """
    try:
        validate_repo_id(repo)
    except ValueError as error:
        raise UserError(f"repo: {first_line(error)}") from None
    with TemporaryDirectory() as place:
        folder = source
        if (source / INFO).is_file():
            folder = Path(place) / "export"
            export(source, folder, onnx=False)
        elif not (source / CARD).is_file():
            raise UserError(f"{source}: neither a run folder nor an export; make one with dpaat export RUN")
        names = check_export(folder)
        return _upload(folder, names, repo, public), names


def check_export(folder: Path) -> list[str]:
    """Names of an export's files; UserError for a folder that holds more than an export does, or tells more."""
    names = sorted(path.name for path in folder.iterdir())
    if strange := [name for name in names if name not in FILES]:
        raise UserError(
            f"{folder}: holds {listed(strange)}, no part of an export; it may tell of images or patients and is not "
            "pushed: move it away"
        )
    for name in names:
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise UserError(f"{path}: not a file of its own, and not pushed")
        if found := HOME.search(path.read_bytes()):
            text = found.group().decode(errors="replace")
            raise UserError(f"{path}: holds the path {text!r}, and is not pushed; take it out, or export anew")
    if "checked" not in read_json(folder / CARD):
        raise UserError(f"{folder / CARD}: says of no check against the run; export anew")
    return names


def _upload(folder: Path, names: list[str], repo: str, public: bool) -> str:
    api = huggingface_hub.HfApi(library_name="dpaat")
    try:
        url = api.create_repo(repo, private=not public, exist_ok=True)
        if not public and not api.model_info(url.repo_id).private:
            raise UserError(f"{url}: is a public repository; say --public to push there")
        stale = [name for name in FILES if name not in names]  # of an earlier push, and not of this network
        options: dict[str, Any] = {"allow_patterns": names, "delete_patterns": stale}
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Network of dpaat", **options)
    except UserError:
        raise
    except Exception as error:  # of the server, of the network, or of a login that is not there
        advice = "; log in with `hf auth login`, or set HF_TOKEN" if "401" in str(error) else ""
        raise UserError(f"{repo}: not pushed: {first_line(error)}{advice}") from None
    return str(url)
