import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from graph_tools import assert_same_results, model, ops, parse, run, to_bytes
from onnx.backend.test.loader import load_model_tests

from edgebuild.errors import InternalError, ModelError
from edgebuild.graph import optimize as stage
from edgebuild.graph.framework import Adapted, checked_passes
from edgebuild.graph.io import load_model, save_model
from edgebuild.graph.optimize import optimize
from edgebuild.targets.spec import FUSED_OPERATORS


class Lstm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(5, 7, 2, batch_first=True)
        self.head = torch.nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class Branch(torch.nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x * 2 + 1, lambda x: x - 1, (x,))


def cnn():
    nn = torch.nn
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3, groups=2), nn.BatchNorm2d(4)),
        *(nn.Dropout(), nn.Flatten(), nn.Linear(4 * 9 * 9, 5)),
    )


def transformer():
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


NETWORKS = {
    "cnn": (cnn, (2, 3, 9, 9)),
    "lstm": (Lstm, (3, 6, 5)),
    "transformer": (transformer, (2, 7, 16)),
    "if": (Branch, (2, 3)),
}


def optimised(data, checked=True, **options):
    built = ir.from_proto(onnx.load_from_string(data))
    with checked_passes(checked):
        result = optimize(built, target_opset_max=options.pop("target_opset_max", 26), **options)
    return built, result.report


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns about itself
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_exported_networks_keep_results_and_a_second_run_changes_nothing(name, dynamic, tmp_path):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    network, x = make().eval(), torch.randn(shape)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.1, 2)
            torch.nn.init.normal_(module.running_mean)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) if dynamic else None
    program = torch.onnx.export(network, (x,), dynamo=True, optimize=False, dynamic_shapes=shapes, verbose=False)
    program.save(tmp_path / "m.onnx")
    data = (tmp_path / "m.onnx").read_bytes()
    built, report = optimised(data)
    assert built.graph.inputs[0].name == onnx.load_from_string(data).graph.input[0].name
    assert report.to_json()["nodes_after"] < report.to_json()["nodes_before"]
    feed = built.graph.inputs[0].name
    for batch in (shape[0], 1, 5) if dynamic else (shape[0],):
        values = np.random.default_rng(batch).normal(size=(batch, *shape[1:])).astype(np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(values)).numpy()
        np.testing.assert_allclose(run(built, {feed: values})[0], expected, rtol=1e-4, atol=1e-5)
    once = to_bytes(built)
    assert to_bytes(optimised(once)[0]) == once
    assert to_bytes(optimised(data)[0]) == once, "the same input gave other bytes"
    if name == "cnn":
        assert "BatchNormalization" not in ops(built)
        assert "Dropout" not in ops(built)
    assert b".py" not in once, "a source path is left"


def results_match(one, other):
    if isinstance(one, list) or one is None or other is None:
        return (one is None) == (other is None) and (
            one is None or (len(one) == len(other) and all(map(results_match, one, other)))
        )
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.kind not in "fc":
        return bool((one == other).all())
    tolerance = 2e-3 if one.dtype == np.float16 else 1e-5  # ONNX Runtime computes half precision in float between casts
    return bool(np.allclose(one, other, rtol=tolerance, atol=tolerance / 10, equal_nan=True))


def node_cases():
    cases = load_model_tests(kind="node")
    # Every control-flow, sequence and expanded case, and every seventh of the rest, by a fixed order of names.
    chosen = ("if", "loop", "scan", "sequence", "optional", "expanded", "constant", "shape", "cast", "pad", "batchnorm")
    names = sorted(case.name for case in cases)
    wanted = {n for i, n in enumerate(names) if i % 7 == 0 or any(f"_{word}" in n for word in chosen)}
    return [case for case in cases if case.name in wanted]


@pytest.mark.slow
@pytest.mark.timeout(1200)  # minutes on two busy cores: every pass of every case is checked
@pytest.mark.filterwarnings("ignore")  # the generators of some cases divide by zero on purpose
def test_onnx_node_cases_keep_results(caplog):
    caplog.set_level(logging.CRITICAL)
    tried, wrong = 0, []
    for case in node_cases():
        data = case.model.SerializeToString()
        names = [value.name for value in case.model.graph.input]
        try:
            feeds = dict(zip(names, case.data_sets[0][0], strict=False))
            expected = run(data, feeds)
        except Exception:  # the engine itself can't run this case; how many it can is asserted below
            continue
        opset = max((entry.version for entry in case.model.opset_import if entry.domain == ""), default=99)
        if opset < 7:
            with pytest.raises(ModelError):
                optimised(data)
            continue
        tried += 1
        built, _ = optimised(data, fused_operators=FUSED_OPERATORS)
        once = to_bytes(built)
        if not results_match(expected, run(once, feeds)):
            wrong.append(f"{case.name}: other results")
        elif to_bytes(optimised(once, checked=False, fused_operators=FUSED_OPERATORS)[0]) != once:
            wrong.append(f"{case.name}: a second run changes it")
    assert tried > 400
    assert not wrong


def test_overridable_initialisers_stay_inputs_and_are_not_folded():
    built = model("g (float[2] x) => (float[2] y) { a = Mul(w, w) y = Add(x, a) }", {"w": np.array([2, 3], np.float32)})
    built.graph.inputs.append(built.graph.initializers["w"])
    before = to_bytes(built)
    after, _ = optimised(before)
    x = np.ones(2, np.float32)
    assert_same_results(before, after, {"x": x})
    assert_same_results(before, after, {"x": x, "w": np.array([5, 7], np.float32)})


def test_weights_of_ir_version_3_are_inputs_by_force_and_fold():
    text = """<ir_version: 3, opset_import: ["" : 8]>
    g (float[2] x, float[2] w) => (float[2] y) { a = Mul(w, w) y = Add(x, a) }"""
    built = parse(text, {"w": np.array([2, 3], np.float32)}, ir_version=3)
    before = to_bytes(built)
    after, _ = optimised(before)
    assert [value.name for value in after.graph.inputs] == ["x"]
    assert ops(after) == ["Add"]
    assert_same_results(before, after, {"x": np.ones(2, np.float32)})


def test_functions_are_inlined_and_other_domains_kept():
    text = """<ir_version: 8, opset_import: ["" : 18, "local" : 1, "com.microsoft" : 1]>
    g (float[2,4] x) => (float[2,4] y) { a = local.twice(x) b = Identity(a) y = com.microsoft.Gelu(b) }
    <domain: "local", opset_import: ["" : 18]> twice (p) => (q) { q = Add(p, p) }"""
    built = parse(text)
    before = to_bytes(built)
    after, _ = optimised(before)
    assert ops(after) == ["Add", "Gelu"]
    assert dict(after.graph.opset_imports) == {"": 18, "com.microsoft": 1}
    assert_same_results(before, after, {"x": np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)})


def test_an_unsorted_model_is_sorted_and_a_broken_one_is_a_model_error():
    built = model("g (float[2] x) => (float[2] y) { a = Abs(x) y = Neg(a) }")
    proto = ir.to_proto(built)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    after, _ = optimised(proto.SerializeToString())
    assert ops(after) == ["Abs", "Neg"]
    proto.graph.node[0].input[0] = "ghost"
    with pytest.raises(ModelError, match="ghost"):
        optimize(ir.from_proto(proto), target_opset_max=21)


def test_an_operator_above_the_targets_opset_is_a_model_error():
    built = model("g (float[2] x) => (float[2] y) { y = Gelu(x) }", opset=20)
    with pytest.raises(ModelError, match="my board has 17"):
        optimize(built, target_opset_max=17, backend_name="my board")


def test_a_pass_that_breaks_the_interface_fails_the_stage_even_unchecked(monkeypatch):
    def rename(built):
        built.graph.outputs[0].name = "z"

    monkeypatch.setattr(stage, "_finish", lambda: Adapted("culprit", rename))
    built = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    with checked_passes(False), pytest.raises(InternalError, match="changed the model's interface: output y"):
        optimize(built, target_opset_max=21)
    with checked_passes(), pytest.raises(InternalError, match="culprit"):
        optimize(model("g (float[2] x) => (float[2] y) { y = Neg(x) }"), target_opset_max=21)


def test_weights_on_disk_are_not_read_by_the_stage(tmp_path, monkeypatch):
    weight = np.random.default_rng(0).normal(size=(600, 600)).astype(np.float32)
    built = model("g (float[1,600] x) => (float[1,600] y) { a = MatMul(x, w) y = Identity(a) }", {"w": weight})
    save_model(built, tmp_path / "m.onnx")
    loaded = load_model(tmp_path / "m.onnx")

    def touched(self):
        msg = "a weight was read"
        raise AssertionError(msg)

    monkeypatch.setattr(ir.ExternalTensor, "_load", touched)
    optimize(loaded, target_opset_max=21)
    assert ops(loaded) == ["MatMul"]


def test_empty_and_unnamed_parts_are_survived():
    built = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    for node in built.graph:
        node.name = None
    after, report = optimised(to_bytes(built))
    assert ops(after) == ["Neg"]
    assert report.to_json()["passes"]
