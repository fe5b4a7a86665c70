"""Whatever stands in a file from elsewhere: it is read, or refused in one line; it is never run, and never unpacked."""

import io
import json
import os
import pickle
import resource
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from data_makers import half_mask, jpeg, make_ham, write_csv
from dpaat.cli import main
from dpaat.data import load_table, prepare
from dpaat.data.images import decode_image
from dpaat.data.splits import export_splits, import_splits
from dpaat.errors import UserError, is_printable
from dpaat.radii import parse_radii
from dpaat.runs import read_config, read_info
from dpaat.storage import read_json
from dpaat.validation import Int, load_json, load_yaml, maybe, misfit, record
from dpaat.weights import read_weights
from training_makers import fails, make_images

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=30)
CELLS = st.one_of(
    st.text(max_size=20), st.sampled_from(["", "nan", "1e999", "--5", "9" * 5000, "~nobody/x", "a\nb", "x" * 300])
)


def one_line(error: pytest.ExceptionInfo[UserError] | UserError) -> None:
    assert "\n" not in str(getattr(error, "value", error))


def tolerated(read, *arguments, **options) -> None:
    """Call a reader that may refuse, in one line, and nothing else."""
    try:
        read(*arguments, **options)
    except UserError as error:
        one_line(error)


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """A damaged copy of some bytes."""
    data = bytearray(content)
    for place in draw(st.lists(st.integers(0, len(data) - 1), max_size=6)):
        data[place] ^= 1 << draw(st.integers(0, 7))
    start, stop = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
    way = draw(st.sampled_from(["flip", "flip", "cut", "drop", "double"]))
    return bytes(
        {"flip": data, "cut": data[:start], "drop": data[:start] + data[stop:], "double": data[:stop] + data[start:]}[
            way
        ]
    )


# --- texts


@quick
@given(st.text(max_size=40))
def test_a_radius_is_a_number_or_refused(text):
    try:
        radii = parse_radii(text)
    except UserError:
        return
    assert all(np.isfinite(radius) and radius >= 0 for radius in radii)


def test_a_radius_of_spaces_is_refused_at_once():
    with pytest.raises(UserError, match="eps"):
        parse_radii("1" + " " * 20_000 + "/" + " " * 20_000 + "/")


@quick
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
        max_leaves=12,
    )
)
def test_a_file_of_any_json_is_a_run_description_or_refused(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    tolerated(read_json, path)
    with pytest.raises(UserError, match=r"run\.json") as caught:
        read_info(path)
    one_line(caught)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "[1e999]", "-Infinity", "1" * 5000, "{", ""])
def test_json_that_is_none(text):
    with pytest.raises(ValueError, match=r"."):
        load_json(text)


ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    "text", [ALIASES, "a: &a [*a]", "[" * 20_000, "seed: 2024-99-99", "a: !!python/name:os.system", "seed: *x"]
)
def test_yaml_that_unfolds_or_runs(tmp_path, text, capfd):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"c\.yaml: not a configuration"):
        read_config(path)
    fails(
        capfd, "train", f"--config={path}", f"--out={tmp_path / 'out'}", names=("seed" if "2024" in text else "config",)
    )
    fails(capfd, "benchmark", path, "--dry-run", names=("c.yaml",))


def test_ordinary_aliases_are_read():
    assert load_yaml("a: &a {x: 1}\nb: [*a, *a]") == {"a": {"x": 1}, "b": [{"x": 1}, {"x": 1}]}


def test_models_of_json_name_the_place():
    shape = record(n=Int, rows=list[record(x=float, y=maybe(str))], names=dict[str, bool])
    sound = {"n": 1, "rows": [{"x": 1}, {"x": 0.5, "y": "a"}], "names": {"b": True}, "more": []}
    assert misfit(sound, shape) is None
    for change, place in [
        ({"n": True}, "n"),
        ({"n": 2**63}, "n"),
        ({"rows": {}}, "rows"),
        ({"rows": [{"x": 1}, {"x": "1"}]}, "rows[1].x"),
        ({"rows": [{"x": 1}, {}]}, "rows[1].x"),
        ({"rows": [{"x": 1, "y": 2}]}, "rows[0].y"),
        ({"names": {"b": 1}}, "names.b"),
    ]:
        assert misfit(sound | change, shape) == place


# --- tables


@quick
@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.sampled_from(["path", "label", "group", "split", "age", "sex"]), CELLS),
        max_size=3,
    )
)
def test_a_table_with_odd_cells_loads_or_is_refused(tmp_path, changes):
    folder = tmp_path / "img"
    if not folder.exists():
        folder.mkdir()
        for number in range(12):
            (folder / f"{number}.jpg").write_bytes(jpeg(number))
    rows = [
        {
            "path": f"img/{n}.jpg",
            "label": "xy"[n % 2],
            "group": f"g{n // 2}",
            "split": ("train", "val", "test")[n % 3],
            "age": n,
            "sex": "f",
        }
        for n in range(12)
    ]
    for row, column, value in changes:
        rows[row][column] = value.encode(errors="replace").decode()
    path = write_csv(tmp_path / "list.csv", rows)
    tolerated(prepare, f"csv:{path}", image_size=4, cache_dir=tmp_path / "cache", progress=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path, path,label\na,b,c\n", "two columns are called 'path'"),
        (b"path,label\na,b,c,d\n", r"cannot read .*list\.csv"),
        (b"path,label\n~nobody-of-this-name/x.jpg,a\n", "absent"),
        (b"path,label\n" + b"x" * 5000 + b".jpg,a\n", "absent"),
        (b'path,label\nimg/0.jpg,"a\x1b[31m"\nimg/1.jpg,b\n', "control characters"),
        (b"path,label\nimg/0.jpg,--5\nimg/1.jpg," + b"9" * 5000 + b"\n", None),
    ],
)
def test_tables_that_made_it_stumble(tmp_path, content, message):
    (tmp_path / "img").mkdir()
    for number in range(2):
        (tmp_path / "img" / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "list.csv").write_bytes(content)
    if message is None:
        assert len(load_table(f"csv:{tmp_path / 'list.csv'}").classes) == 2
        return
    with pytest.raises(UserError, match=message) as caught:
        load_table(f"csv:{tmp_path / 'list.csv'}")
    one_line(caught)


@quick
@given(st.lists(NAMES.filter(is_printable), min_size=1, max_size=5, unique=True))
def test_splits_come_back_whatever_the_ids(tmp_path, ids):
    path = tmp_path / "splits.csv"
    split = ["train", "val", "test", "train", "val"][: len(ids)]
    export_splits(path, ids, split)
    assert import_splits(path, ids).tolist() == split


@pytest.mark.parametrize("name", ["s.zip", "s.csv.gz", "s.xz", "s.bz2", "s.tar", "s.zst"])
def test_a_file_of_splits_is_never_unpacked(tmp_path, name):
    (tmp_path / name).write_bytes(b"id,split\na,test\n")
    assert import_splits(tmp_path / name, ["a"]).tolist() == ["test"]
    (tmp_path / name).write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(UserError, match="cannot read splits"):
        import_splits(tmp_path / name, ["a"])


# --- names


@pytest.mark.parametrize("name", ["line\nbreak", "\x1b[2Jclear", "tab\t", "\udcff", "\x7f"])
def test_names_that_cannot_be_shown_are_refused(tmp_path, name, tiny_run, capfd):
    from dpaat.cli import main

    make_images(tmp_path / "by-class", count=12)
    (tmp_path / "by-class" / "c1").rename(tmp_path / "by-class" / name)
    make_images(tmp_path / "by-file", count=12)
    image = next((tmp_path / "by-file" / "c1").iterdir())
    image = image.rename(image.with_name(f"{name}.png"))
    for folder in ("by-class", "by-file"):
        assert main(["data", "check", f"folder:{tmp_path / folder}"]) == 1
        line, total = capfd.readouterr().out.splitlines()
        assert "control characters or is not Unicode" in line
        assert is_printable(line)
        assert total == "1 problem(s)"
    fails(
        capfd, "predict", tiny_run, image, "--device=cpu", f"--out={tmp_path / 'p.csv'}", names=("control characters",)
    )


@pytest.mark.parametrize(
    "name", ["[bold]", "<script>", "ß字🩺é", "=1+1", "{{ 7 }}", "%s", "\u202egnp", "a,b;c|d", " x"]
)
def test_names_that_only_look_dangerous_are_names(tmp_path, name, capfd):

    make_images(tmp_path / "d", count=16)
    (tmp_path / "d" / "c1").rename(tmp_path / "d" / name)
    export = tmp_path / f"{name}.csv"
    assert main(["data", "check", f"folder:{tmp_path / 'd'}", f"--export={export}"]) == 0
    captured = capfd.readouterr()
    assert name.strip() in captured.out
    assert captured.err == ""
    assert f"{name}/001.png" in import_splits(export, [f"{name}/001.png"]).tolist() or export.is_file()


# --- images


def png(width: int, height: int) -> bytes:
    """A file whose header promises that many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(1, size=(20, 14)))).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


KINDS = [
    encoded("JPEG"),
    encoded("JPEG", "CMYK"),
    encoded("PNG", "RGBA"),
    encoded("PNG", "P"),
    encoded("TIFF"),
    encoded("GIF"),
    encoded("WEBP"),
    encoded("BMP"),
    encoded("PPM"),
    half_mask(),
]


@quick
@given(st.sampled_from(KINDS).flatmap(spoilt), st.sampled_from([1, 3]))
def test_a_damaged_image_is_pixels_or_an_error(content, channels):
    try:
        assert decode_image(content, size=6, fit="crop", channels=channels).shape == (channels, 6, 6)
    except Exception as error:
        # Whatever Pillow raises: the callers tell it with the name of the file.
        if isinstance(error, AssertionError):
            raise


def refuses_to_train_on(tmp_path, capfd, name):
    data, out = f"--data=folder:{tmp_path / 'd'}", f"--out={tmp_path / 'out'}"
    fails(capfd, "train", data, "--image-size=8", out, names=(name,))


@pytest.mark.parametrize(
    "content", [png(12_000, 12_000), png(60_000, 60_000), png(2**31 - 1, 2**31 - 1), b"P6 99999 99999 255\n"]
)
def test_a_bomb_is_refused_before_memory_is_spent(tmp_path, content, capfd):
    make_images(tmp_path / "d", count=12)
    (tmp_path / "d" / "c1" / "bomb.png").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuses_to_train_on(tmp_path, capfd, "bomb.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


def test_postscript_is_no_image():
    with pytest.raises(OSError, match="identify"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n", size=8, fit="crop", channels=3)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices of POSIX")
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nowhere"),
    ],
)
def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path, make, tiny_run, capfd):
    make_images(tmp_path / "d", count=12)
    odd = tmp_path / "d" / "c1" / "odd.png"
    make(odd)
    refuses_to_train_on(tmp_path, capfd, "odd.png")
    fails(capfd, "predict", tiny_run, odd, "--device=cpu", f"--out={tmp_path / 'p.csv'}", names=("odd.png",))
    fails(capfd, "data", "check", f"csv:{odd}", names=("odd.png",))


# --- archives


def ham_with(tmp_path: Path, names: dict[str, bytes], **options: object) -> Path:
    """HAM10000 in archives, with further members."""
    folder = make_ham(tmp_path / "ham", layout="zip", lesions=14)
    with zipfile.ZipFile(folder / "HAM10000_images_part_1.zip", "a", **options) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return folder


def test_members_that_climb_out_write_nothing(tmp_path):
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    names = {
        "../escape.jpg": jpeg(),
        "/escape.jpg": jpeg(),
        "..\\escape.jpg": jpeg(),
        "a/../../escape.jpg": jpeg(),
        link: b"/etc/passwd",
    }
    before = set(tmp_path.rglob("*"))
    folder = ham_with(tmp_path, names)
    made = set(tmp_path.rglob("*")) - before
    prepare(f"ham10000:{folder}", image_size=8, cache_dir=tmp_path / "cache", progress=False)
    now = {path for path in tmp_path.rglob("*") if tmp_path / "cache" not in (path, *path.parents)}
    assert now == before | made
    assert not list(tmp_path.parent.glob("escape*"))


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path):
    folder = ham_with(tmp_path, {})
    path = folder / "HAM10000_images_part_3.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("ISIC_9999999.jpg", "w") as member:
        for _ in range(60):
            member.write(bytes(10**7))
    text = (folder / "HAM10000_metadata.csv").read_text()
    (folder / "HAM10000_metadata.csv").write_text(text + "HAM_9,ISIC_9999999,nv,histo,5,male,back\n")
    with pytest.raises(UserError, match=r"ISIC_9999999\.jpg: 600 MB are too many"):
        prepare(f"ham10000:{folder}", image_size=8, cache_dir=tmp_path / "cache", progress=False)


@quick
@given(st.data())
def test_a_damaged_archive_is_read_or_refused(tmp_path, data):
    folder = tmp_path / "ham"
    if not folder.exists():
        make_ham(folder, layout="zip", lesions=7)
        (tmp_path / "good.zip").write_bytes((folder / "HAM10000_images_part_1.zip").read_bytes())
    # By inode, as replaced files are opened anew.
    path = folder / "HAM10000_images_part_1.zip"
    path.write_bytes(data.draw(spoilt((tmp_path / "good.zip").read_bytes())))
    from dpaat.data import files

    files._archive.cache_clear()
    tolerated(prepare, f"ham10000:{folder}", image_size=4, cache_dir=tmp_path / "cache", progress=False)


def medmnist(path: Path, **changes: np.ndarray) -> Path:
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        arrays[f"{split}_images"] = np.random.default_rng(count).integers(0, 256, (count, 6, 6), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count)[:, None] % 2
    np.savez_compressed(path, **(arrays | changes))
    return path


def header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@quick
@given(st.data())
def test_a_damaged_npz_is_read_or_refused(tmp_path, data):
    good = tmp_path / "good.npz"
    if not good.exists():
        medmnist(good)
    (tmp_path / "x.npz").write_bytes(data.draw(spoilt(good.read_bytes())))
    tolerated(load_table, f"medmnist:mine:{tmp_path / 'x.npz'}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": np.full((12, 1), 2**40)}, "at most 100 classes"),
        ({"train_labels": np.full((12, 1), 2**63, np.uint64)}, "whole numbers"),
        ({"train_images": np.zeros((10**9 // 36, 6, 6), np.uint8)}, "would unpack to"),
    ],
)
def test_arrays_that_would_fill_the_memory(tmp_path, changes, message):
    path = medmnist(tmp_path / "x.npz", **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message):
        load_table(f"medmnist:mine:{path}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


def test_an_array_that_is_not_all_there(tmp_path):
    path = medmnist(tmp_path / "x.npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"train_images.npy": header((10**12,))}).items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match=r"train_images\.npy is cut off"):
        load_table(f"medmnist:mine:{path}")


# --- code


class Trap:
    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self):
        return Path.touch, (self.crater,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors"])
def test_a_pickle_as_weights_is_not_run(tmp_path, protocol, suffix):
    crater, path = tmp_path / "crater", tmp_path / f"w{suffix}"
    path.write_bytes(pickle.dumps({"state_dict": Trap(crater)}, protocol))
    with pytest.raises(UserError, match="not readable as weights"):
        read_weights(path)
    assert not crater.exists()


def test_a_pickle_in_an_archive_of_torch_is_not_run(tmp_path, tiny_run, capfd):
    from shutil import copytree

    crater = tmp_path / "crater"
    torch.save({"state_dict": Trap(crater)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="could run code"):
        read_weights(tmp_path / "w.pth")
    run = copytree(tiny_run, tmp_path / "run")
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for name in ("best", "last"):
        torch.save(state | {"extra": Trap(crater)}, run / "checkpoints" / f"{name}.ckpt")
    fails(capfd, "evaluate", run, "--device=cpu", "--eps=0", names=("best.ckpt",))
    fails(capfd, "predict", run, next((tmp_path / "run").glob("*.csv")), "--device=cpu", names=("best.ckpt",))
    info = json.loads((run / "run.json").read_text()) | {"status": "stopped"}
    (run / "run.json").write_text(json.dumps(info))
    (run / "checkpoints" / "previous.ckpt").unlink()
    fails(capfd, "train", "--resume", f"--out={run}", names=("last.ckpt",))
    assert not crater.exists()


def test_a_pickle_as_npz_is_not_run(tmp_path):
    crater = tmp_path / "crater"
    trap = pickle.dumps(Trap(crater))
    path = tmp_path / "x.npz"
    path.write_bytes(trap)
    with pytest.raises(UserError, match="cannot read"):
        load_table(f"medmnist:mine:{path}")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", header((1,), "|O") + trap)
    with pytest.raises(UserError, match="cannot read"):
        load_table(f"medmnist:mine:{path}")
    assert not crater.exists()


@quick
@given(st.data(), st.sampled_from(["w.pth", "old.pth", "w.safetensors"]))
def test_damaged_weights_are_tensors_or_refused(tmp_path, data, name):
    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3)}
    if not (tmp_path / name).exists():
        torch.save(state, tmp_path / "w.pth")
        torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        save_file(state, tmp_path / "w.safetensors")
    path = tmp_path / f"spoilt{Path(name).suffix}"
    path.write_bytes(data.draw(spoilt((tmp_path / name).read_bytes())))
    tolerated(read_weights, path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1, 1).expand(10**9, 10**9),
        torch.eye(3).to_sparse(),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3, device="meta"),
    ],
)
def test_only_plain_tensors_are_weights(tmp_path, tensor):
    torch.save({"a": tensor, 5: torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no state dict of tensors"):
        read_weights(tmp_path / "w.pth")


def test_compressed_weights_are_a_bomb(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as stored,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name))
    assert read_weights(tmp_path / "w.pth")["a"].shape == (10**6,)
    with pytest.raises(UserError, match="compressed"):
        read_weights(tmp_path / "b.pth")


# --- the script


def test_the_generator_of_bad_input_finds_nothing(tmp_path, monkeypatch, capfd):
    """A sample of `tests/stress/bad_input.py`, which makes thousands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    import bad_input

    sandbox = bad_input.Sandbox(tmp_path)
    bad_input.make_base(sandbox)
    found = {}
    for kind, make in bad_input.make_kinds(sandbox).items():
        for number in range(4):
            with capfd.disabled():  # the script catches both streams itself
                word, ending, command = bad_input.run_case(sandbox, make, f"0 {kind} {number}", bad_input.in_process)
            found[kind, number] = word if word in ("refused", "handled") else (word, command, ending)
    assert not {case: end for case, end in found.items() if end not in ("refused", "handled")}
