"""DICOM: pixels as pydicom's own tables give them, patients as groups, and no other value of a header anywhere."""

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpaat.cli import main
from dpaat.data import load_table, prepare
from dpaat.data import patients as patients_module
from dpaat.data.images import decode_image, pixel_kind
from dpaat.data.scan import framed
from dpaat.data.seen import SEEN, leave_out
from dpaat.errors import UserError
from training_makers import tiny_arguments

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut  # noqa: E402

from scan_makers import CT, ct, dataset, dicom, encoded, make_dicom  # noqa: E402

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
WINDOWED = [
    "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm",
    "MR_small_jp2klossless.dcm", "J2K_pixelrep_mismatch.dcm", "examples_overlay.dcm", "693_J2KI.dcm",
    "dicomdirtests/77654033/CR1/6154", "dicomdirtests/98892003/MR1/15820", "dicomdirtests/98892001/CT5N/2062",
]  # fmt: skip
COLOUR = [
    "examples_rgb_color.dcm", "examples_palette.dcm", "SC_rgb_rle.dcm", "ExplVR_BigEnd.dcm", "SC_rgb_jpeg_dcmtk.dcm",
    "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_small_odd.dcm", "examples_jpeg2k.dcm", "SC_rgb_gdcm_KY.dcm",
]  # fmt: skip


def shown(content: bytes, window=None, *, channels: int = 1) -> np.ndarray:
    """Grey levels at the size of the file, which is square."""
    side = pydicom.dcmread(io.BytesIO(content), force=True).Rows
    image = decode_image(content, size=side, fit="squash", channels=channels, window=window)
    return image[0] if channels == 1 else image.transpose(1, 2, 0)


def square(content: bytes) -> bytes:
    """Cut the pixels of a file square, uncompressed, so that nothing is resampled."""
    data = pydicom.dcmread(io.BytesIO(content))
    side = min(data.Rows, data.Columns)
    with warnings.catch_warnings(action="ignore"):
        pixels = data.pixel_array[:side, :side]
    data.Rows = data.Columns = side
    data.PixelData, data.file_meta.TransferSyntaxUID = pixels.tobytes(), pydicom.uid.ExplicitVRLittleEndian
    data["PixelData"].VR = "OW" if data.BitsAllocated > 8 else "OB"
    if pixels.ndim == 3:
        data.PhotometricInterpretation, data.PlanarConfiguration = "RGB", 0
    data["PixelData"].is_undefined_length = False
    return encoded(data)


def expected(data: pydicom.Dataset) -> np.ndarray:
    """Grey levels through pydicom's functions: what the window cuts off below is black and above white."""
    values = apply_modality_lut(data.pixel_array, data)
    grey = apply_voi_lut(values, data).astype(float)
    low, high = apply_voi_lut(np.array([-1e6, 1e6]), data)
    level = 255 * (grey - low) / (high - low)
    return 255 - level if data.PhotometricInterpretation == "MONOCHROME1" else level


@pytest.mark.parametrize("name", WINDOWED)
def test_bundled_grey_files_are_within_one_level_of_pydicoms_tables(name):
    path = BUNDLED / name
    if not path.is_file():
        pytest.skip(f"not bundled with pydicom: {name}")
    content = path.read_bytes()
    assert pixel_kind(content) == ("DICOM", 1)
    data = pydicom.dcmread(path)
    if data.Rows != data.Columns:
        content = square(content)
        data = pydicom.dcmread(io.BytesIO(content))
    level = expected(data)
    assert level.max() - level.min() > 20, "a picture"
    assert np.abs(shown(content, "own") - level).max() <= 1


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm"])
def test_bundled_files_that_only_gdcm_can_decode(name):
    pytest.importorskip("gdcm", reason="python-gdcm of the extra dicom is not installed")
    content = Path(get_testdata_file(name, download=False)).read_bytes()
    if name.startswith("MR"):
        plain = Path(get_testdata_file("MR_small.dcm", download=False)).read_bytes()
        assert np.array_equal(shown(content, "own"), shown(plain, "own"))
    else:
        assert np.array_equal(shown(content, channels=3), pydicom.dcmread(io.BytesIO(content)).pixel_array)


def test_a_compression_without_a_decoder_is_named():
    content = Path(get_testdata_file("JPEG-lossy.dcm", download=False)).read_bytes()
    with pytest.raises(ValueError, match=r"compressed \(JPEG Extended .* pip install 'dpaat\[dicom\]', or save it unc"):
        shown(content, (0, 100))


@pytest.mark.parametrize("name", COLOUR)
def test_bundled_colour_files_are_those_of_pydicom(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"not bundled with pydicom: {name}")
    content, data = Path(path).read_bytes(), pydicom.dcmread(path)
    want = data.pixel_array
    if data.PhotometricInterpretation == "PALETTE COLOR":
        want = apply_color_lut(want, data) >> 8
    side = min(want.shape[:2])
    got = decode_image(content, size=side, fit="crop", channels=3).transpose(1, 2, 0)
    left, top = (want.shape[1] - side) // 2, (want.shape[0] - side) // 2
    assert (want.shape[1] - side) % 2 == (want.shape[0] - side) % 2 == 0, "nothing is resampled"
    assert pixel_kind(content) == ("8-bit", 1)
    assert np.abs(got.astype(int) - want[top : top + side, left : left + side]).max() <= 1


def test_hounsfield_units_are_what_a_window_of_ours_speaks_of():
    content = Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes()
    data = pydicom.dcmread(io.BytesIO(content))
    assert pixel_kind(content)[0] == "DICOM without a window"
    units = data.pixel_array.astype(float) - 1024
    level = 255 * np.clip((units + 1000) / 2000, 0, 1)
    assert np.abs(shown(content, (-1000, 1000)) - level).max() <= 1


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_functions_of_windows(function):
    data = dataset(ct(0, 1), **CT, VOILUTFunction=function)
    assert np.abs(shown(encoded(data), "own") - expected(data)).max() <= 1


def lut(values: list[int], first: int, bits: int) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [len(values), first, bits], values
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return item


def test_tables_of_both_kinds_are_applied():
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    modality = lut([4 * value for value in range(256)], 0, 16)
    modality.ModalityLUTType = "US"
    voi = lut([min(1023, 2 * value) for value in range(1024)], 0, 10)
    data = dataset(stored, ModalityLUTSequence=[modality], VOILUTSequence=[voi], WindowCenter=1, WindowWidth=2)
    level = 255 / 1023 * np.minimum(1023, 2 * 4 * stored.astype(int))
    assert np.abs(shown(encoded(data), "own") - level).max() <= 1


def test_a_table_of_bytes_for_more_than_256_values_does_not_wrap():
    # pydicom 3.0.2 holds numbers of entries in the type of the entries; found in our audit.
    stored = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)
    data = dataset(stored, BitsStored=12, HighBit=11, VOILUTSequence=[lut([v >> 4 for v in range(4096)], 0, 8)])
    assert np.array_equal(shown(encoded(data), "own"), stored >> 4)


def test_a_falling_rescale_keeps_low_values_dark():  # OHIF/Viewers#127
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    data = dataset(stored, RescaleSlope=-10, RescaleIntercept=3000, WindowCenter=1725, WindowWidth=2551)
    assert shown(encoded(data), "own")[0, 0] == 255
    assert shown(encoded(data), (450, 3000))[0, 0] == 255


@pytest.mark.parametrize("window", ["own", (-160, 240), None])
def test_white_is_low_where_the_file_says_so(window):  # monai-deploy-app-sdk#282
    plain = ct(3, 1) if window else np.abs(ct(3, 1)).astype(np.uint8)
    header = CT if window else {}
    low = dicom(plain, PhotometricInterpretation="MONOCHROME1", **header)
    assert np.array_equal(shown(low, window), 255 - shown(dicom(plain, **header), window))


def test_enhanced_files_keep_their_tables_in_groups_of_each_frame():
    stack = np.stack([ct(0, 0), ct(1, 0)]).astype(np.int16)
    groups = [pydicom.Dataset(), pydicom.Dataset()]
    for number, group in enumerate(groups):
        rescale, window = pydicom.Dataset(), pydicom.Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024 - 100 * number
        window.WindowCenter, window.WindowWidth = 40, 400
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [rescale], [window]
    content = dicom(stack, PerFrameFunctionalGroupsSequence=groups)
    second = dicom(stack[1], **CT | {"RescaleIntercept": -1124})
    assert np.array_equal(shown(framed(content, "2"), "own"), shown(second, "own"))


def test_several_frames_are_refused_unless_one_is_meant(tmp_path, capsys):
    stack = np.stack([ct(seed, 0) for seed in range(3)])
    for number in range(8):
        place = tmp_path / "set" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.dcm").write_bytes(dicom(stack + np.int16(number), **CT, PatientID=str(number)))
    spec = f"folder:{tmp_path / 'set'}"
    with pytest.raises(UserError, match=r"it holds 3 frames or slices; say behind the dataset .*,frame=middle"):
        prepare(spec, image_size=24)
    images = {frame: prepare(f"{spec},frame={frame}", image_size=24) for frame in ("first", "middle", "2", "3")}
    first = decode_image(dicom(stack[0], **CT), size=24, fit="crop", channels=1, window="own")
    assert np.array_equal(images["first"].images[0], first)
    assert np.array_equal(images["middle"].images, images["2"].images)
    assert len({data.fingerprint for data in images.values()}) == 4, "the frame is part of the fingerprint"
    assert any("frames" in note and "middle" in note for note in images["middle"].table.notes)
    with pytest.raises(UserError, match="3 frames or slices, so there is no frame=4"):
        prepare(f"{spec},frame=4", image_size=24)
    assert main(["train", "--data", f"{spec},frame=last", "--out", str(tmp_path / "run")]) == 2
    assert "write frame=first, frame=middle, or the number" in capsys.readouterr().err


def test_a_frame_of_an_animation_can_be_meant(tmp_path):
    from PIL import Image

    pages = [Image.fromarray(np.full((16, 16), 40 * (number + 1), np.uint8)) for number in range(3)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    assert pixel_kind(buffer.getvalue()) == ("8-bit", 3)
    assert pixel_kind(framed(buffer.getvalue(), "3")) == ("8-bit", 1)
    assert decode_image(framed(buffer.getvalue(), "3"), size=16, fit="crop", channels=1).max() == 120


def test_no_patient_stands_on_two_sides(tmp_path):
    spec = f"folder:{make_dicom(tmp_path / 'set')}"
    data = prepare(spec, image_size=24)
    person = [int(Path(name).name[2:]) // 3 for name in data.ids]
    sides = pd.DataFrame({"person": person, "split": data.split}).groupby("person")["split"].nunique()
    assert len(data.ids) == 60
    assert len(sides) == 20
    assert sides.eq(1).all()
    assert set(data.split) == {"train", "val", "test"}
    assert data.table.frame["group"].nunique() == 20
    assert data.window == "own"
    assert data.kinds == ("DICOM",)
    assert data.table.frame["age"].between(20, 39).all()
    assert set(data.table.frame["sex"]) == {"male", "female"}


def test_names_of_groups_hang_on_the_key_and_nothing_else_does(tmp_path, monkeypatch):
    folder = make_dicom(tmp_path / "set", 24)
    found = []
    for key in ("one", "two", "one"):
        monkeypatch.setenv(patients_module.KEY, str(tmp_path / key))
        found.append(prepare(f"folder:{folder}", image_size=24))
    groups = [data.table.frame["group"].tolist() for data in found]
    assert groups[0] == groups[2] != groups[1]
    assert found[0].fingerprint == found[1].fingerprint
    assert np.array_equal(found[0].split, found[1].split)
    assert (tmp_path / "one").stat().st_mode & 0o077 == 0
    assert (tmp_path / "one").stat().st_size == 32


def test_a_table_may_group_otherwise_and_keeps_its_own_age(tmp_path):
    make_dicom(tmp_path / "set", 12)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "set").rglob("IM*"))
    rows = pd.DataFrame({"path": names, "label": [name.split("/")[1] for name in names], "eye": range(12), "age": 7})
    rows.to_csv(tmp_path / "t.csv", index=False)
    table = load_table(f"csv:{tmp_path / 't.csv'}")
    assert table.frame["group"].nunique() == 4
    assert (table.frame["age"] == 7).all()
    assert "sex" in table.frame
    other = load_table(f"csv:{tmp_path / 't.csv'},group=eye")
    assert other.frame["group"].nunique() == 12
    assert not other.pseudonyms


def test_what_is_odd_about_patients_is_said(tmp_path):
    table = load_table(f"folder:{make_dicom(tmp_path / 'same', 8, PatientID='ANON')}")
    assert any("all 8 DICOM files name the same patient" in line for line in table.warnings)
    table = load_table(f"folder:{make_dicom(tmp_path / 'none', 8, PatientID='', PatientAge='', PatientSex='?')}")
    assert "8 of 8 images name no patient and count as independent" in table.notes
    assert table.frame["group"].nunique() == 8
    assert "sex" not in table.frame
    table = load_table(f"folder:{make_dicom(tmp_path / 'unknown', 8, PatientID='UNKNOWN')}")
    assert table.frame["group"].nunique() == 8
    table = load_table(f"folder:{make_dicom(tmp_path / 'old', 8, PatientAge='097Y')}")
    assert (table.frame["age"] == 90).all()
    assert prepare(f"folder:{tmp_path / 'old'}", image_size=24).window == "own"


def test_files_without_a_window_need_one(tmp_path):
    folder = make_dicom(tmp_path / "set", 24, WindowCenter=None, WindowWidth=None)
    with pytest.raises(
        UserError, match=r"24 images of DICOM without a window pixels: values lie in -64 .*give --window"
    ):
        prepare(f"folder:{folder}", image_size=24)
    assert prepare(f"folder:{folder}", image_size=24, window="-160,240").window == "-160,240"
    make_dicom(folder, 3)
    with pytest.raises(UserError, match="21 of 24 images name no window of their own"):
        prepare(f"folder:{folder}", image_size=24)


def test_a_window_that_cannot_be_applied_is_named():
    with pytest.raises(ValueError, match="its own window cannot be applied"):
        shown(dicom(ct(0, 0), **CT | {"WindowWidth": 0}), "own")


def test_patients_of_a_run_are_left_out_of_other_data(tmp_path):
    run = tmp_path / "run"
    arguments = tiny_arguments(make_dicom(tmp_path / "set", 36), epochs=1, method="standard", image_size=24)
    assert main([*arguments, "--out", str(run)]) == 0
    for number in range(36):  # the patients again, in new images under new names
        place = tmp_path / "later" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        new = dicom(ct(500 + number, number % 2), **CT, PatientID=f"mrn-{number // 3:05d} ")
        (place / f"x{number}").write_bytes(new)
    known = pd.read_csv(run / "splits.csv", dtype=str)
    learned = known["split"].ne("test").sum()
    data, left = leave_out(prepare(f"folder:{tmp_path / 'later'}", image_size=24, training=False), known)
    assert 0 < left.related == learned < 36
    assert (data.split == SEEN).sum() == learned


def test_one_line_names_the_extra(tmp_path, monkeypatch, capsys):
    folder = make_dicom(tmp_path / "set", 6)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert main(["train", "--data", f"folder:{folder}", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "pip install 'dpaat[dicom]'" in said[0]
    assert not (tmp_path / "run").exists()


def test_what_holds_no_image_or_is_damaged_is_named(tmp_path, capsys):
    folder = make_dicom(tmp_path / "set", 8)
    data = dataset(ct(0, 0), **CT)
    del data.PixelData
    del data.Rows
    (folder / "a" / "REPORT").write_bytes(encoded(data))
    (folder / "a" / "cut.dcm").write_bytes(dicom(ct(1, 0), **CT)[:-600])
    (folder / "b" / "DICOMDIR").write_bytes(Path(get_testdata_file("DICOMDIR", download=False)).read_bytes())
    assert main(["data", "check", f"folder:{folder}"]) == 1
    said = "".join(capsys.readouterr().out.split())  # a long path may break anywhere
    assert "REPORT:aDICOMfilethatholdsnoimage" in said
    assert "cut.dcm:adamagedDICOMfile" in said
    assert "DICOMDIR" not in said


def test_deflated_files_are_read_and_bombs_are_not(monkeypatch):
    content = Path(get_testdata_file("image_dfl.dcm", download=False)).read_bytes()
    assert shown(content).std() > 10
    monkeypatch.setattr("dpaat.data.dicom.MAX_DEFLATED", 10_000)
    with pytest.raises(ValueError, match="unpacks to more than"):
        shown(content)


PLANTED = {
    "PatientName": "QUIXOTE^ALONSO", "PatientID": "MRN-777123", "OtherPatientIDs": "ALIAS-881", "PatientBirthDate":
    "19470929", "StudyDate": "20190817", "ContentDate": "20190818", "AcquisitionDateTime": "20190819101112",
    "StudyTime": "134455.77", "AccessionNumber": "ACC4477001", "StudyID": "STUDY-5512", "InstitutionName":
    "Hospital Dulcinea", "InstitutionAddress": "La Mancha 17", "ReferringPhysicianName": "PANZA^SANCHO",
    "OperatorsName": "ROCINANTE^X", "PatientAddress": "Windmill Road 9", "PatientTelephoneNumbers": "555-0199-77",
    "PatientComments": "fights windmills", "StudyDescription": "thorax of Quijano", "SeriesDescription": "serie Toboso",
    "ProtocolName": "protocol-Barataria", "DeviceSerialNumber": "SN-998877", "StationName": "STATION-LEPANTO",
    "Manufacturer": "Cervantes Imaging", "PatientWeight": "81.4321", "EthnicGroup": "Manchego", "Occupation":
    "knight-errant", "RequestAttributesSequence": "REQ-31337", "ImageComments": "image comment Ginesillo",
    "WindowCenterWidthExplanation": "WINDOW-ALDONZA", "RescaleType": "HU-CARRASCO", "DerivationDescription": "der-Cide",
    "BodyPartExamined": "HEADOFKNIGHT", "Modality": "ZZMOD", "SOPInstanceUID": "1.2.3.987654321.55501",
    "StudyInstanceUID": "1.2.3.987654321.55502", "FrameOfReferenceUID": "1.2.3.987654321.55503",
}  # fmt: skip


def planted(number: int, label: int) -> bytes:
    values: dict[str, object] = {name: value for name, value in PLANTED.items() if name != "RequestAttributesSequence"}
    item = pydicom.Dataset()
    item.RequestedProcedureID = PLANTED["RequestAttributesSequence"]
    person = number // 2
    values |= {"PatientID": f"{PLANTED['PatientID']}-{person}", "RequestAttributesSequence": [item]}
    # What cannot be an age or a sex is of no use, and might be anything.
    odd = {"PatientAge": "NOTANAGE", "PatientSex": "XSECRET"} if number % 5 == 0 else {"PatientAge": "061Y"}
    data = dataset(ct(number, label), **CT, **values, **odd)
    private = data.private_block(0x0011, "PRIVATE OWNER ZORAIDA", create=True)
    private.add_new(0x01, "LO", "private value Marcela")
    private.add_new(0x02, "PN", "PRIVATE^NAME^GRISOSTOMO")
    private.add_new(0x03, "OB", b"private bytes CLAVILENO")
    data.file_meta.SourceApplicationEntityTitle = "AETITLE-MERLIN"
    with warnings.catch_warnings(action="ignore"):
        return encoded(data)


SECRETS = [
    *PLANTED.values(), "NOTANAGE", "XSECRET", "ZORAIDA", "Marcela", "GRISOSTOMO", "CLAVILENO", "AETITLE-MERLIN", "061Y",
    "QUIXOTE", "PANZA", "MRN-777", "777123-3",
]  # fmt: skip


def leaked(folder: Path) -> list[tuple[str, str]]:
    """Secrets in the files of a folder, in text of 8 and 16 bits, and also in unpacked tables."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += pd.read_parquet(path).to_csv().encode()
        content = content.lower()
        for secret in SECRETS:
            if any(secret.lower().encode(code) in content for code in ("utf-8", "utf-16-le")):
                found.append((path.name, secret))
    return found


def test_no_other_value_of_a_header_is_kept_or_printed(tmp_path, capfd, caplog, monkeypatch):
    monkeypatch.setenv("DPAAT_CACHE", str(tmp_path / "kept" / "cache"))
    for number in range(36):
        place = tmp_path / "set" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:03d}").write_bytes(planted(number, number % 2))
    (tmp_path / "source").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "source" / "x").write_bytes(planted(0, 0))
    assert len({secret for _, secret in leaked(tmp_path / "source")}) > 35, "they can be found where they are"
    spec, out = f"folder:{tmp_path / 'set'}", tmp_path / "kept" / "run"
    caplog.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert main(["data", "check", spec, "--export", str(tmp_path / "kept" / "s.csv")]) == 0
        arguments = tiny_arguments(tmp_path / "set", epochs=1, method="standard", image_size=24)
        assert main([*arguments, "--out", str(out)]) == 0
        assert main(["evaluate", str(out), "--attack", "fgsm", "--eps", "2/255", "--device", "cpu"]) == 0
        assert main(["report", str(out), "--out", str(tmp_path / "kept" / "report.html")]) == 0
        assert main(["predict", str(out), str(tmp_path / "set"), "--out", str(tmp_path / "kept" / "p.csv")]) == 0
        # Values that cannot be read, and a file cut short, must not be quoted either.
        data = pydicom.dcmread(tmp_path / "set" / "a" / "000")
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        data["WindowCenter"] = pydicom.DataElement(0x00281050, "LO", "QUIXOTE^ALONSO")
        broken = encoded(data).replace(b"\x28\x00\x50\x10LO", b"\x28\x00\x50\x10DS")
        (tmp_path / "set" / "a" / "broken").write_bytes(broken)
        assert main(["data", "check", spec]) == 1
        assert main([*arguments, "--out", str(tmp_path / "kept" / "run2")]) == 2
    printed = capfd.readouterr()
    said = [printed.out, printed.err, caplog.text, *(str(warning.message) for warning in warned)]
    (tmp_path / "kept" / "printed.txt").write_text("\n".join(said))
    assert "window of each file (VOI LUT)" in printed.out
    assert "window of each file (VOI LUT)" in (tmp_path / "kept" / "report.html").read_text()
    assert '"window": "own"' in (out / "run.json").read_text()
    assert "patient-" in (out / "splits.csv").read_text()
    assert leaked(tmp_path / "kept") == []


def test_a_run_reads_other_files_as_its_own(tmp_path):
    run = tmp_path / "run"
    arguments = tiny_arguments(make_dicom(tmp_path / "set", 36), epochs=1, method="standard", image_size=24)
    assert main([*arguments, "--window=-160,240", "--out", str(run)]) == 0
    bare = make_dicom(tmp_path / "bare", 6, WindowCenter=None, WindowWidth=None)
    assert main(["predict", str(run), str(bare), "--out", str(tmp_path / "p.csv")]) == 0
    one, same = (pd.read_csv(tmp_path / "p.csv"), tmp_path / "q.csv")
    windowed = make_dicom(tmp_path / "windowed", 6, WindowCenter=900, WindowWidth=20)
    assert main(["predict", str(run), str(windowed), "--out", str(same)]) == 0
    assert np.array_equal(one.iloc[:, 2:], pd.read_csv(same).iloc[:, 2:])
