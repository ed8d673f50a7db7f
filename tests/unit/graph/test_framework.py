import json

import onnx_ir as ir
import pytest
from graph_tools import model, to_bytes

from edgebuild.errors import InternalError, ModelError
from edgebuild.graph.framework import Adapted, FixedPoint, GraphPass, PassReport, PassSequence, checked_passes
from edgebuild.graph.invariants import GraphInterface, GraphInvariantError, check_graph, fingerprint

CHAIN = "g (float[2] x) => (float[2] y) { a = Relu(x) b = Relu(a) y = Relu(b) }"


class Scripted(GraphPass):
    """Does what the test says."""

    def __init__(self, action=lambda built: 0, name="scripted", requires=lambda built: None):
        super().__init__()
        self._action, self._name, self._requires = action, name, requires

    @property
    def name(self):
        return self._name

    def requires(self, model):
        self._requires(model)

    def rewrite(self, model):
        return self._action(model)


def rename_node(built):
    built.graph[0].name = "renamed"
    return 1


def relu_to(op_type):
    def change(built):
        for node in built.graph:
            if node.op_type == "Relu":
                node.op_type = op_type
                return 1
        return 0

    return change


def test_record_counts_rewrites_and_nodes():
    result = Scripted(rename_node)(model(CHAIN))
    (record,) = result.records
    assert result.modified
    assert (record.name, record.rewrites, record.nodes_before, record.nodes_after) == ("scripted", 1, 3, 3)
    assert record.seconds >= 0


def test_a_pass_that_changes_silently_is_an_internal_error_that_names_it():
    def silently(built):
        rename_node(built)
        return 0

    with checked_passes(), pytest.raises(InternalError, match="'scripted' broke its contract: it changed the model"):
        Scripted(silently)(model(CHAIN))


def test_a_pass_that_claims_a_change_is_an_internal_error():
    with checked_passes(), pytest.raises(InternalError, match="it changed nothing"):
        Scripted(lambda built: 3)(model(CHAIN))


def test_a_pass_that_renames_an_output_is_an_internal_error():
    def rename(built):
        built.graph.outputs[0].name = "z"
        return 1

    with checked_passes(), pytest.raises(InternalError, match=r"output y .* became z"):
        Scripted(rename)(model(CHAIN))


def test_a_pass_that_leaves_a_dangling_value_is_an_internal_error():
    def dangle(built):
        node = built.graph[0]
        built.graph.remove(node)
        return 1

    with checked_passes(), pytest.raises(InternalError, match="reads 'a', which nothing before it makes"):
        Scripted(dangle)(model(CHAIN))


def test_an_exception_becomes_an_internal_error_with_the_pass_and_the_cause():
    def fail(built):
        msg = "axis"
        raise KeyError(msg)

    with pytest.raises(InternalError, match="graph pass 'scripted' failed: KeyError: 'axis'"):
        Scripted(fail)(model(CHAIN))


@pytest.mark.parametrize("where", ["requires", "rewrite"])
def test_a_model_error_passes_through_unchanged(where):
    def refuse(built):
        msg = "opset 3"
        raise ModelError(msg)

    step = Scripted(requires=refuse) if where == "requires" else Scripted(refuse)
    with pytest.raises(ModelError, match=r"^opset 3$"):
        PassSequence("outer", [step])(model(CHAIN))


def test_unchecked_passes_do_not_pay_for_the_check(monkeypatch):
    monkeypatch.setenv("EDGEBUILD_CHECK_PASSES", "0")
    Scripted(lambda built: 3)(model(CHAIN))  # untrue, and not looked at
    monkeypatch.setenv("EDGEBUILD_CHECK_PASSES", "1")
    with pytest.raises(InternalError):
        Scripted(lambda built: 3)(model(CHAIN))


def test_fixed_point_stops_when_nothing_changes():
    built = model(CHAIN)
    result = FixedPoint("loop", [Scripted(relu_to("Abs"))], limit=10)(built)
    assert [node.op_type for node in built.graph] == ["Abs"] * 3
    assert len(result.records) == 4
    assert result.modified


def test_fixed_point_of_nothing_is_unmodified():
    assert not FixedPoint("loop", [Scripted()], limit=10)(model(CHAIN)).modified


def test_fixed_point_says_when_its_limit_was_not_enough():
    result = FixedPoint("loop", [Scripted(relu_to("Abs"))], limit=2)(model(CHAIN))
    assert PassReport(records=result.records).notes == ("loop: still changing after 2 rounds, stopped",)


def test_fixed_point_needs_a_round():
    with pytest.raises(ValueError, match="at least one round"):
        FixedPoint("loop", [], limit=0)


def test_adapted_measures_modified():
    built = model(CHAIN)
    with checked_passes():
        assert Adapted("lies", lambda built: True)(built).modified is False
        assert Adapted("changes", rename_node)(built).modified is True


def test_report_adds_up_and_is_json():
    built = model(CHAIN)
    records = FixedPoint("loop", [Scripted(relu_to("Abs"), "abs"), Scripted(name="idle")], limit=9)(built).records
    report = PassReport(records=records)
    assert report.rewrites("abs") == 3
    data = json.loads(json.dumps(report.to_json(timings=False)))
    assert data["passes"] == [
        {"pass": "abs", "runs": 4, "rewrites": 3, "nodes_removed": 0},
        {"pass": "idle", "runs": 4, "rewrites": 0, "nodes_removed": 0},
    ]
    assert "seconds" in report.to_json()["passes"][0]


def test_check_graph_finds_two_values_of_one_name():
    built = model(CHAIN)
    built.graph[1].outputs[0].name = "a"
    with pytest.raises(GraphInvariantError, match="two values are named 'a'"):
        check_graph(built)


def test_check_graph_finds_an_unsorted_graph():
    built = model(CHAIN)
    first = built.graph[0]
    built.graph.remove(first)
    built.graph.append(first)
    with pytest.raises(GraphInvariantError, match="reads 'a'"):
        check_graph(built)


def test_check_graph_finds_a_domain_that_is_not_imported():
    built = model(CHAIN)
    built.graph[0].domain = "com.microsoft"
    with pytest.raises(GraphInvariantError, match=r"uses domain 'com\.microsoft'"):
        check_graph(built)


def test_check_graph_looks_into_bodies():
    built = model(
        """g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] p) { p = Relu(x) }, else_branch = e () => (float[2] q) { q = Abs(x) }>
    }"""
    )
    check_graph(built)
    body = built.graph[0].attributes["then_branch"].as_graph()
    body[0].replace_input_with(0, ir.Value(name="ghost"))
    with pytest.raises(GraphInvariantError, match="ghost"):
        check_graph(built)


def test_siblings_may_share_names_but_not_with_their_parents():
    text = """g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] p) { p = Relu(x) }, else_branch = e () => (float[2] p) { p = Abs(x) }>
    }"""
    built = model(text)
    check_graph(built)
    built.graph[0].attributes["else_branch"].as_graph()[0].outputs[0].name = "x"
    with pytest.raises(GraphInvariantError, match="two values are named 'x'"):
        check_graph(built)


@pytest.mark.parametrize("change", ["doc", "type", "attribute", "weight", "import"])
def test_fingerprint_sees_every_kind_of_change(change):
    import numpy as np

    built = model(
        "g (float[2] x) => (float[2] y) { a = Softmax <axis = 0> (x) y = Add(a, w) }", {"w": np.ones(2, np.float32)}
    )
    before = fingerprint(built)
    assert fingerprint(built) == before
    node = built.graph[0]
    if change == "doc":
        node.doc_string = "from /home"
    elif change == "type":
        node.outputs[0].shape = ir.Shape([2])
    elif change == "attribute":
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
    elif change == "weight":
        built.graph.initializers["w"].const_value = ir.Tensor(np.array([1, 2], np.float32), name="w")
    else:
        built.graph.opset_imports["x"] = 1
    assert fingerprint(built) != before


def test_interface_difference_names_what_changed():
    built = model(CHAIN)
    before = GraphInterface.of(built)
    assert before.difference(GraphInterface.of(built)) is None
    built.graph.inputs[0].shape = ir.Shape([3])
    assert "input x" in (before.difference(GraphInterface.of(built)) or "")
    assert to_bytes(built)
