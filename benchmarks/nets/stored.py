"""The nets as files: TorchScript, calibration data, the exported float model; made once for each state of their sources."""

import contextlib
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from nets.net import Net
from workbench import WORK

_HERE = Path(__file__).parent


def folder(net: Net) -> Path:
    """Where the net's files lie; another one after a change in its sources, torch or the data."""
    from importlib import metadata

    digest = hashlib.sha256(json.dumps([metadata.version("torch"), dict(net.inputs)]).encode())
    for source in sorted({"net", *net.sources}):
        digest.update((_HERE / f"{source}.py").read_bytes())
    path = WORK / "nets" / f"{net.name}-{digest.hexdigest()[:12]}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def torchscript(net: Net) -> Path:
    """The net as a traced model, ``NAME.pt``: what a user would hand over."""
    import torch

    def make(partial: Path) -> None:
        example = tuple(torch.from_numpy(net.calibration(1)[0][name]) for name in net.inputs)
        module = net.make()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(module, example), str(partial))

    return once(folder(net) / f"{net.name}.pt", make)


def calibration_folder(net: Net, count: int) -> Path:
    """A folder of ``count`` .npz files, one feed each, keys are the names of the inputs: what ``--calib`` takes."""

    def make(partial: Path) -> None:
        partial.mkdir()
        for index, feed in enumerate(net.calibration(count)):
            np.savez(partial / f"{index:04}.npz", **feed)

    return once(folder(net) / f"calibration-{count}", make)


def float_onnx(net: Net) -> Path:
    """The float model as edgebuild exports it for x86-64: the same file for all sides."""
    from edgebuild.export.run import export_model
    from edgebuild.model.request import ModelRequest
    from edgebuild.model.spec import parse_input

    inputs = tuple(parse_input(f"{name}:{text}") for name, text in net.inputs.items())
    request = ModelRequest(path=str(torchscript(net)), inputs=inputs)

    def make(partial: Path) -> None:
        with scratch(partial.with_suffix(".export")) as export:
            exported = export_model(request, export)
            if exported.engine_inputs != tuple(net.inputs):
                msg = f"{net.name}: the exported graph's inputs are {exported.engine_inputs}, not {tuple(net.inputs)}"
                raise RuntimeError(msg)
            shutil.copyfile(exported.onnx, partial)

    return once(folder(net) / f"{net.name}.onnx", make)


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def once(path: Path, make: Callable[[Path], None]) -> Path:
    """``path``, made under another name and moved, so that a broken attempt leaves nothing that looks whole."""
    if not path.exists():
        partial = path.with_name(f"partial-{path.name}")
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
        make(partial)
        partial.rename(path)
    return path
