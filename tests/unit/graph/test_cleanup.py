import numpy as np
import onnx_ir as ir
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, to_bytes

from edgebuild.errors import ModelError
from edgebuild.graph.framework import PassReport
from edgebuild.graph.passes.dead_code import DeadCodeElimination
from edgebuild.graph.passes.opset import OpsetAdjustment
from edgebuild.graph.passes.strip_metadata import StripMetadata

X = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)


def test_removes_unread_nodes_and_initialisers():
    built = model("g (float[2,6] x) => (float[2,6] y) { a = Abs(x) b = Add(a, w) y = Neg(x) }", {"w": X, "v": X})
    before = to_bytes(built)
    assert apply(DeadCodeElimination(), built).records[0].rewrites == 4
    assert ops(built) == ["Neg"]
    assert not built.graph.initializers
    assert_same_results(before, built, {"x": X})


def test_what_only_a_body_reads_is_alive():
    built = model(
        """g (bool k, float[2,6] x) => (float[2,6] y) { a = Abs(x) y = If (k) <
        then_branch = t () => (float[2,6] p) { p = Add(a, w) }, else_branch = e () => (float[2,6] q) { q = Neg(x) }> }""",
        {"w": X},
    )
    assert_refused(DeadCodeElimination(), built)


def test_what_only_a_dead_body_reads_is_dead():
    built = model(
        """g (bool k, float[2,6] x) => (float[2,6] y) { a = Abs(x) d = If (k) <
        then_branch = t () => (float[2,6] p) { p = Add(a, w) }, else_branch = e () => (float[2,6] q) { q = Neg(a) }>
        y = Neg(x) }""",
        {"w": X},
    )
    apply(DeadCodeElimination(), built)
    assert ops(built) == ["Neg"]
    assert not built.graph.initializers


def test_unread_optional_outputs_go():
    built = model("g (float[1,1,4,4] x) => (float[1,1,2,2] y) { y, i = MaxPool <kernel_shape = [3, 3]> (x) }")
    before = to_bytes(built)
    apply(DeadCodeElimination(), built)
    assert len(built.graph[0].outputs) == 1
    assert_same_results(before, built, {"x": np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)})


def test_an_optional_output_before_one_that_is_read_is_left_out_by_name():
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(1, 20, 3)).astype(np.float32), "r": rng.normal(size=(1, 20, 5)).astype(np.float32)}
    built = model("g (float[4,2,3] x) => (float[1,2,5] h) { y, h, c = LSTM <hidden_size = 5> (x, w, r) }", weights)
    before = to_bytes(built)
    apply(DeadCodeElimination(), built)
    assert [value.name for value in built.graph[0].outputs] == ["", "h"]
    assert_same_results(before, built, {"x": rng.normal(size=(4, 2, 3)).astype(np.float32)})


def test_batch_norm_outputs_stay_because_their_number_means_training():
    weights = {name: np.ones(6, np.float32) for name in ("g", "b", "m", "v")}
    built = model(
        "g (float[2,6] x) => (float[2,6] y) { y, p, q = BatchNormalization <training_mode = 1> (x, g, b, m, v) }",
        weights,
    )
    assert_refused(DeadCodeElimination(), built)


def test_initialisers_that_are_inputs_or_outputs_stay():
    built = model("g (float[2,6] x) => (float[2,6] y) { y = Neg(x) }", {"w": X, "v": X + 1})
    built.graph.inputs.append(built.graph.initializers["w"])
    built.graph.outputs.append(built.graph.initializers["v"])
    assert_refused(DeadCodeElimination(), built)


def test_strips_paths_from_every_place():
    built = model(
        """g (bool k, float[2] x) => (float[2] y) { y = If (k) <
        then_branch = t () => (float[2] p) { p = Abs(x) }, else_branch = e () => (float[2] q) { q = Neg(x) }> }""",
        {"w": X},
    )
    secret = "/home/someone/net.py:12"
    body = built.graph[0].attributes["then_branch"].as_graph()
    places = [built, built.graph, built.graph[0], body, body[0], body[0].outputs[0], built.graph.inputs[0]]
    places += [built.graph.initializers["w"], built.graph.initializers["w"].const_value]
    for place in places:
        if isinstance(place, ir.serde.TensorProtoTensor):
            place.raw.doc_string = secret
            continue
        place.doc_string = secret
        place.metadata_props["pkg.torch.onnx.stack_trace"] = secret
    built.producer_name = "tool"
    assert to_bytes(built).count(secret.encode()) > 10
    apply(StripMetadata(), built)
    assert secret.encode() not in to_bytes(built)
    assert b"stack_trace" not in to_bytes(built)
    assert not built.producer_name


def test_strip_keeps_the_keys_it_is_told_to():
    built = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    built.metadata_props.update({"labels": "cat,dog", "path": "/x"})
    apply(StripMetadata(keep=["labels"]), built)
    assert dict(built.metadata_props) == {"labels": "cat,dog"}


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 17])
def test_raises_old_opsets_and_keeps_results(opset):
    # Softmax changed its meaning in 13, Dropout and Clip their signatures, Squeeze and ReduceSum theirs.
    built = model(
        """g (float[2,6] x) => (float[2,1] y) {
        a = Softmax <axis = 1> (x) b = Gemm(a, w, c) d = Flatten <axis = 1> (b) e = Dropout(d) y = ReduceMean <axes = [1]> (e) }""",
        {"w": X.T @ X, "c": X[0]},
        opset=opset,
    )
    before = to_bytes(built)
    result = apply(OpsetAdjustment(minimum=18, maximum=21), built)
    assert result.modified
    assert built.graph.opset_imports[""] == 18
    assert_same_results(before, built, {"x": X}, rtol=1e-6, atol=1e-6)


def test_a_model_that_the_converter_cannot_do_stays_and_says_so():
    built = model(
        """g (bool k, float[2] x) => (float[2] y) { y = If (k) <
        then_branch = t () => (float[2] p) { p = Abs(x) }, else_branch = e () => (float[2] q) { q = Neg(x) }> }""",
        opset=13,
    )
    before = to_bytes(built)
    result = OpsetAdjustment(minimum=18, maximum=21)(built)
    assert not result.modified
    assert to_bytes(built) == before
    (note,) = PassReport(records=result.records).notes
    assert note.startswith("opset 13 kept, not raised to 18")


def test_an_import_above_the_maximum_is_lowered_where_no_operator_is_newer():
    built = model("g (float[2,6] x) => (float[2,6] y) { y = LeakyRelu(x) }", opset=20)
    before = to_bytes(built)
    apply(OpsetAdjustment(minimum=16, maximum=17), built)
    assert built.graph.opset_imports[""] == 17
    assert_same_results(before, built, {"x": X})


def test_an_operator_above_the_maximum_is_named():
    built = model("g (float[2,6] x) => (float[2,6] y) { y = Gelu(x) }", opset=20)
    with pytest.raises(ModelError, match=r"opset 20, board X has 17: Gelu \(opset 20\)"):
        OpsetAdjustment(minimum=17, maximum=17, maximum_name="board X")(built)


def test_opsets_below_seven_are_refused():
    built = model("g (float[2,6] x) => (float[2,6] y) { y = Neg(x) }", opset=6)
    with pytest.raises(ModelError, match="opset 6, the oldest that works is 7"):
        OpsetAdjustment(minimum=18, maximum=21)(built)
