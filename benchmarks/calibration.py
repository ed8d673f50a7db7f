"""Calibration: time against float inference, memory against the number of samples, both against ONNX Runtime's calibrators.

``calibration.py [--samples N] [--engine-samples N]``. Every figure is a process of its own, on one core; times are processor time.
"""

import argparse
import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench import ROOT, engine_library, show

ENGINE_SAMPLES = 16
"""For ONNX Runtime's histogram calibrators, which keep every activation of every sample: 52 MiB a sample of MobileNetV2."""

DISTINCT = 32


def main(arguments: list[str] | None = None) -> None:
    """Prints the tables; as ``calibration.py child …`` measures one side and prints a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--engine-samples", type=int, default=ENGINE_SAMPLES)
    options = parser.parse_args(arguments or [])
    show_time(options.samples)
    show_memory()
    show_engine(options.engine_samples)


def show_time(samples: int) -> None:
    """At most 3 times the inferences, 2 aimed for."""
    got = measure("ours", "mobilenet_v2", samples)
    steps = (
        (f"{samples} float inferences", "float_s"),
        ("observing, with opening", "observe_s"),
        ("four ranges each", "ranges_s"),
    )
    rows = [(text, f"{got[key]:.2f}", f"{got[key] / got['float_s']:.2f}") for text, key in steps]
    total = got["observe_s"] + got["ranges_s"]
    rows.append(("calibration", f"{total:.2f}", f"{total / got['float_s']:.2f} (at most 3, aimed for 2)"))
    show(f"Calibrating {got['tensors']:.0f} tensors of MobileNetV2", ("", "processor s", "times float"), rows)


def show_memory() -> None:
    """Within 5% between 32 and 4,096 samples."""
    rows = []
    for name in ("digits_cnn", "mobilenet_v2"):
        peaks = {
            samples: measure("ours", name, samples)["peak_mib"]
            for samples in (32, 4096 if name == "digits_cnn" else 256)
        }
        few, many = peaks.values()
        rows.append(
            (name, " and ".join(map(str, peaks)), f"{few:.1f}", f"{many:.1f}", f"{(many / few - 1) * 100:+.1f}%")
        )
    show("Peak memory of calibrating, MiB", ("net", "samples", "few", "many", "growth (at most 5%)"), rows)


def show_engine(samples: int) -> None:
    """Less of both than quantize_static's entropy and percentile calibrators."""
    rows = []
    sides = (
        ("edgebuild, all four", "ours"),
        ("ONNX Runtime, percentile", "percentile"),
        ("ONNX Runtime, entropy", "entropy"),
    )
    for text, side in sides:
        got = measure(side, "mobilenet_v2", samples)
        seconds = got["observe_s"] + got["ranges_s"]
        rows.append((text, f"{seconds:.2f}", f"{seconds / samples * 1e3:.0f}", f"{got['peak_mib']:.0f}"))
    show(f"The same {samples} samples of MobileNetV2", ("", "processor s", "ms a sample", "peak MiB"), rows)


def measure(side: str, net: str, samples: int) -> dict[str, float]:
    """One side in a process of its own that never imports torch."""
    from nets import find
    from nets.stored import calibration_folder, float_onnx

    model, data = float_onnx(find(net)), calibration_folder(find(net), DISTINCT)
    command = [sys.executable, "-W", "ignore", __file__, "child", side, str(model), str(data), str(samples)]
    command += [str(engine_library())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def child(side: str, model: Path, data: Path, samples: int, engine: Path) -> dict[str, float]:
    """Seconds of processor time and peak memory of one side."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    # As many as fit into the measurement, over and over: what varies is their number, not where they come from.
    feeds = [load(path) for path in sorted(data.iterdir())]
    batches = itertools.islice(itertools.cycle(feeds), samples)
    got = ours(model, feeds, batches, samples, engine) if side == "ours" else theirs(side, model, batches)
    return {**got, "peak_mib": peak_mib()}


def ours(model: Path, feeds: list[Any], batches: Iterator[Any], samples: int, engine: Path) -> dict[str, float]:
    """All four methods by edgebuild; float inferences before, between and after, as the machine's speed drifts."""
    from edgebuild.devices.scratch import open_graph
    from edgebuild.quantize.observe import observe
    from edgebuild.quantize.ranges import RANGE_METHODS, choose_range

    tensors = carriers(model)
    opener = functools.partial(open_graph, engine=engine)
    with open_graph(model, engine=engine) as runner:

        def infer(count: int) -> float:
            start = time.process_time()
            for feed in itertools.islice(itertools.cycle(feeds), count):
                runner.run(feed)
            return time.process_time() - start

        infer(4)
        every = max(1, samples // 8)
        float_s = [infer(every)]

        def pause(done: int) -> None:
            if done % every == 0:
                float_s.append(infer(every))

        start = time.process_time()
        observations = observe(model, tensors, batches, opener, progress=pause)
        observe_s = time.process_time() - start - sum(float_s[1:])
    start = time.process_time()
    for statistics in observations.tensors.values():
        for method in RANGE_METHODS:
            choose_range(statistics, method)
    ranges_s = time.process_time() - start
    mean = sum(float_s) / (len(float_s) * every)
    return {"float_s": mean * samples, "observe_s": observe_s, "ranges_s": ranges_s, "tensors": len(tensors)}


def theirs(method: str, model: Path, batches: Iterator[Any]) -> dict[str, float]:
    """One method by ONNX Runtime's calibrator, as quantize_static calls it."""
    from tempfile import TemporaryDirectory

    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    class Reader(CalibrationDataReader):
        def get_next(self) -> Mapping[str, Any] | None:
            return next(batches, None)

    kind = {"percentile": CalibrationMethod.Percentile, "entropy": CalibrationMethod.Entropy}[method]
    with TemporaryDirectory() as folder:
        start = time.process_time()
        operators = sorted({*QDQRegistry, *QLinearOpsRegistry})
        calibrator = create_calibrator(str(model), operators, f"{folder}/augmented.onnx", kind)
        calibrator.collect_data(Reader())
        collected = time.process_time()
        calibrator.compute_data()
        return {"observe_s": collected - start, "ranges_s": time.process_time() - collected}


def carriers(path: Path) -> list[str]:
    """Tensors that would carry a Q/DQ: inputs and results, but not what an activation alone goes on with."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    results = [
        node.output[0]
        for node in graph.node
        if node.op_type not in ("Constant", "Shape")
        and not (node.op_type in ("Conv", "Gemm") and readers.get(node.output[0], {""}) <= {"Relu", "Clip"})
    ]
    return [value.name for value in graph.input] + results


def load(path: Path) -> dict[str, Any]:
    """The arrays of one sample."""
    import numpy as np

    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def peak_mib() -> float:
    """Most memory that this process had, from its own start: getrusage would count the parent's before the exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        _, _, side, model, data, samples, library = sys.argv
        print(json.dumps(child(side, Path(model), Path(data), int(samples), Path(library))))
    else:
        main(sys.argv[1:])
