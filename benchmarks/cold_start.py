"""From exec to the first result: edgerun on a bundle against a bare program, MobileNetV2 in float and INT8."""

import json
import statistics
import subprocess
from pathlib import Path

import numpy as np

from nets import find
from nets.stored import torchscript
from workbench import (
    WORK,
    Cost,
    alternate,
    bundle,
    engine_library,
    model_file,
    native_program,
    process_cost,
    show,
    spread,
)

RUNS = 25
LIMITS = {"float32": (140.0, None), "int8": (110.0, 60.0)}


def quantised(float_onnx: Path) -> Path:
    """MobileNetV2 in static INT8 as ONNX Runtime's own tool makes it, per channel, from random images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = WORK / "mobilenet_v2_int8.onnx"
    if path.exists():
        return path

    class Random(CalibrationDataReader):
        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            self.left = [generator.standard_normal((1, 3, 224, 224), dtype=np.float32) for _ in range(8)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return {"x": self.left.pop()} if self.left else None

    prepared = WORK / "mobilenet_v2_prepared.onnx"
    quant_pre_process(str(float_onnx), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(path), Random(), per_channel=True, weight_type=QuantType.QInt8)
    return path


def main() -> None:
    """At most the bare program + hashing + 5 ms; INT8 under 110 ms and 60 MiB, float under 140 ms of processor time."""
    inputs = WORK / "image.npz"
    source = torchscript(find("mobilenet_v2"))
    float_bundle = bundle(source, "--input", "x:float32[1,3,224,224]")
    np.savez(inputs, x=np.ones((1, 3, 224, 224), np.float32))
    int8_bundle = bundle(quantised(model_file(float_bundle)))
    rows = []
    for precision, folder in (("float32", float_bundle), ("int8", int8_bundle)):
        program = str(folder / "bin" / "edgerun")
        output = str(WORK / "cold.npz")
        run = [program, "run", "--inputs", str(inputs), "--outputs", output, "--option", "intra_op_threads=1"]

        def bare(folder: Path = folder) -> Cost:
            command = [str(native_program("bare_first_result")), str(engine_library()), str(model_file(folder))]
            return process_cost(command)

        ours, theirs = alternate(RUNS, lambda run=run: process_cost(run), bare)
        timing = json.loads(subprocess.run([*run, "--json"], check=True, capture_output=True, text=True).stdout)
        hashing = timing["hashing_s"] * 1e3
        ours_ms = statistics.median(c.cpu_ms for c in ours)
        theirs_ms = statistics.median(c.cpu_ms for c in theirs)
        limit, memory = LIMITS[precision]
        rows.append(
            (
                precision,
                model_file(folder).name,
                spread([c.cpu_ms for c in ours]),
                spread([c.cpu_ms for c in theirs]),
                f"{hashing:.1f} ({timing['hashed_bytes'] / 2**20:.1f} MiB, {timing['hashed_bytes'] / hashing / 1e6:.2f} GB/s)",
                f"{ours_ms - theirs_ms - hashing:+.1f} of 5",
                f"{limit:.0f}",
                f"{statistics.median(c.peak_mib for c in ours):.1f}" + (f" of {memory:.0f}" if memory else ""),
                f"{statistics.median(c.peak_mib for c in theirs):.1f}",
            )
        )
    show(
        "Cold start of MobileNetV2, one thread: processor ms from exec to end (median; 10th to 90th percentile)",
        ("precision", "file", "edgerun", "bare", "hashing", "rest", "limit", "peak MiB", "bare's"),
        rows,
    )


if __name__ == "__main__":
    main()
