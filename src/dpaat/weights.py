"""Weights from files, which may come from anywhere: read without running any code that they hold."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpaat.data.files import is_file
from dpaat.errors import UserError, first_line


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code that the file may hold.

    Raises:
        UserError: no such file, or not a plain state dict of tensors.
    """
    if not is_file(path):
        raise UserError(f"{path}: no such weights file")
    try:
        if zipfile.is_zipfile(path):
            _refuse_compressed(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: not readable as weights; it is damaged, or holds more than tensors, which is not loaded because "
            "it could run code"
        ) from None
    except Exception as error:
        raise UserError(f"{path}: not readable as weights ({first_line(error)})") from None
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    tensors = (
        {key: value for key, value in content.items() if isinstance(key, str) and _is_plain(value)}
        if isinstance(content, dict)
        else {}
    )
    if not tensors:
        raise UserError(f"{path}: holds no state dict of tensors")
    return tensors


def _refuse_compressed(path: Path) -> None:
    """Weights are stored as they are in memory; only a bomb would unpack to more than the file is long."""
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("compressed, as weights never are")


def _is_plain(value: object) -> bool:
    """Whether a value is an ordinary tensor; others have no place in a state dict."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def load_pretrained(network: nn.Module, config: dict[str, Any], path: Path, channels: int) -> None:
    """Load pretrained weights; kernels of the first layer are adapted to the channels, another head is left as it is.

    Args:
        network: of timm.
        config: timm's, which names head and first layer.
        path: see `read_weights`.
        channels: of the images.

    Raises:
        UserError: not weights of this network.
    """
    from timm.models import adapt_input_conv

    state, own = read_weights(path), network.state_dict()
    heads = config.get("classifier", ())
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    firsts = config.get("first_conv", ())
    for first in (firsts,) if isinstance(firsts, str) else tuple(firsts):
        key = f"{first}.weight"
        if key in state and state[key].ndim == 4 and state[key].shape[1] != channels:
            with suppress(AssertionError, NotImplementedError):  # no rule for so many channels: the shape tells below
                state[key] = adapt_input_conv(channels, state[key])
    wrong = [key for key in state if key in own and state[key].shape != own[key].shape]
    for key in [key for key in wrong if key.startswith(tuple(f"{head}." for head in heads))]:
        state[key] = own[key]  # a head for other classes is learned anew
        wrong.remove(key)
    missing, surplus = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or surplus or wrong:
        raise UserError(
            f"{path}: not weights of this model ({len(missing)} tensors missing, {len(surplus)} unknown, "
            f"{len(wrong)} of another shape; first: {(missing + surplus + wrong)[0]})"
        )
    network.load_state_dict(state)
