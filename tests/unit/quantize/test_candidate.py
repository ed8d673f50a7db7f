"""Candidates as files: what is done to the float graph before anything in it becomes integer."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from quantize_tools import (
    EVERYTHING,
    FUSED,
    U8S8,
    all_values,
    build,
    data,
    plan_for,
    quantised,
    run,
    sqnr,
    vector,
    weight,
)

from edgebuild.graph.io import load_model, save_model
from edgebuild.quantize.candidate import prepare, without, write_candidate, write_rewritten
from edgebuild.quantize.equalize import equalizable, equalization_factors
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.plan import Plan
from edgebuild.quantize.statistics import ChannelStatistics

UPSAMPLING = """
    g (float[1,3,9,11] x) => (float[?,?,?,?] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) r = Relu(a)
        u = ConvTranspose <strides = [2, 2]> (r, w2, b2) s = Relu(u)
        y = Conv <pads = [1, 1, 1, 1]> (s, w3, b3)
    }
"""


@pytest.fixture
def upsampling(tmp_path: Path) -> Path:
    model = build(
        UPSAMPLING,
        {
            "w1": weight(16, 3, 3, 3),
            "b1": vector(16),
            "w2": np.ascontiguousarray(weight(8, 16, 2, 2).transpose(1, 0, 2, 3)),
            "b2": vector(8, seed=3),
            "w3": weight(12, 8, 3, 3, seed=5),
            "b3": vector(12, seed=9),
        },
    )
    path = tmp_path / "graph.onnx"
    save_model(model, path, external_threshold=2**20)
    return path


def test_a_transposed_convolution_that_is_quantised_runs_on_integers(upsampling: Path, tmp_path: Path) -> None:
    write_rewritten(upsampling, tmp_path / "prepared.onnx")
    prepared = load_model(tmp_path / "prepared.onnx")
    feeds = {"x": data(1, 3, 9, 11)}
    plan = plan_for(prepared, feeds)
    assert len(plan.modes) == 3
    path = write_candidate(upsampling, plan, U8S8, FUSED, tmp_path / "int8.onnx")
    proto = onnx.load(path)
    kinds = [node.op_type for node in proto.graph.node]
    assert "ConvTranspose" not in kinds
    shuffle = next(node for node in proto.graph.node if node.op_type == "DepthToSpace")
    makers = {output: node.op_type for node in proto.graph.node for output in node.output}
    readers = [node.op_type for node in proto.graph.node if shuffle.output[0] in node.input]
    assert (makers[shuffle.input[0]], readers) == ("DequantizeLinear", ["QuantizeLinear"])
    expected = run(onnx.load(upsampling), feeds)["y"]
    assert sqnr(expected, run(proto, feeds)["y"]) > 28
    assert onnx.load(path) == quantised(prepared, plan, scheme=U8S8, forms=FUSED)


def test_a_transposed_convolution_that_stays_float_stays_one(upsampling: Path, tmp_path: Path) -> None:
    prepared = load_model(upsampling)
    assert prepare(prepared) == 1
    feeds = {"x": data(1, 3, 9, 11)}
    whole = plan_for(prepared, feeds)
    name = find_layers(prepared.graph)[1].name
    modes = {layer: mode for layer, mode in whole.modes.items() if layer != name}
    plan = Plan(modes=modes, operators=EVERYTHING, ranges={**whole.ranges, "r": (0.0, 4.0), "s": (0.0, 4.0)})
    proto = onnx.load(write_candidate(upsampling, plan, U8S8, FUSED, tmp_path / "int8.onnx"))
    assert "ConvTranspose" in [node.op_type for node in proto.graph.node]
    assert sqnr(run(onnx.load(upsampling), feeds)["y"], run(proto, feeds)["y"]) > 28


def test_a_graph_without_one_is_its_own_prepared_form(tmp_path: Path) -> None:
    model = build("g (float[N,16] x) => (float[N,20] y) { y = Gemm(x, w, b) }", {"w": weight(16, 20), "b": vector(20)})
    save_model(model, tmp_path / "graph.onnx", external_threshold=2**20)
    assert prepare(load_model(tmp_path / "graph.onnx")) == 0


def statistics(graph: Path, feeds: dict[str, np.ndarray], wanted: dict[str, int]) -> dict[str, ChannelStatistics]:
    values = all_values(onnx.load(graph), feeds)
    found = {}
    for name, axis in wanted.items():
        rows = np.moveaxis(values[name], axis, 0).reshape(values[name].shape[axis], -1).astype(np.float64)
        found[name] = ChannelStatistics(
            axis=axis,
            count=rows.shape[1],
            low=rows.min(1),
            high=rows.max(1),
            mean=rows.mean(1),
            mean_square=np.square(rows).mean(1),
        )
    return found


def test_an_equalised_plan_writes_the_same_file_without_data(upsampling: Path, tmp_path: Path) -> None:
    feeds = {"x": data(1, 3, 9, 11)}
    write_rewritten(upsampling, tmp_path / "prepared.onnx")
    graph = load_model(tmp_path / "prepared.onnx").graph
    channels = statistics(tmp_path / "prepared.onnx", feeds, equalizable(graph))
    factors = {"Conv_0": tuple(np.linspace(0.2, 5, 16).tolist())}
    assert set(equalization_factors(graph, channels)) <= {layer.name for layer in find_layers(graph, smallest=1)}
    rewritten = write_rewritten(upsampling, tmp_path / "equalised.onnx", equalization=factors)
    expected = run(onnx.load(upsampling), feeds)["y"]
    np.testing.assert_allclose(run(onnx.load(rewritten), feeds)["y"], expected, rtol=1e-4, atol=1e-5)
    plan = replace(plan_for(load_model(rewritten), feeds), equalization=factors)
    first = write_candidate(upsampling, plan, U8S8, FUSED, tmp_path / "first.onnx")
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    second = write_candidate(upsampling, again, U8S8, FUSED, tmp_path / "second.onnx")
    assert first.read_bytes() == second.read_bytes()
    assert sqnr(expected, run(onnx.load(first), feeds)["y"]) > 28
    # With a layer reverted the factors still fit.
    less = without(plan, frozenset({list(plan.modes)[1]}))
    path = write_candidate(upsampling, less, U8S8, FUSED, tmp_path / "less.onnx")
    assert sqnr(expected, run(onnx.load(path), feeds)["y"]) > 28
