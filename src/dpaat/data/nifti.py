"""NIfTI files: slices of a volume, turned as radiologists look at them."""

import gzip
import io

import numpy as np

from dpaat.data.scan import EIGHT, FLOAT, GZIP, INTEGER, Scan, extra, frame_index


class NiftiImage(Scan):
    """A slice across the body's long axis, counted from the feet up, or the plane of a file that holds only one.

    Columns run from the patient's right to the left (else from front to back), rows from front to back (else from head
    to feet), as in axial slices of DICOM; the orientation is that of the file's affine.
    """

    def __init__(self, content: bytes) -> None:
        """Read the header; ValueError for what is no volume of numbers, UserError without nibabel."""
        nibabel = extra("nibabel")
        file = io.BytesIO(content)
        stream = gzip.GzipFile(fileobj=file) if content.startswith(GZIP) else file
        second = stream.read(8)[4:] == b"n+2\0"
        stream.seek(0)
        volume = (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_stream(stream)
        self._data, kind = volume.dataobj, volume.get_data_dtype().kind
        if kind not in "iuf":
            raise ValueError("pixels that are not plain numbers, such as colours; save it as one number a voxel")
        if kind == "f" or (self._data.slope, self._data.inter) != (1, 0):
            kind = FLOAT
        else:
            kind = EIGHT if volume.get_data_dtype() == np.uint8 else INTEGER
        shape = volume.shape + (1,) * (3 - len(volume.shape))
        if any(side != 1 for side in shape[3:]):
            raise ValueError(f"it has {len(shape)} dimensions; save one volume of three, or a slice")
        self._turn = nibabel.io_orientation(volume.affine)  # by voxel axis: the axis of the body, and its direction
        body = self._turn[:, 0].astype(int)
        self._axis = axis = shape.index(1) if 1 in shape[:3] else int(np.flatnonzero(body == 2)[0])
        index, count = frame_index(content, shape[axis]), shape[axis]
        self._index = index if self._turn[axis, 1] > 0 else count - 1 - index
        size = {int(body[number]): shape[number] for number in range(3) if number != axis}
        super().__init__((size[min(size)], size[max(size)]), kind, "L" if kind == EIGHT else "F")

    def decoded(self) -> np.ndarray:
        """Decode the slice; see `Scan`."""
        at = [slice(None)] * min(3, len(self._data.shape)) + [0] * (len(self._data.shape) - 3)
        if self._axis < len(at):
            at[self._axis] = slice(self._index, self._index + 1)
        values = np.asarray(self._data[tuple(at)])
        turned = extra("nibabel").apply_orientation(values.reshape(values.shape + (1,) * (3 - values.ndim)), self._turn)
        return np.asarray(np.squeeze(turned, axis=int(self._turn[self._axis, 0]))[::-1, ::-1].T)
