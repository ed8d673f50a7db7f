"""ONNX files as they come: external weights of any size, open output shapes, opsets and operators that nothing runs."""

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from edgebuild.errors import ModelError
from edgebuild.export.local import export_here
from edgebuild.model.request import ModelRequest

FLOAT = onnx.TensorProto.FLOAT


def save(path, nodes, inputs, outputs, weights=(), *, opset=13, domains=(), **how):
    graph = oh.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    imports = [oh.make_opsetid("", opset), *(oh.make_opsetid(domain, 1) for domain in domains)]
    model = oh.make_model(graph, opset_imports=imports, ir_version=8)
    onnx.save(model, path, **how)
    return str(path)


def tensor(name, shape):
    return oh.make_tensor_value_info(name, FLOAT, shape)


@pytest.mark.parametrize("width", [3, 40], ids=["few_bytes", "kilobytes"])
def test_external_weights_of_any_size_are_taken_in(width, tmp_path):
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).random((width, width), dtype=np.float32), "w")
    path = save(
        tmp_path / "m.onnx",
        [oh.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", [2, width])],
        [tensor("y", [2, width])],
        [weight],
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    result = export_here(ModelRequest(path=path), tmp_path / "out")
    (tmp_path / "weights.bin").unlink()  # the result stands alone
    kept = onnx.load(result.onnx).graph.initializer[0]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept), onnx.numpy_helper.to_array(weight))


def test_output_may_leave_its_shape_open(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [oh.make_node("Clip", ["x"], ["y"], min=-0.5, max=0.5)],
        [tensor("x", [2, 3])],
        [tensor("y", None)],
        opset=9,
    )
    result = export_here(ModelRequest(path=path), tmp_path / "out")
    assert str(result.signature.outputs[0].type) == "float32[2,3]"


def test_opset_above_what_the_target_takes_is_refused_with_both_numbers(tmp_path):
    path = save(
        tmp_path / "m.onnx", [oh.make_node("Relu", ["x"], ["y"])], [tensor("x", [2])], [tensor("y", [2])], opset=23
    )
    with pytest.raises(ModelError, match="opset 23, but the target's backends take 21 at most"):
        export_here(ModelRequest(path=path, opset_max=21), tmp_path / "out")
    assert export_here(ModelRequest(path=path, opset_max=23), tmp_path / "out").opset == 23


def test_custom_operator_is_named(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [oh.make_node("Frob", ["x"], ["y"], domain="my.ops")],
        [tensor("x", [2])],
        [tensor("y", [2])],
        domains=["my.ops"],
    )
    with pytest.raises(ModelError, match=r"my\.ops:Frob") as caught:
        export_here(ModelRequest(path=path), tmp_path / "out")
    assert "onnxruntime_src" not in str(caught.value)


@pytest.mark.parametrize("kind", ["sequence", "optional"])
def test_input_that_is_no_tensor_is_refused_by_name(kind, tmp_path):
    element = oh.make_tensor_type_proto(FLOAT, [2])
    if kind == "sequence":
        declared = oh.make_value_info("items", oh.make_sequence_type_proto(element))
        node = oh.make_node("SequenceLength", ["items"], ["y"])
        output = oh.make_tensor_value_info("y", onnx.TensorProto.INT64, [])
    else:
        declared = oh.make_value_info("items", oh.make_optional_type_proto(element))
        node, output = oh.make_node("OptionalGetElement", ["items"], ["y"]), tensor("y", [2])
    path = save(tmp_path / "m.onnx", [node], [declared], [output], opset=18)
    with pytest.raises(ModelError, match=f"input 'items' is an? {kind}, not a tensor"):
        export_here(ModelRequest(path=path), tmp_path / "out")
