"""The sides of the quantisation figures: one float model, quantised by ONNX Runtime's own tools, by edgebuild, and by hand."""

import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nets.net import Feed, Net
from nets.stored import calibration_folder, float_onnx, folder, once, scratch, torchscript
from workbench import EDGEBUILD

CALIBRATION_COUNT = 32


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One side.

    Args:
        name: In the table.
        path: An .onnx or .ort file, or a bundle; None: there is none.
        quantise_s: Wall time of quantising, without the export: for edgebuild of the whole search.
        first_s: Until the first quantised graph was complete, calibration included.
        note: What is to be said about it, e.g. why there is none.
    """

    name: str
    path: Path | None
    quantise_s: float | None = None
    first_s: float | None = None
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes of the model that is loaded."""
        assert self.path is not None
        if self.path.suffix == ".edge":
            return _bundled_model_size(self.path)
        data = self.path.with_name(self.path.name + ".data")
        return self.path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def contenders(net: Net, by_hand: Sequence[Contender] = ()) -> list[Contender]:
    """All sides; the first is the float model under ONNX Runtime, the second its static quantisation."""
    model = float_onnx(net)
    return [
        Contender(name="ORT float", path=model),
        _made(net, "ORT static", lambda path: _static(net, model, path, signed=False)),
        _made(net, "ORT static S8", lambda path: _static(net, model, path, signed=True)),
        _made(net, "ORT dynamic", lambda path: _dynamic(model, path)),
        *ours(net),
        *by_hand,
    ]


def ours(net: Net) -> list[Contender]:
    """What edgebuild makes of the same model and data."""
    bundle = folder(net) / f"{net.name}.edge"
    command = [str(EDGEBUILD), "--target", "x86-64", str(torchscript(net)), "-o", str(bundle), "--int8"]
    command += ["--calib", str(calibration_folder(net, CALIBRATION_COUNT))]
    for name, text in net.inputs.items():
        command += ["--input", f"{name}:{text}"]
    done = subprocess.run([*command, "--json"], check=False, capture_output=True, text=True, env=os.environ)
    if done.returncode != 0:
        print(f"edgebuild on {net.name}: {done.stderr.strip()[-500:]}")
        return []
    report = json.loads(done.stdout)
    trials = [
        trial
        for entry in report.get("quantization", {}).values()
        for trial in (entry.get("search") or {}).get("trials", [])
        if trial["made_s"] is not None
    ]
    first = min((trial["made_s"] for trial in trials), default=None)
    return [Contender(name="edgebuild", path=bundle, quantise_s=report["seconds"]["quantise"], first_s=first)]


def _made(net: Net, name: str, quantise: Callable[[Path], None]) -> Contender:
    """A side that is made once; its time is kept beside it."""
    path = folder(net) / f"{name.replace(' ', '-').lower()}-{CALIBRATION_COUNT}.onnx"
    record = path.with_suffix(".json")

    def make(partial: Path) -> None:
        start = time.perf_counter()
        quantise(partial)
        record.write_text(json.dumps(time.perf_counter() - start), encoding="utf-8")

    logging.getLogger().setLevel(logging.ERROR)  # the quantisers warn of what they can't know to be harmless
    try:
        once(path, make)
    except Exception as error:  # what a peer's tool raises is a result
        return Contender(name=name, path=None, note=f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")
    return Contender(name=name, path=path, quantise_s=json.loads(record.read_text(encoding="utf-8")))


def _prepared(model: Path, path: Path) -> Path:
    """``model`` pre-processed as ONNX Runtime's documentation asks for before its quantisers."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        quant_pre_process(str(model), str(path))
    except Exception:  # its symbolic shape inference does not know all operators
        quant_pre_process(str(model), str(path), skip_symbolic_shape=True)
    return path


def _static(net: Net, model: Path, path: Path, *, signed: bool) -> None:
    """quantize_static with its defaults but per channel: min-max, Q/DQ.

    Its default of signed activations is the slow form on x86 (measured: ResNet-50 1.3 times float, unsigned 3.3); the side to
    beat is the fast one.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: list[Feed] = list(reversed(net.calibration(CALIBRATION_COUNT)))

        def get_next(self) -> Feed | None:
            return self.left.pop() if self.left else None

    with scratch(path.with_suffix(".scratch")) as work:
        prepared = _prepared(model, work / "prepared.onnx")
        activations = QuantType.QInt8 if signed else QuantType.QUInt8
        quantize_static(str(prepared), str(path), Reader(), per_channel=True, activation_type=activations)


def _dynamic(model: Path, path: Path) -> None:
    """quantize_dynamic with its defaults but per channel."""
    from onnxruntime.quantization import quantize_dynamic

    with scratch(path.with_suffix(".scratch")) as work:
        quantize_dynamic(str(_prepared(model, work / "prepared.onnx")), str(path), per_channel=True)


def _bundled_model_size(bundle: Path) -> int:
    from edgebuild.bundle.reader import Bundle

    opened = Bundle.open(bundle)
    names = {opened.manifest.variants[0].model, *opened.manifest.variants[0].data}
    return sum(opened.manifest.files[name].size for name in names)
