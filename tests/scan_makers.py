"""DICOM and NIfTI files for tests."""

import io
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def dataset(pixels: np.ndarray, **elements: object) -> FileDataset:
    """A grey (H, W), colour (H, W, 3) or multi-frame (frames, H, W) image with further elements of the header."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    data.SamplesPerPixel, data.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        data.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.Rows, data.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    return data


def encoded(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, **elements: object) -> bytes:
    return encoded(dataset(pixels, **elements))


def ct(seed: int, label: int, size: int = 24) -> np.ndarray:
    """A slice in stored values (HU + 1024), brighter for label 1."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 200, (size, size)) + 960 + 120 * label).astype(np.int16)


CT = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}


def make_dicom(folder: Path, count: int = 60, each: int = 3, **elements: object) -> Path:
    """Write class folders a and b of CT slices without a suffix, `each` a patient, whose images may differ in class."""
    for number in range(count):
        label, person = number % 2, number // each
        place = folder / "ab"[label] / f"study{person}"
        place.mkdir(parents=True, exist_ok=True)
        own = {"PatientID": f"MRN-{person:05d}", "PatientAge": f"{20 + person:03d}Y", "PatientSex": "MF"[person % 2]}
        (place / f"IM{number:05d}").write_bytes(dicom(ct(number, label), **(CT | own | elements)))
    return folder
