"""What the tests of the graph stage share: models from ONNX text, runs without graph optimisations."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from edgebuild.graph.framework import GraphPass, GraphPassResult, checked_passes


def parse(text: str, weights: Mapping[str, np.ndarray] | None = None, *, ir_version: int = 8) -> ir.Model:
    """A model from ONNX text; ``weights`` become initialisers."""
    proto = onnx.parser.parse_model(text)
    proto.ir_version = ir_version
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def model(body: str, weights: Mapping[str, np.ndarray] | None = None, *, opset: int = 18) -> ir.Model:
    """A model whose graph is ``body``; see ``parse``."""
    return parse(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{body}', weights)


def to_bytes(built: ir.Model) -> bytes:
    return ir.to_proto(built).SerializeToString(deterministic=True)


def run(built: ir.Model | bytes, feeds: Mapping[str, Any]) -> list[Any]:
    """What the model gives in ONNX Runtime, which changes nothing in the graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    data = built if isinstance(built, bytes) else to_bytes(built)
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def ops(built: ir.Model) -> list[str]:
    return [node.op_type for node in built.graph.all_nodes()]


def apply(step: GraphPass, built: ir.Model) -> GraphPassResult:
    """Run a pass with its contract checked, and again: the second run must do nothing."""
    with checked_passes():
        first = step(built)
        once = to_bytes(built)
        second = step(built)
    assert not second.modified, f"{step.name} is not idempotent"
    assert to_bytes(built) == once
    return first


def assert_refused(step: GraphPass, built: ir.Model) -> None:
    before = to_bytes(built)
    result = apply(step, built)
    assert not result.modified
    assert to_bytes(built) == before


def assert_same_results(
    before: bytes, after: ir.Model, feeds: Mapping[str, Any], *, rtol: float = 0.0, atol: float = 0.0
) -> None:
    """Both give the same; exactly the same unless tolerances are given. NaN equals NaN."""
    expected, got = run(before, feeds), run(after, feeds)
    assert len(expected) == len(got)
    for one, other in zip(expected, got, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=rtol, atol=atol)
