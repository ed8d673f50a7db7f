"""What graph passes did and gain."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from explain_tools import open_session

from edgebuild.explain.passes import measure_passes, passes_of
from edgebuild.graph.optimize import optimize


def with_batch_norm(path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 0.2, (8, 3, 3, 3)),
        **{name: rng.uniform(0.5, 1.5, 8) for name in ("s", "o", "m", "v")},
    }
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        net (float[1, 3, 16, 16] x) => (float[1, 8, 14, 14] y) {
          c = Conv (x, w)
          n = BatchNormalization (c, s, o, m, v)
          i = Identity (n)
          y = Relu (i)
        }"""
    )
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(proto, path)
    return path


def test_a_pass_that_is_skipped_leaves_its_nodes(tmp_path: Path) -> None:
    path = with_batch_norm(tmp_path / "m.onnx")
    kinds = {
        skip: [node.op_type for node in optimize(ir.load(path), target_opset_max=20, skip=skip).model.graph]
        for skip in ((), ("conv-batch-norm",), ("no-such-pass",))
    }
    assert "BatchNormalization" not in kinds[()]
    assert "BatchNormalization" in kinds["conv-batch-norm",]
    assert kinds["no-such-pass",] == kinds[()]


def test_each_pass_that_fired_is_timed_against_the_whole_or_said_to_change_nothing(tmp_path: Path) -> None:
    path = with_batch_norm(tmp_path / "m.onnx")
    report = optimize(ir.load(path), target_opset_max=20).report.to_json(timings=False)
    fired = passes_of([entry for entry in report["passes"] if entry["rewrites"]])
    feeds = {"x": np.zeros((1, 3, 16, 16), np.float32)}
    work = tmp_path / "work"
    work.mkdir()
    found = measure_passes(
        fired, path, feeds, open_session, work, opset_max=20, fused_operators=(), rounds=7, seconds=0.1
    )
    by_name = {entry.name: entry for entry in found}
    assert set(by_name) == {entry.name for entry in fired}
    assert all((entry.gain is None) == bool(entry.note) for entry in found)
    gain = by_name["conv-batch-norm"].gain
    assert gain is not None
    assert 0 < gain.low <= gain.ratio <= gain.high
