"""What the tests of explanations share: statistics of arrays, a runner that needs no build, a small net."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from edgebuild import _runtime
from edgebuild.quantize.plan import Plan
from edgebuild.quantize.statistics import TensorStatistics
from edgebuild.select.evidence import Evidence
from edgebuild.targets.spec import QuantizationScheme

Array = np.ndarray[Any, Any]

U8S8 = QuantizationScheme(
    activation="uint8",
    weight="int8",
    symmetric_activations=False,
    per_channel=True,
    reduce_range=False,
    cpu_features=("avx512_vnni",),
)


def statistics(array: Array, axis: int | None = 1) -> TensorStatistics:
    """Of all values, and of the channels along ``axis``."""
    array = np.ascontiguousarray(array, np.float32)
    histogram = _runtime.Histogram()
    histogram.add(array)
    channels = None
    if axis is not None:
        channels = _runtime.ChannelStatistics(axis)
        channels.add(array)
    return TensorStatistics.of(histogram, channels)


class _Session:
    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        names = [output.name for output in self._session.get_outputs()]
        feeds = {value.name: inputs[value.name] for value in self._session.get_inputs()}
        return dict(zip(names, self._session.run(names, feeds), strict=True))


@contextmanager
def open_session(path: Path, *, unordered: Collection[str] = ()) -> Iterator[_Session]:
    """ONNX Runtime through its own Python: an engine for tests, independent of the runner."""
    yield _Session(path)


def three_convolutions(path: Path, *, seed: int = 0) -> Path:
    """Three convolutions with ReLU between, (1, 4, 8, 8) to (1, 6, 8, 8); nodes conv1, conv2 and conv3, values a, b, y."""
    rng = np.random.default_rng(seed)
    sizes = ((4, 12), (12, 12), (12, 6))
    weights = {
        f"w{i}": rng.normal(0, (9 * a) ** -0.5, (b, a, 3, 3)).astype(np.float32) for i, (a, b) in enumerate(sizes)
    }
    weights |= {f"b{i}": rng.normal(0, 0.1, b).astype(np.float32) for i, (_, b) in enumerate(sizes)}
    body = """
      net (float[1, 4, 8, 8] x) => (float[1, 6, 8, 8] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        a = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (a, w1, b1)
        b = Relu (c2)
        y = Conv <pads = [1, 1, 1, 1]> (b, w2, b2)
      }"""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{body}')
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    proto = onnx.shape_inference.infer_shapes(proto)
    for node, name in zip(proto.graph.node, ("conv1", "relu1", "conv2", "relu2", "conv3"), strict=True):
        node.name = name
    ir.save(ir.from_proto(proto), path)
    return path


def samples(count: int, seed: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 4, 8, 8)).astype(np.float32)} for _ in range(count)]


def evidence_for(graph: Path, *, ranges: Mapping[str, tuple[float, float]] | None = None, **changes: Any) -> Evidence:
    """Static INT8 of all three convolutions, ranges by min-max on the calibration samples."""
    calibration = samples(12, 1)
    seen: dict[str, tuple[float, float]] = {}
    exposed = onnx.load(graph)
    for name in ("a", "b"):
        exposed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in calibration:
        results = dict(zip(("y", "a", "b"), session.run(["y", "a", "b"], batch), strict=True))
        for name, array in {**results, **batch}.items():
            low, high = seen.get(name, (0.0, 0.0))
            seen[name] = (min(low, float(array.min())), max(high, float(array.max())))
    fields: dict[str, Any] = {
        "candidate": "static convolutions, minmax",
        "plan": Plan(
            modes={"conv1": "static", "conv2": "static", "conv3": "static"}, ranges={**seen, **(ranges or {})}
        ),
        "reverted": (),
        "shipped": True,
        "scheme": U8S8,
        "fused_operators": (),
        "inputs": {"x": "x"},
        "outputs": {"y": "y"},
        "calibration": calibration,
        "held_out": samples(8, 2),
        **changes,
    }
    return Evidence(**fields)
