"""Noise on its way through a graph: which operator makes it grow."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from explain_tools import evidence_for, open_session, three_convolutions

from edgebuild.explain.growth import _energies, profile, share_through
from edgebuild.quantize.candidate import write_candidate
from edgebuild.quantize.insert import forms_of


@pytest.fixture
def offset_graph(tmp_path: Path) -> Path:
    """The three convolutions, with 500 added to what the second gives and taken away again behind."""
    graph = three_convolutions(tmp_path / "g.onnx")
    proto = onnx.load(graph)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in proto.graph.initializer}
    arrays["b1"] = arrays["b1"] + np.float32(500)
    arrays["offset"] = np.float32(500)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items())
    relu = proto.graph.node[3]
    proto.graph.node.insert(3, onnx.helper.make_node("Sub", ["c2", "offset"], ["less"], name="sub"))
    proto.graph.node[4].input[0] = "less"
    assert proto.graph.node[4].name == relu.name
    ir.save(ir.from_proto(onnx.shape_inference.infer_shapes(proto)), graph)
    return graph


def test_a_difference_of_large_numbers_makes_noise_grow(offset_graph: Path, tmp_path: Path) -> None:
    evidence = evidence_for(offset_graph)
    evidence.plan.ranges["c2"] = (0.0, 505.0)  # type: ignore[index]
    candidate = write_candidate(offset_graph, evidence.plan, evidence.scheme, forms_of(()), tmp_path / "c.onnx")
    found = profile(offset_graph, candidate, evidence.held_out, open_session, tmp_path / "work")
    growths = {growth.node: growth for growth in found.growths}
    assert growths["sub"].operator == "Sub"
    assert growths["sub"].factor > 1000
    assert "relu2" not in growths  # it chooses, and adds nothing
    assert found.noise["y"] > 100 * found.noise["c2"]
    assert not (tmp_path / "work").exists()


def test_the_noise_of_a_value_is_that_of_both_graphs_run_apart(tmp_path: Path) -> None:
    graph = three_convolutions(tmp_path / "g.onnx")
    evidence = evidence_for(graph)
    candidate = write_candidate(graph, evidence.plan, evidence.scheme, forms_of(()), tmp_path / "c.onnx")
    found = profile(graph, candidate, evidence.held_out, open_session, tmp_path / "work")
    signal = noise = 0.0
    for batch in evidence.held_out:
        results = []
        for path in (graph, candidate):
            with open_session(path) as runner:
                results.append(np.asarray(runner.run(batch)["y"], np.float64))
        signal += float(np.sum(results[0] ** 2))
        noise += float(np.sum((results[0] - results[1]) ** 2))
    assert found.noise["y"] == pytest.approx(noise / signal, rel=0.05)


def test_the_share_through_a_value_is_what_is_gone_when_it_is_exact(tmp_path: Path) -> None:
    graph = three_convolutions(tmp_path / "g.onnx")
    evidence = evidence_for(graph, ranges={"a": (0.0, 0.3)})  # nearly all noise arises here
    candidate = write_candidate(graph, evidence.plan, evidence.scheme, forms_of(()), tmp_path / "c.onnx")

    def share(value: str) -> float:
        return share_through(graph, candidate, value, "y", evidence.held_out, open_session, tmp_path / "work")

    assert share("y") == 1.0
    assert share("c2") > 0.95  # behind it
    assert share("c1") < 0.05  # before it
    assert share("no such value") == 0.0
    assert not (tmp_path / "work").exists()


def test_sequences_on_the_way_are_passed_over(tmp_path: Path) -> None:
    """As an embedding bag leaves them: a sequence of float tensors has a dtype, and can't be looked at as an array."""
    path = three_convolutions(tmp_path / "g.onnx")
    proto = onnx.load(path)
    last = next(node for node in proto.graph.node if "y" in node.output)
    last.output[0] = "whole"
    proto.graph.node.append(onnx.helper.make_node("SplitToSequence", ["whole"], ["parts"], axis=1, name="split"))
    proto.graph.node.append(onnx.helper.make_node("ConcatFromSequence", ["parts"], ["y"], axis=1, name="join"))
    ir.save(ir.from_proto(onnx.shape_inference.infer_shapes(proto)), path)
    evidence = evidence_for(path)
    evidence.plan.ranges["whole"] = evidence.plan.ranges["y"]  # type: ignore[index]
    candidate = write_candidate(path, evidence.plan, evidence.scheme, forms_of(()), tmp_path / "c.onnx")
    found = profile(path, candidate, evidence.held_out, open_session, tmp_path / "work")
    assert "parts" not in found.noise
    assert found.noise["y"] > 0


@pytest.mark.filterwarnings("error")
def test_masked_places_are_no_noise_and_no_warning() -> None:
    value = np.array([3.0, -np.inf, np.nan, -np.inf, 1.0])
    other = np.array([2.0, -np.inf, 0.0, 5.0, np.inf])
    assert _energies(value, other) == (10.0, 1.0)
    assert _energies(np.zeros(0), np.zeros(0)) == (0.0, 0.0)
