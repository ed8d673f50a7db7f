import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from edgebuild.export.finish import finish
from edgebuild.export.write import write_onnx
from edgebuild.model.signature import TensorType, ValueSpec


def product(rows: int) -> ir.Model:
    """y = x @ w + b with weights above and below the size that travels inside the graph message."""
    generator = np.random.default_rng(rows)
    w = onnx.numpy_helper.from_array(generator.standard_normal((rows, 7)).astype(np.float32), "w")
    b = onnx.numpy_helper.from_array(generator.standard_normal(7).astype(np.float32), "b")
    half = onnx.numpy_helper.from_array(generator.standard_normal((rows, 7)).astype(np.float16), "half")
    nodes = [
        onnx.helper.make_node("MatMul", ["edgebuild_in_0", "w"], ["m"]),
        onnx.helper.make_node("Add", ["m", "b"], ["y"]),
        onnx.helper.make_node("Cast", ["half"], ["wide"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("ReduceSum", ["wide"], ["s"], keepdims=0),
        onnx.helper.make_node("Add", ["y", "s"], ["z"], doc_string="/home/somebody/model.py"),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info(f"edgebuild_in_{i}", onnx.TensorProto.FLOAT, [2, rows]) for i in range(2)],
        [
            onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [2, 7]),
            onnx.helper.make_tensor_value_info("edgebuild_in_1", onnx.TensorProto.FLOAT, [2, rows]),
        ],
        [w, b, half],
    )
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9))


def specs(rows: int) -> list[ValueSpec]:
    return [ValueSpec(name=name, type=TensorType(dtype="float32", shape=("batch", rows))) for name in ("z", "w")]


@pytest.mark.parametrize("rows", [1, 3, 400])
@pytest.mark.parametrize("external", [False, True, None])
def test_written_file_is_valid_and_computes_what_the_model_says(tmp_path, rows, external):
    model = product(rows)
    weights = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}
    path = tmp_path / "model.onnx"
    write_onnx(model, path, external=external)
    onnx.checker.check_model(str(path), full_check=True)
    assert (tmp_path / "model.onnx.data").exists() == bool(external)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((2, rows)).astype(np.float32)
    got = session.run(None, {"edgebuild_in_0": x, "edgebuild_in_1": x})
    expected = x @ weights["w"] + weights["b"] + weights["half"].astype(np.float32).sum()
    np.testing.assert_allclose(got[0], expected, rtol=1e-4, atol=1e-4)
    assert list(model.graph.initializers) == ["w", "b", "half"]  # the model is as it was


def test_bytes_depend_on_the_model_only(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_onnx(product(400), tmp_path / name / "model.onnx")
    assert (tmp_path / "a/model.onnx").read_bytes() == (tmp_path / "b/model.onnx").read_bytes()


def test_finish_gives_the_signatures_names_although_others_have_them(tmp_path):
    model = product(3)
    # inputs want the names of an intermediate result and of a weight; the second output is an input passed through
    inputs, outputs = finish(model, specs(3), ["m", "z"])
    assert inputs == ("z", "w")
    assert outputs == ("m", "z_out")
    path = tmp_path / "model.onnx"
    write_onnx(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.ones((5, 3), np.float32)
    first, second = session.run(["m", "z_out"], {"z": x, "w": 2 * x})
    assert first.shape == (5, 7)
    np.testing.assert_array_equal(second, 2 * x)
    assert b"somebody" not in path.read_bytes()


def test_finish_drops_an_unused_input():
    model = product(3)
    model.graph.outputs[1] = model.graph.outputs[0]
    inputs, outputs = finish(model, specs(3), ["y", "again"])
    assert inputs == ("z", None)
    assert [value.name for value in model.graph.inputs] == ["z"]
    assert outputs == ("y", "again")


def test_finish_refuses_a_graph_with_another_number_of_outputs():
    with pytest.raises(ValueError, match="2 outputs, the model 1"):
        finish(product(3), specs(3), ["y"])
