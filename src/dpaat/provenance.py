"""Provenance of a result: versions and device."""

import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import dpaat
from dpaat.runs import SCHEMA_VERSION


def provenance(device: str) -> dict[str, Any]:
    """Head of every result: schema, versions, and the device so named that two can be told apart."""
    import torch

    cuda = device.startswith("cuda")
    about = torch.cuda.get_device_name(device) if cuda else f"{_processor()}, {torch.get_num_threads()} threads"
    return {
        "schema_version": SCHEMA_VERSION,
        "dpaat_version": dpaat.__version__,
        "torch_version": torch.__version__,
        "python_version": platform.python_version(),
        "device": f"{device} ({about})",
    }


def _processor() -> str:
    """The processor with its family and model where the system tells: the last digits of sums depend on them."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "model name" in fields:
            version = "/".join(fields[name] for name in ("cpu family", "model") if name in fields)
            return f"{fields['model name']} {version}".strip()
    return platform.processor() or platform.machine()
