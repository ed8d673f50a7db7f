"""What float16 and bfloat16 gain with ONNX Runtime on this CPU: ``half_precision.py [NET …]``. docs/quantization.md has the figures.

Each net's float32 graph against the same graph in float16 (ONNX Runtime's own converter, inputs and outputs stay float32) and in
bfloat16: processor time of one thread, measured in turn, signal to noise on one input, and how many of the nodes with weights the engine
really runs in float16 (it puts Casts around those that it has no such kernel for, and makes their weights float32 when it loads them).
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgebuild.select.measure import compare
from nets import NAMES, find
from nets.stored import float_onnx


def main() -> None:
    """Prints a line for each net."""
    names = sys.argv[1:] or list(NAMES)
    print(f"ONNX Runtime {onnxruntime.__version__}, processor time, one thread; speed: float32's time over this one's")
    print(f"{'net':18} {'float16':>24} {'signal':>8} {'in half':>9}  bfloat16")
    for name in names:
        net = find(name)
        feed = dict(net.calibration(1)[0])
        model = onnx.load(str(float_onnx(net)))
        base, _ = open_session(model)
        # ONNX Runtime's converter can't see through shapes that it does not know.
        half_model = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=False)
        half, in_half = open_session(half_model)
        expected, got = base.run(None, feed)[0], half.run(None, feed)[0]
        noise = float(np.sum((expected - got) ** 2)) / float(np.sum(expected**2))
        signal = f"{-10 * np.log10(noise):.1f} dB" if 0 < noise < 1e30 else "-"
        speed = compare(lambda: base.run(None, feed), lambda: half.run(None, feed), rounds=15, seconds=20)  # noqa: B023
        ratio = f"{speed.ratio:.2f}x ({speed.low:.2f} to {speed.high:.2f})"
        print(f"{name:18} {ratio:>24} {signal:>8} {in_half:>9}  {brain(half_model)}", flush=True)


def open_session(model: onnx.ModelProto) -> tuple[onnxruntime.InferenceSession, str]:
    """A session on one thread, and how many nodes with weights have them in float16 in the graph as the engine runs it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.optimized_model_filepath = str(path)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(str(path)).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
    weighted = Counter(next((types[name] for name in node.input if name in types), None) for node in graph.node)
    del weighted[None]
    return session, f"{weighted[TensorProto.FLOAT16]} of {weighted.total()}"


def brain(half_model: onnx.ModelProto) -> str:
    """What comes of the same graph in bfloat16: "runs", or the engine's first words."""
    model = onnx.ModelProto()
    model.CopyFrom(half_model)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            bits = (numpy_helper.to_array(tensor).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            tensor.raw_data, tensor.data_type = bits.tobytes(), TensorProto.BFLOAT16
            tensor.ClearField("int32_data")
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
    del model.graph.value_info[:]
    try:
        open_session(model)
    except Exception as error:  # whatever the engine says is the result
        return " ".join(str(error).split())[:110]
    return "runs"


if __name__ == "__main__":
    main()
