"""Runs under a Python that has openvino and nncf, started by sides.Peer: ``MODEL.onnx float32|int8 CALIBRATION [--transformer]``."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import openvino


def main() -> None:
    """Answers questions from standard input until it ends."""
    path, precision, calibration = sys.argv[1:4]
    core = openvino.Core()
    model = core.read_model(path)
    quantise_s = None
    if precision == "int8":
        import nncf

        feeds = [dict(np.load(file)) for file in sorted(Path(calibration).glob("*.npz"))]
        start = time.perf_counter()
        kind = nncf.ModelType.TRANSFORMER if "--transformer" in sys.argv else None
        model = nncf.quantize(model, nncf.Dataset(feeds), subset_size=len(feeds), model_type=kind)
        quantise_s = time.perf_counter() - start
    # Its default on a CPU with bfloat16 is not float32.
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    feed = dict(np.load(min(Path(calibration).glob("*.npz"))))
    request.infer(feed)
    answer({"quantise_s": quantise_s})
    for line in sys.stdin:
        question = json.loads(line)
        if "runs" in question:
            start = time.process_time()
            for _ in range(question["runs"]):
                request.infer(feed)
            answer({"seconds": (time.process_time() - start) / question["runs"]})
        else:
            outputs(request, Path(question["outputs"]), question["count"])
            answer({})


def outputs(request: "openvino.InferRequest", folder: Path, count: int) -> None:
    """Runs the feeds of in.npz, keys "INDEX.NAME", and writes the first output of each to out.npz."""
    made = {}
    with np.load(folder / "in.npz") as arrays:
        for index in range(count):
            prefix = f"{index}."
            feed = {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}
            made[str(index)] = request.infer(feed)[0].copy()
    np.savez(folder / "out.npz", **made)


def answer(value: dict) -> None:
    """One line on standard output."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
