"""Programs of torch.export that were saved on a GPU, as copies that load on a machine without one.

A .pt2 archive says each tensor's device in JSON, and keeps example inputs as files of torch.save, which say theirs in a pickle. PyTorch
moves every tensor to where it was while it loads, and has no option to leave that out.
"""

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HERE = ("cpu", "meta")
_DEVICE = {"type", "index"}
"""Keys of a device in the JSON."""


def foreign_devices(path: Path) -> tuple[str, ...]:
    """Devices other than the CPU that the archive's JSON names, e.g. ("cuda:0",); none if it is no such archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {
                device["type"] if device["index"] is None else f"{device['type']}:{device['index']}"
                for name in archive.namelist()
                if name.endswith(".json")
                for device in _devices(json.loads(archive.read(name)))
                if device["type"] not in _HERE
            }
    except (OSError, ValueError, zipfile.BadZipFile):
        return ()
    return tuple(sorted(found))


def copy_on_cpu(path: Path, out: Path) -> None:
    """Writes the archive again with every device the CPU. Its pickles are read as ``torch.load`` is set to read them.

    Raises:
        Exception: Whatever reading provokes; the loader's caller explains it.
    """
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as copy:
        for info in archive.infolist():
            if info.filename.endswith(".json"):
                content = json.loads(archive.read(info))
                for device in _devices(content):
                    if device["type"] not in _HERE:
                        device.update(type="cpu", index=None)
                copy.writestr(info.filename, json.dumps(content))
            elif info.filename.endswith(".pt"):
                copy.writestr(info.filename, _saved_on_cpu(archive.read(info)))
            else:
                with archive.open(info) as source, copy.open(info.filename, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, 1 << 20)


def _saved_on_cpu(data: bytes) -> bytes:
    """What torch.save wrote, with its tensors on the CPU."""
    import torch

    if not zipfile.is_zipfile(io.BytesIO(data)):
        return data
    buffer = io.BytesIO()
    torch.save(torch.load(io.BytesIO(data), map_location="cpu"), buffer)
    return buffer.getvalue()


def _devices(value: Any) -> Iterator[dict[str, Any]]:
    """Every device in a JSON document."""
    if isinstance(value, dict):
        if value.keys() == _DEVICE and isinstance(value["type"], str):
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _devices(item)
