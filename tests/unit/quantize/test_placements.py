"""Which layers a graph has, in which ways they can go to integers, and the plans that say so."""

import json
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import FUSED, PER_TENSOR, SEVEN_BIT, STANDARD, U8S8, build, vector, weight

from edgebuild.quantize.candidate import values_to_observe, without
from edgebuild.quantize.editor import GraphEditor
from edgebuild.quantize.insert import static_region
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.placements import placements
from edgebuild.quantize.plan import Plan, Smoothing
from edgebuild.quantize.region import ARITHMETIC, MOVING, clip_bounds
from edgebuild.quantize.schemes import group_schemes, judged_group
from edgebuild.targets.spec import QuantizationScheme


def layers(body: str, **weights: Any) -> list[tuple[str, str]]:
    """(kind, nodes) of each layer of ``g (float[N,K] x) => (float[N,M] y)``."""
    model = build(body, weights)
    return [(layer.kind, " ".join(node.op_type for node in layer.nodes)) for layer in find_layers(model.graph)]


FLAT = "g (float[N,24] x) => (float[N,20] y) "
W, B = weight(24, 20), vector(20)


@pytest.mark.parametrize(
    ("text", "weights", "found"),
    [
        ("y = MatMul(x, w)", {"w": W}, [("matmul", "MatMul")]),
        ("m = MatMul(x, w) y = Add(m, b)", {"w": W, "b": B}, [("matmul", "MatMul Add")]),
        ("m = MatMul(x, w) y = Add(b, m)", {"w": W, "b": B}, [("matmul", "MatMul Add")]),
        ("m = MatMul(x, w) y = Add(m, b)", {"w": W, "b": B[:1]}, [("matmul", "MatMul")]),
        ("m = MatMul(x, w) y = Add(m, m)", {"w": W}, [("matmul", "MatMul")]),
        ("m = MatMul(x, w) a = Add(m, b) y = Mul(a, m)", {"w": W, "b": B}, [("matmul", "MatMul")]),
        ("y = Gemm(x, w, b)", {"w": W, "b": B}, [("matmul", "Gemm")]),
        ("y = Gemm(x, w, b)", {"w": W, "b": B[None]}, [("matmul", "Gemm")]),
        ("y = Gemm <beta = 0.5> (x, w, b)", {"w": W, "b": B}, []),
        ("y = Gemm <beta = 0.5> (x, w)", {"w": W}, [("matmul", "Gemm")]),
        ("y = Gemm <alpha = 0.5> (x, w, b)", {"w": W, "b": B}, []),
        ("y = Gemm(x, w, b)", {"w": W, "b": B[:1]}, []),
        ("t = Transpose(x) y = Gemm <transA = 1> (t, w)", {"w": W}, []),
        ("y = MatMul(x, w)", {"w": W[:, :10]}, []),  # 240 weights are too few
    ],
)
def test_products_that_are_layers(text: str, weights: Any, found: Any) -> None:
    shape = FLAT if len(weights["w"][0]) == 20 else FLAT.replace("20", "10")
    assert layers(f"{shape}{{ {text} }}", **weights) == found


def test_what_meets_no_activation_or_no_constant_is_no_layer() -> None:
    both = "g (float[N,20] x) => (float[24,20] c, float[N,20] y) { c = MatMul(k, w) y = Exp(x) }"
    assert layers(both, k=weight(24, 24), w=W) == []
    neither = "g (float[N,24] x, float[24,20] w) => (float[N,20] y) { y = MatMul(x, w) }"
    assert layers(neither) == []
    double = "g (double[N,24] x) => (double[N,20] y) { y = MatMul(x, w) }"
    assert layers(double, w=W.astype(np.float64)) == []


def test_an_output_between_product_and_bias_keeps_them_apart() -> None:
    body = "g (float[N,24] x) => (float[N,20] m, float[N,20] y) { m = MatMul(x, w) y = Add(m, b) }"
    assert layers(body, w=W, b=B) == [("matmul", "MatMul")]


def test_lstm_that_the_engines_kernel_has_not_is_no_layer() -> None:
    w = np.ascontiguousarray(weight(12, 48).T[None])
    body = "g (float[5,2,12] x) => (float[5,1,2,12] y) {{ y = LSTM <hidden_size = 12{}> (x, w, w) }}"
    assert layers(body.format(""), w=w) == [("recurrent", "LSTM")]
    assert layers(body.format(", input_forget = 1"), w=w) == []


def test_multiplications_of_layers() -> None:
    model = build(
        "g (float[2,8,9,24] x) => (float[2,16,9,20] y) { c = Conv <group = 2, pads = [1,1,1,1]> (x, w) y = MatMul(c, v) }",
        {"w": weight(16, 4, 3, 3), "v": weight(24, 20)},
    )
    convolution, product = find_layers(model.graph)
    assert convolution.multiplications() == 2 * 16 * 9 * 24 * 4 * 9
    assert product.multiplications() == 2 * 16 * 9 * 20 * 24
    assert (convolution.channel_axis, product.channel_axis) == (0, 1)
    model = build("g (float[N,24] x) => (float[N,20] y) { y = MatMul(x, v) }", {"v": weight(24, 20)})
    assert find_layers(model.graph)[0].multiplications() is None


SILU = """g (float[1,16,8,24] x) => (float[1,16,8,20] y) {
  c = Conv (x, w) g = Sigmoid (c) m = Mul (c, g) d = Conv (m, w) y = MatMul (d, v)
}"""


def silu() -> ir.Model:
    return build(SILU, {"w": weight(16, 16, 1, 1), "v": weight(24, 20)})


def test_placements_have_different_names_and_contents() -> None:
    for forms in (FUSED, STANDARD):
        found = placements(silu(), forms)
        assert len({p.name for p in found}) == len(found)
        assert len({(tuple(p.modes.items()), p.operators) for p in found}) == len(found)
        for placement in found:
            if "static" not in placement.modes.values():
                assert placement.operators == frozenset()
            assert set(placement.operators) <= {"Sigmoid", "Mul"}


def test_products_may_be_dynamic_only_where_the_backend_has_the_operator() -> None:
    names = [p.name for p in placements(silu(), FUSED)]
    assert names[0] == "static convolutions, static products"
    assert "static convolutions, dynamic products" in names
    assert "dynamic products" in names
    assert not any("dynamic" in p.name for p in placements(silu(), STANDARD))


def test_a_graph_without_layers_has_no_placement() -> None:
    assert placements(build("g (float[3] x) => (float[3] y) { y = Relu(x) }", {}), FUSED) == ()
    lstm = build(
        "g (float[5,2,12] x) => (float[5,1,2,12] y) { y = LSTM <hidden_size = 12> (x, w, w) }",
        {"w": np.ascontiguousarray(weight(12, 48).T[None])},
    )
    assert placements(lstm, STANDARD) == ()
    assert [(p.name, dict(p.modes)) for p in placements(lstm, FUSED)] == [("dynamic LSTM", {"LSTM_0": "dynamic"})]


def test_what_is_observed_is_what_any_placement_carries() -> None:
    model = silu()
    found = values_to_observe(model, placements(model, FUSED), FUSED)
    assert found == ("x", "c", "g", "m", "d")
    for placement in placements(model, FUSED):
        region = static_region(model, Plan(modes=placement.modes, operators=placement.operators), FUSED)
        assert {region.leader(value).name for value in region.carried} <= set(found)


def test_the_region_grows_only_between_integer_readers() -> None:
    model = build(
        """g (float[1,16,8,8] x) => (float[1,16,8,8] y, float[1,16,8,8] z) {
          c = Conv (x, w) r = Relu (c) p = MaxPool <kernel_shape = [1, 1]> (r) q = Add (p, r) d = Conv (q, w)
          s = Sigmoid (d) y = Mul (s, d) t = Add (x, r) z = Exp (t)
        }""",
        {"w": weight(16, 16, 1, 1)},
    )
    modes = {layer.name: "static" for layer in find_layers(model.graph)}
    region = static_region(model, Plan(modes=modes, operators=MOVING | ARITHMETIC), STANDARD)  # type: ignore[arg-type]
    assert [value.name for value in region.carried] == ["x", "r", "p", "q", "d"]
    assert {value.name for value in region.producers} == {"r", "p", "q", "d"}
    assert {value.name: region.leader(value).name for value in region.carried if value in region.leaders} == {"p": "r"}
    inside = {node.outputs[0].name for node in region.nodes}
    assert inside == {"c", "p", "q", "d"}  # not the end of the graph, nor what reads a float input


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("y = Clip(x, a, b)", (-1.0, 2.0)),
        ("y = Clip(x, , b)", (-np.inf, 2.0)),
        ("y = Clip(x)", (-np.inf, np.inf)),
        ("h = Neg(a) y = Clip(x, h, b)", None),
    ],
)
def test_bounds_of_clips(text: str, bounds: Any) -> None:
    constants = {
        name: np.asarray(v, np.float32) for name, v in (("a", -1), ("b", 2)) if f"{name})" in text or f"{name}," in text
    }
    model = build(f"g (float[4] x) => (float[4] y) {{ {text} }}", constants)
    assert clip_bounds(list(model.graph)[-1]) == bounds


PLAN = Plan(
    modes={"a": "static", "b": "dynamic", "c": "blockwise"},
    operators=frozenset({"Add", "MaxPool"}),
    ranges={"x": (-0.1, 1 / 3), "y": (0.0, float(np.float32(1e-7)))},
    smoothing=Smoothing(alpha=0.5, absmax={"x": (0.1, 1 / 7)}),
    equalization={"a": (0.5, 1.234, 1.0)},
    means={"b": (-1e-9, 1 / 3)},
    tables=frozenset({"words", "places"}),
    roundings={"a": {"63": "eJw=", "127": ""}},
)


def test_plans_survive_json() -> None:
    assert Plan.from_json(json.loads(json.dumps(PLAN.to_json(), allow_nan=False))) == PLAN
    assert [PLAN.count(mode) for mode in ("static", "dynamic", "blockwise")] == [1, 1, 1]  # type: ignore[arg-type]


def test_plans_of_earlier_versions_are_read() -> None:
    old = {key: PLAN.to_json()[key] for key in ("modes", "operators", "ranges", "smoothing")}
    plain = Plan(modes=PLAN.modes, operators=PLAN.operators, ranges=PLAN.ranges, smoothing=PLAN.smoothing)
    assert Plan.from_json(old) == plain
    assert plain.to_json() == old


def test_layers_taken_out_of_a_plan_leave_the_rest() -> None:
    less = without(PLAN, frozenset({"a", "nobody"}))
    assert dict(less.modes) == {"b": "dynamic", "c": "blockwise"}
    assert less.ranges == PLAN.ranges
    assert dict(PLAN.modes)["a"] == "static"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modes": {"a": "int3"}}, "expected modes static, dynamic, rowwise, two_terms, blockwise, got 'int3'"),
        ({"modes": ["a"]}, "not a quantisation plan"),
        ({"modes": None}, "not a quantisation plan"),
        ({"operators": 3}, "not a quantisation plan"),
        ({"smoothing": 0.5}, "not a quantisation plan"),
        ({"smoothing": {"alpha": 0.5}}, "not a quantisation plan"),
        ({"ranges": {"x": [1.0]}}, "not a quantisation plan"),
        ({"ranges": {"x": ["low", 1.0]}}, "not a quantisation plan"),
        ({"ranges": {"x": [1.0, -1.0]}}, "finite ends in order for 'x', got 1.0 to -1.0"),
        ({"ranges": {"x": [0.0, float("inf")]}}, "finite ends"),
        ({"ranges": {"x": [float("nan"), 1.0]}}, "finite ends"),
        ({"equalization": {"a": [1.0, 0.0]}}, "between 2..-24 and 2..24, got 0.0"),
        ({"equalization": {"a": [float("nan")]}}, "between 2..-24 and 2..24, got nan"),
        ({"equalization": {"a": [-1.0]}}, "between 2..-24 and 2..24, got -1.0"),
        ({"equalization": {"a": [1e30]}}, "between 2..-24 and 2..24"),
        ({"equalization": {"a": 3}}, "not a quantisation plan"),
        ({"equalization": [1.0]}, "not a quantisation plan"),
        ({"tables": "words"}, "not a quantisation plan"),
        ({"roundings": ["a"]}, "not a quantisation plan"),
        ({"roundings": {"a": "eJw="}}, "not a quantisation plan"),
        ({"roundings": {"a": {"127": 3}}}, "not a quantisation plan"),
        ({"tables": [3]}, "not a quantisation plan"),
        ({"means": {"a": [10**400]}}, "not a quantisation plan"),
        ({"means": {"a": ["1"]}}, "not a quantisation plan"),
        ({"means": {"a": [float("inf")]}}, "not finite"),
    ],
)
def test_what_is_no_plan_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Plan.from_json({**PLAN.to_json(), **change})
    for key in ("modes", "operators", "ranges"):
        with pytest.raises(ValueError, match=key):
            Plan.from_json({k: v for k, v in PLAN.to_json().items() if k != key})


def test_an_editor_gives_names_that_are_free() -> None:
    model = build("g (float[4] x) => (float[4] y) { x_1 = Add(x, w) y = Relu(x_1) }", {"w": np.ones(4, np.float32)})
    editor = GraphEditor(model.graph)
    assert [editor.fresh(name) for name in ("x", "x", "w", "y", "new", "new")] == [
        "x_2",
        "x_3",
        "w_1",
        "y_1",
        "new",
        "new_1",
    ]
    assert [editor.fresh_node(name) for name in ("Add_0", "x", "x")] == ["Add_0_1", "x", "x_1"]
    value = editor.initializer("w", np.zeros((2, 3), np.int8), ir.DataType.INT8)
    assert value.name == "w_2"
    assert model.graph.initializers["w_2"] is value


def scheme(*features: str, reduce_range: bool = False, activation: str = "uint8") -> QuantizationScheme:
    return QuantizationScheme(
        activation=activation,
        weight="int8",
        symmetric_activations=False,
        per_channel=True,
        reduce_range=reduce_range,
        cpu_features=features,
    )


def test_schemes_that_differ_in_their_cpus_only_share_a_graph() -> None:
    schemes = [scheme("avx512_vnni", "avx512f"), scheme("avx_vnni"), scheme(reduce_range=True)]
    first, second = group_schemes(schemes)
    assert (first.scheme, first.suffix, first.unconditional) == (U8S8, "", False)
    assert first.requires == (("avx512_vnni", "avx512f"), ("avx_vnni",))
    assert (second.scheme, second.suffix, second.unconditional) == (SEVEN_BIT, "-7bit", True)
    assert first.runs_on(["avx_vnni", "sse"])
    assert first.runs_on(["avx512f", "avx512_vnni"])
    assert not first.runs_on(["avx512f"])
    assert second.runs_on([])
    assert judged_group((first, second), ["avx_vnni"]) is first
    assert judged_group((first, second), ["avx2"]) is second
    assert judged_group((first,), ["avx2"]) is first


def test_groups_have_different_suffixes() -> None:
    groups = group_schemes([scheme(), scheme(activation="uint16"), scheme(reduce_range=True), PER_TENSOR])
    assert len({group.suffix for group in groups}) == 4
    assert [group.suffix for group in groups][:3] == ["", "-uint16", "-7bit"]
