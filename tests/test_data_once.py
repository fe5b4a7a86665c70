import os
import time

import numpy as np
import pytest
from PIL import Image

from dpaat.cli import main
from dpaat.data import cache, prepare


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate("aabb" * 8):
        path = tmp_path / "images" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 5 * number, np.uint8)).save(path)
        os.utime(path, (1e9, 1e9 + number))
    return tmp_path / "images"


@pytest.fixture
def looked(monkeypatch):
    counts = []
    look_at = cache.look_at
    monkeypatch.setattr(cache, "look_at", lambda content: counts.append(1) or look_at(content))
    return counts


def prepared(folder, tmp_path):
    return prepare(f"folder:{folder}", image_size=8, cache_dir=tmp_path / "cache", progress=False)


def test_unchanged_files_are_read_once(folder, tmp_path, looked, monkeypatch):
    first = prepared(folder, tmp_path)
    assert len(looked) == 32
    again = prepared(folder, tmp_path)
    assert len(looked) == 32
    assert (again.fingerprint, again.digests, again.kinds) == (first.fingerprint, first.digests, first.kinds)
    assert (again.split == first.split).all()
    monkeypatch.setenv("DPAAT_VERIFY", "1")
    assert prepared(folder, tmp_path).fingerprint == first.fingerprint
    assert len(looked) == 64


@pytest.mark.parametrize("keeps", ["nothing", "size", "size and mtime"])
def test_a_changed_file_is_read_again(keeps, folder, tmp_path, looked):
    first, path = prepared(folder, tmp_path), folder / "a" / "0.png"
    before = path.stat()
    content = bytearray(path.read_bytes())
    if keeps == "nothing":
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path)
    else:
        time.sleep(0.02)
        content[-1] ^= 1  # behind the pixels: still an image
        path.write_bytes(content)
    if keeps == "size and mtime":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert prepared(folder, tmp_path).fingerprint != first.fingerprint
    assert len(looked) == 64


def test_files_just_written_are_not_trusted(folder, tmp_path, looked):
    (folder / "a" / "0.png").touch()
    prepared(folder, tmp_path)
    prepared(folder, tmp_path)
    assert len(looked) == 64


def test_verify_replaces_what_was_remembered(folder, tmp_path, looked, monkeypatch):
    prepared(folder, tmp_path)
    for path in (tmp_path / "cache" / "known").iterdir():
        with np.load(path) as content:
            arrays = dict(content)
        if "digests" in arrays:
            np.savez(path, **arrays | {"digests": arrays["digests"][::-1].copy()})
    wrong = prepared(folder, tmp_path).fingerprint
    monkeypatch.setenv("DPAAT_VERIFY", "1")
    right = prepared(folder, tmp_path).fingerprint
    monkeypatch.delenv("DPAAT_VERIFY")
    assert wrong != right == prepared(folder, tmp_path).fingerprint


def test_verify_is_an_option_of_every_command(folder, monkeypatch, tmp_path, looked, capfd):
    monkeypatch.setenv("DPAAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DPAAT_VERIFY", "")
    command = ["data", "check", f"folder:{folder}", "--image-size", "8"]
    assert main(command) == main([*command, "--verify"]) == 1  # constant images
    assert os.environ["DPAAT_VERIFY"] == "1"
