import io
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from data_makers import array_table, half_mask, jpeg
from dpaat.data import cache as cache_module
from dpaat.data import prepare
from dpaat.data.cache import _default_folder, survey
from dpaat.data.images import decode_image, decode_mask, require_same_aspect
from dpaat.errors import UserError


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(data, size=8, fit="crop", channels=3):
    return decode_image(data, size=size, fit=fit, channels=channels)


def test_crop_takes_the_central_square_and_squash_all():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 200
    assert (rgb(encode(Image.fromarray(pixels)), size=20) == 200).all()
    squashed = rgb(encode(Image.fromarray(pixels)), size=20, fit="squash")
    assert squashed.shape == (3, 20, 20)
    assert squashed[0, 0, 0] == 0
    assert squashed[0, 10, 10] == 200


def test_same_size_is_exact_and_channel_order_is_rgb():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    assert (rgb(encode(Image.fromarray(pixels)), size=9) == pixels.transpose(2, 0, 1)).all()
    assert (rgb(pixels, size=9) == pixels.transpose(2, 0, 1)).all()


def test_downscaling_is_antialiased():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    result = rgb(board.astype(np.uint8), size=8, channels=1)
    assert abs(result.astype(int) - 127).max() <= 3


def test_scaled_jpeg_decoding_is_accurate():
    data = jpeg(3, size=(1200, 900))
    exact = rgb(np.asarray(Image.open(io.BytesIO(data))), size=32).astype(int)
    assert abs(rgb(data, size=32) - exact).mean() < 1


def test_exif_rotation_is_undone():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise: the top becomes the right side
    turned = rgb(encode(Image.fromarray(pixels), "JPEG", exif=exif, quality=100), size=16)
    assert turned[0, :, 12:].mean() > 240
    assert turned[0, :, :4].mean() < 15


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_fits_an_image_as_it_is_shown(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = encode(Image.new("L", (40, 20)), kind, exif=exif)
    upright, lying = (encode(Image.new("L", size), "PNG") for size in ((20, 40), (40, 20)))
    fits, other = (upright, lying) if orientation > 4 else (lying, upright)
    require_same_aspect(fits, image)
    with pytest.raises(ValueError, match="another aspect"):
        require_same_aspect(other, image)


def stack(pages: Sequence[int]) -> bytes:
    first, *others = [Image.new("L", (16, 16), grey) for grey in pages]
    return encode(first, "TIFF", save_all=True, append_images=others)


@pytest.mark.parametrize("frame", ["3", "middle"])
def test_a_mask_is_of_the_frame_that_is_meant(tmp_path, frame):
    rows = []
    for number in range(8):
        (tmp_path / f"{number}.tif").write_bytes(stack([10, 90 + number, 200 + number]))
        pages = [np.zeros((16, 16), np.uint8) for _ in range(3)]
        for page, columns in enumerate((4, 8, 12)):
            pages[page][:, :columns] = 255
        first, *others = map(Image.fromarray, pages if number else pages[:1])
        (tmp_path / f"mask{number}.tif").write_bytes(encode(first, "TIFF", save_all=True, append_images=others))
        rows.append(f"{number}.tif,{'ab'[number % 2]},mask{number}.tif\n")
    (tmp_path / "list.csv").write_text("path,label,mask\n" + "".join(rows))
    data = prepare(f"csv:{tmp_path / 'list.csv'},frame={frame}", image_size=16, cache_dir=tmp_path / "cache")
    grey, columns = (200, 12) if frame == "3" else (90, 8)
    assert data.images[:, 0, 0, 0].tolist() == [grey + number for number in range(8)]
    masks = data.masks()
    assert (masks[1:].sum(2) == columns).all()
    assert (masks[0].sum(1) == 4).all(), "a mask of one frame is taken as it is"


def test_modes():
    red = Image.new("RGB", (8, 8), (200, 20, 20))
    for mode, kind in (("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG")):
        found = rgb(encode(red.convert(mode), kind)).mean((1, 2))
        assert abs(found - [200, 20, 20]).max() < 12, mode
    assert (rgb(encode(Image.new("RGBA", (8, 8), (200, 200, 200, 0)))) == 0).all()
    assert (rgb(encode(Image.new("1", (8, 8), 1))) == 255).all()
    assert rgb(encode(red), channels=1).shape == (1, 8, 8)


def test_16_bit_uses_the_full_scale():
    levels = np.full((8, 8), 65535, np.uint16)
    levels[:, :4] = 257 * 100
    result = rgb(encode(Image.fromarray(levels)), channels=1)
    assert result[0, 0, 0] == 100
    assert result[0, 0, 7] == 255


def test_float_pixels_are_refused():
    with pytest.raises(ValueError, match="range"):
        rgb(encode(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"))


def test_1x1_and_the_first_frame_of_an_animation():
    assert (rgb(encode(Image.new("RGB", (1, 1), (9, 8, 7))))[0] == 9).all()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    assert (rgb(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])) == 255).all()


def test_mask_has_the_geometry_of_the_image():
    mask = decode_mask(half_mask((120, 90)), size=16, fit="crop")
    assert mask.dtype == bool
    assert mask[:, :8].all()
    assert not mask[:, 8:].any()
    assert decode_mask(np.eye(8, dtype=np.uint8), size=8, fit="crop").sum() == 8


def table_of(contents):
    table = array_table([number % 2 for number in range(len(contents))])
    return type(table)(
        **{**table.__dict__, "channels": 3, "read": contents.__getitem__, "describe": lambda row: f"file{row}.jpg"}
    )


def decode(table, **options):
    found = survey(table, progress=False)
    images, pixels = cache_module.decode(table, found, **{"progress": False, **options})
    return images, found.digests, pixels


def test_cache_is_used_and_follows_the_content(tmp_path, monkeypatch):
    contents = [jpeg(number) for number in range(5)]
    images, digests, _ = decode(table_of(contents), image_size=8, fit="crop", cache_dir=tmp_path, progress=False)
    assert images.shape == (5, 3, 8, 8)
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable

    def forbidden(*_, **__):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "decode_image", forbidden)
        again, same, _ = decode(table_of(contents), image_size=8, fit="crop", cache_dir=tmp_path, progress=False)
        assert (again == images).all()
        assert same == digests
    contents[2] = jpeg(99)
    changed, other, _ = decode(table_of(contents), image_size=8, fit="crop", cache_dir=tmp_path, progress=False)
    assert [a != b for a, b in zip(digests, other, strict=True)] == [False, False, True, False, False]
    assert (changed[2] == rgb(jpeg(99))).all()
    squashed, *_ = decode(table_of(contents), image_size=8, fit="squash", cache_dir=tmp_path, progress=False)
    assert (squashed != changed).any()


def test_a_cut_cache_file_is_written_anew(tmp_path):
    contents = [jpeg(number) for number in range(3)]
    images, *_ = decode(table_of(contents), image_size=8, fit="crop", cache_dir=tmp_path, progress=False)
    expected = np.array(images)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:200])
    again, *_ = decode(table_of(contents), image_size=8, fit="crop", cache_dir=tmp_path, progress=False)
    assert (again == expected).all()


def test_concurrent_runs_share_a_cache(tmp_path):
    table = table_of([jpeg(number) for number in range(20)])
    with ThreadPoolExecutor(4) as pool:
        runs = list(
            pool.map(
                lambda _: np.array(decode(table, image_size=8, fit="crop", cache_dir=tmp_path, progress=False)[0]),
                range(4),
            )
        )
    assert all((run == runs[0]).all() for run in runs)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("bad", [jpeg(1)[:-300], b"", b"hello", b"\xff\xd8\xff\xe0"])
def test_unreadable_image_is_named_and_leaves_nothing_behind(tmp_path, bad):
    with pytest.raises(UserError, match=r"cannot read file1\.jpg") as caught:
        decode(table_of([jpeg(0), bad]), image_size=8, fit="crop", cache_dir=tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_decompression_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"file0\.jpg"):
        decode(table_of([jpeg(0), jpeg(1)]), image_size=8, fit="crop", cache_dir=tmp_path, progress=False)


def test_no_room_and_no_folder(tmp_path, monkeypatch):
    table = table_of([jpeg(0), jpeg(1)])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="DPAAT_CACHE"):
        decode(table, image_size=8, fit="crop", cache_dir=tmp_path / "file" / "sub", progress=False)
    with pytest.raises(UserError, match="GB needed"):
        decode(table, image_size=10**7, fit="crop", cache_dir=tmp_path, progress=False)


def test_default_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DPAAT_CACHE", str(tmp_path / "here"))
    decode(table_of([jpeg(0), jpeg(1)]), image_size=8, fit="crop", progress=False)
    assert len(list((tmp_path / "here").iterdir())) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the system's folder for caches is another one there")
def test_default_folder_is_that_of_the_system(tmp_path, monkeypatch):
    monkeypatch.delenv("DPAAT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _default_folder() == tmp_path / ".cache" / "dpaat"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert _default_folder() == tmp_path / "xdg" / "dpaat"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # nobody's home
    with pytest.raises(UserError, match="no home folder"):
        _default_folder()
