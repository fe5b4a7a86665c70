"""DICOM files: pixels through pydicom's own tables. Nothing else of a header is read but what `Patient` keeps."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dpaat.data.patients import Patient, patient
from dpaat.data.scan import BARE, DICOM, EIGHT, HEAD, Scan, Window, extra, frame_index
from dpaat.errors import UserError

PALETTE = [
    f"{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for part in ("Descriptor", "Data")
] + [f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")]  # fmt: skip
TAGS = [
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "NumberOfFrames",
    "PixelRepresentation", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *PALETTE,
]  # fmt: skip
PIXELS = ["PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
          "PlanarConfiguration", "HighBit"]  # fmt: skip
DEFLATED, MAX_DEFLATED = b"1.2.840.10008.1.2.1.99", 2**29
PERSON = ["PatientID", "PatientAge", "PatientSex"]


def peek(path: Path) -> tuple[int, Patient]:
    """Number of channels, 1 for grey and 3 for colour, and whose image it is, by the header of a file."""
    header = _read(path, PERSON)
    # As bytes: pydicom would warn of strange values, and quote them.
    values = [getattr(header.get_item(name), "value", None) for name in PERSON]
    grey = header.get("SamplesPerPixel", 1) == 1 and header.get("PhotometricInterpretation") != "PALETTE COLOR"
    return 1 if grey else 3, patient(*(value if isinstance(value, bytes) else b"" for value in values))


class DicomImage(Scan):
    """One frame of a DICOM file, in the values that its modality LUT gives, such as Hounsfield units."""

    def __init__(self, content: bytes) -> None:
        """Read the header; ValueError for a file that holds no image, UserError without pydicom."""
        self.content = content
        header = _read(io.BytesIO(content), [])
        try:
            self._header, frames = header, max(1, int(header.get("NumberOfFrames") or 1))
            size, grey = (int(header.Columns), int(header.Rows)), header.get("SamplesPerPixel", 1) == 1
            colour = str(header.PhotometricInterpretation)
        except AttributeError:
            raise ValueError("a DICOM file that holds no image") from None
        except Exception as error:  # whose text may quote the header
            raise _unreadable(error) from None
        self._palette = grey and colour == "PALETTE COLOR"
        if grey and not self._palette and not colour.startswith("MONOCHROME"):
            raise ValueError("a kind of DICOM colours that is not supported")
        super().__init__(size, "", "RGB")
        self.frame = frame_index(content, frames)
        try:
            self.kind = self._take_groups() if grey and not self._palette else EIGHT
        except Exception as error:
            raise _unreadable(error) from None
        if grey and not self._palette:
            self._mode, self.white_is_low = "L" if self.kind == EIGHT else "F", colour == "MONOCHROME1"

    def _take_groups(self) -> str:
        """Bring what an enhanced file says of the frame to where pydicom's functions look for it; return the kind."""
        header = self._header
        for name, place in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", self.frame)):
            items = header.get(name) or []
            for part in ("PixelValueTransformationSequence", "FrameVOILUTSequence") if place < len(items) else ():
                for item in (items[place].get(part) or [])[:1]:
                    header.update(item)
        if header.get("VOILUTSequence") or None not in (header.get("WindowCenter"), header.get("WindowWidth")):
            return DICOM
        rescaled = (header.get("RescaleSlope", 1), header.get("RescaleIntercept", 0)) not in ((1, 0), (None, None))
        eight = header.get("BitsStored") == 8 and header.get("PixelRepresentation") == 0
        return EIGHT if eight and not rescaled and not header.get("ModalityLUTSequence") else BARE

    def decoded(self) -> np.ndarray:
        """Decode the frame; see `Scan`."""
        pixels = _pydicom()
        try:
            found = pixels.pixel_array(_read(io.BytesIO(self.content), PIXELS, pixels=True), index=self.frame)
            if self._palette:
                found = pixels.apply_color_lut(found, self._header)
                found = found if found.dtype == np.uint8 else (found >> 8).astype(np.uint8)
            elif found.ndim == 2:
                found = pixels.apply_modality_lut(found, self._header)
        except RuntimeError:  # pydicom's where no decoder is there
            syntax = self._header.file_meta.get("TransferSyntaxUID")
            known = f" ({syntax.name})" if syntax is not None and syntax.is_transfer_syntax else ""
            raise ValueError(
                f"its pixels are compressed{known}, and no decoder here can read them; "
                "pip install 'dpaat[dicom]', or save it uncompressed"
            ) from None
        except AttributeError:
            raise ValueError("a DICOM file that holds no image, or lacks a part of its description") from None
        except Exception as error:
            raise _unreadable(error) from None
        if found.ndim == 3 and (found.shape[2] != 3 or found.dtype != np.uint8):
            raise ValueError("colours of more than 8 bits, or not three of them; save it as 8-bit colour")
        if self.kind == EIGHT and self.white_is_low:
            found, self.white_is_low = 255 - found, False
        return np.asarray(found)

    def through_own_window(self, values: np.ndarray) -> tuple[np.ndarray, Window]:
        """Values through the VOI LUT; see `Scan`."""
        if self.kind != DICOM:
            return super().through_own_window(values)
        pixels, header = _pydicom(), self._header
        try:
            if header.get("VOILUTSequence"):
                descriptor = header.VOILUTSequence[0].LUTDescriptor
                bits = int(descriptor[2])
                descriptor[2] = 16  # where it is 8, pydicom wraps numbers of entries above 255
                return pixels.apply_voi_lut(np.rint(values).astype(np.int64), header), (0.0, 2.0**bits - 1)
            with np.errstate(over="ignore"):  # of the sigmoid
                low, high = pixels.apply_voi_lut(np.array([-1e9, 1e9]), header).tolist()
                return pixels.apply_voi_lut(values, header), (low, high)
        except Exception as error:
            raise ValueError(
                f"its own window cannot be applied ({type(error).__name__}); give --window LO,HI"
            ) from None


def _pydicom() -> Any:
    """Import pydicom's module of pixels; its checks of values are switched off, since they quote what they find."""
    config = extra("pydicom.config")
    config.settings.reading_validation_mode = config.IGNORE
    return extra("pydicom.pixels")


def _read(source: Path | io.BytesIO, more: list[str], *, pixels: bool = False) -> Any:
    """Read what describes the pixels, and `more`; no other element is even looked at."""
    _pydicom()
    _refuse_bomb(source)
    try:
        return extra("pydicom").dcmread(source, stop_before_pixels=not pixels, specific_tags=[*TAGS, *more])
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(error) from None


def _refuse_bomb(source: Path | io.BytesIO) -> None:
    """Refuse a deflated file, which pydicom unpacks as a whole, if it unpacks to more than any image needs."""
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source.getbuffer()) as file:
        head = file.read(HEAD)
        if DEFLATED not in head:
            return
        file.seek(144 + int.from_bytes(head[140:144], "little"))  # behind the file meta information
        packed = file.read()
    try:
        size = len(zlib.decompressobj(-15).decompress(packed, MAX_DEFLATED + 1))
    except zlib.error as error:
        raise _unreadable(error) from None
    if size > MAX_DEFLATED:
        raise ValueError("a deflated DICOM file that unpacks to more than 512 MB; save it uncompressed")


def _unreadable(error: Exception) -> ValueError:
    """What to say in place of an error whose text may quote the header."""
    return ValueError(f"a damaged DICOM file ({type(error).__name__})")
