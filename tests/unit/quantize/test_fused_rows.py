"""edgebuild's own operators in ONNX Runtime against numpy, and where the graph takes them."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import quantize_tools as tools
from quantize_tools import build, data, quantised, run, vector, weight

from edgebuild.errors import InternalError
from edgebuild.quantize.copies import Split
from edgebuild.quantize.fused_rows import preparation_of
from edgebuild.quantize.insert import Forms
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.plan import Mode, Plan
from edgebuild.quantize.smooth import smooth

Array = np.ndarray[Any, Any]
ROWS = Forms(fused_products=True, fused_rows=True)
SEPARATE = Forms(fused_products=True)


def quantize_rows(
    x: Array,
    factors: Array | None = None,
    columns: Array | None = None,
    shifts: Array | None = None,
    *,
    scaled: bool,
    terms: int = 1,
) -> tuple[Array, ...]:
    """The operator alone, in the engine."""
    given = {"factors": factors, "columns": columns, "shifts": shifts}
    make, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    rank = x.ndim + terms - 1
    outputs = [("y", kinds.UINT8, rank), ("scale", kinds.FLOAT, 0), ("zero", kinds.UINT8, 0)]
    outputs += [("sizes", kinds.FLOAT, rank)] if scaled else []
    outputs += [("offsets", kinds.FLOAT, rank)] if scaled and terms == 1 else []
    node = onnx.helper.make_node(
        "QuantizeRows",
        ["x", *(name if array is not None else "" for name, array in given.items())],
        [name for name, *_ in outputs],
        domain="edgebuild",
        scale_rows=int(scaled),
        terms=terms,
    )
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [make("x", kinds.FLOAT, [None] * x.ndim)],
        [make(name, kind, [None] * rank) for name, kind, rank in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in given.items() if array is not None],
    )
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("edgebuild", 1)]
    proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
    return tuple(run(proto, {"x": x}).values())


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shape", [(1,), (33,), (5, 7), (2, 3, 40), (0, 9), (300, 129), (2, 0, 3, 8)])
@pytest.mark.parametrize("parts", ["", "f", "fc", "fcs", "c", "empty"])
def test_rows_are_quantised_as_in_numpy(shape: tuple[int, ...], scaled: bool, parts: str) -> None:
    random = np.random.default_rng([len(parts), *shape])
    x = (random.standard_normal(shape) * np.exp(random.standard_normal((*shape[:-1], 1)) * 3)).astype(np.float32)
    if x.ndim > 1 and len(x) > 2:
        x[1] = 0
    columns = random.integers(0, shape[-1], 0 if parts == "empty" else 3) if "c" in parts or parts == "empty" else None
    extra = 0 if columns is None else len(columns)
    factors = np.exp(random.standard_normal(shape[-1] + extra)).astype(np.float32) if "f" in parts else None
    shifts = random.standard_normal(extra).astype(np.float32) if "s" in parts else None
    y, scale, zero, *own = quantize_rows(x, factors, columns, shifts, scaled=scaled)

    want = x.astype(np.float64)
    if columns is not None:
        want = np.concatenate([want, want[..., columns] + (0 if shifts is None else shifts)], axis=-1)
    want = want if factors is None else want * factors
    axis = -1 if scaled else None
    low = want.min(axis=axis, keepdims=True, initial=0)
    high = want.max(axis=axis, keepdims=True, initial=0)
    steps, zeros = np.asarray(scale, np.float64), np.asarray(zero, np.float64)
    if scaled:
        assert (float(scale), int(zero)) == (1.0, 128)
        steps, zeros = own[0].astype(np.float64), 128 - own[1].astype(np.float64)
        assert steps.shape == zeros.shape == (*shape[:-1], 1)
    full = high > low
    low, high = low.reshape(steps.shape), high.reshape(steps.shape)
    full = full.reshape(steps.shape)
    np.testing.assert_allclose(steps[full], ((high - low) / 255)[full], rtol=1e-5)
    assert np.all(np.abs(zeros + low / steps)[full] <= 0.501)
    assert y.shape == want.shape
    assert np.all(np.abs(y - np.clip(want / steps + zeros, 0, 255)) <= 0.502)


@pytest.mark.parametrize("shape", [(1,), (33,), (5, 7), (2, 3, 40), (0, 9), (300, 129), (2, 0, 3, 8), (3, 0)])
def test_two_terms_add_up_to_the_rows(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(shape)
    x = (random.standard_normal(shape) * np.exp(random.standard_normal((*shape[:-1], 1)) * 3)).astype(np.float32)
    columns = np.zeros(2 if shape[-1] else 0, np.int64)
    factors = np.exp(random.standard_normal(shape[-1] + len(columns))).astype(np.float32)
    y, scale, zero, sizes = quantize_rows(x, factors, columns, scaled=True, terms=2)
    assert y.shape == (2, *shape[:-1], shape[-1] + len(columns))
    assert sizes.shape == (2, *shape[:-1], 1)
    want = np.concatenate([x, x[..., columns]], axis=-1).astype(np.float64) * factors
    got = ((y.astype(np.float64) - int(zero)) * float(scale) * sizes).sum(axis=0)
    largest = np.max(np.abs(want), axis=-1, keepdims=True, initial=0)
    assert np.all(np.abs(got - want) <= largest / 2**15.9)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"terms": 3}, "expected 1 or 2 for 'terms', got 3"),
        ({"terms": 2}, "two terms need scaled rows"),
        ({"columns": np.array([8])}, "column 8 of rows of 8 values"),
        ({"columns": np.array([-1])}, "column -1 of rows of 8 values"),
        ({"factors": np.ones(7, np.float32)}, "expected 8 factors, got 7"),
        ({"factors": np.ones(8, np.float32), "columns": np.array([1])}, "expected 9 factors, got 8"),
        ({"columns": np.array([1]), "shifts": np.ones(2, np.float32)}, "expected 1 shifts, got 2"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(more: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=f"QuantizeRows: {said}"):
        quantize_rows(data(3, 8), **{"scaled": False, **more})


def shared(k: int, *, transposed: bool = False, bias: bool = False) -> ir.Model:
    """Q, K and V: three products that read one activation, made by the graph."""
    weights = {name: weight(k, 24, seed=i) for i, name in enumerate("qkv")}
    weights = {name: np.ascontiguousarray(w.T) if transposed else w for name, w in weights.items()}
    weights |= {f"b{name}": vector(24, seed=i) for i, name in enumerate("qkv")} if bias else {}
    gemm = "Gemm <transB = 1>" if transposed else "MatMul"
    dims = "N" if transposed else "B,S"
    text = "x = Sigmoid(r) "
    for name in "qkv":
        if bias and transposed:
            text += f"o{name} = {gemm} (x, {name}, b{name}) "
        elif bias:
            text += f"m{name} = {gemm} (x, {name}) o{name} = Add(m{name}, b{name}) "
        else:
            text += f"o{name} = {gemm} (x, {name}) "
    outputs = ", ".join(f"float[{dims},24] o{name}" for name in "qkv")
    return build(f"g (float[{dims},{k}] r) => ({outputs}) {{ {text} }}", weights)


def float_of_rounded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with float activations: only the weights are rounded."""
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    nodes = []
    for node in found.graph.node:
        if node.op_type == "QuantizeRows":
            source, factors, columns, shifts = [*node.input, "", "", ""][:4]
            product = source
            if columns:
                nodes.append(onnx.helper.make_node("Gather", [source, columns], ["copied"], axis=-1))
                behind = "copied"
                if shifts:
                    nodes.append(onnx.helper.make_node("Add", ["copied", shifts], ["shifted"]))
                    behind = "shifted"
                nodes.append(onnx.helper.make_node("Concat", [source, behind], ["widened"], axis=-1))
                product = "widened"
            names = [product, factors] if factors else [product]
            nodes.append(onnx.helper.make_node("Mul" if factors else "Identity", names, ["prepared"]))
        elif node.op_type == "MatMulIntegerToFloat":
            values = arrays[node.input[1]].astype(np.float32) * arrays[node.input[3]]
            found.graph.initializer.append(onnx.numpy_helper.from_array(values, f"{node.output[0]}_rounded"))
            nodes.append(onnx.helper.make_node("MatMul", ["prepared", f"{node.output[0]}_rounded"], node.output))
        elif node.op_type == "RescaleRows":
            bias = [*node.input, ""][2]
            names = [node.input[0], bias] if bias else [node.input[0]]
            nodes.append(onnx.helper.make_node("Add" if bias else "Identity", names, node.output))
        else:
            nodes.append(node)
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    del found.graph.value_info[:]
    return found


def prepare(model: ir.Model, k: int, *, split: bool) -> None:
    largest = np.exp(np.random.default_rng(k).standard_normal(k) * 0.5)
    splits = {"x": Split(channels=(1, k - 1), copies=(5, 3), steps=(0.01, 0.02))} if split else {}
    assert smooth(model, {"x": largest}, splits=splits) == 1


@pytest.mark.parametrize("k", [24, 45])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("prepared", ["plain", "smoothed", "split"])
@pytest.mark.parametrize("mode", ["dynamic", "rowwise"])
def test_products_of_one_activation_share_one_pass_and_keep_their_numbers(
    mode: Mode, prepared: str, transposed: bool, bias: bool, k: int
) -> None:
    model = shared(k, transposed=transposed, bias=bias)
    if prepared != "plain":
        prepare(model, k, split=prepared == "split")
    plan = Plan(modes={layer.name: mode for layer in find_layers(model.graph)})
    one, several = quantised(model, plan, forms=ROWS), quantised(model, plan, forms=SEPARATE)
    found = tools.operators(one)
    assert found.count("QuantizeRows") == 1
    assert found.count("RescaleRows") == (3 if mode == "rowwise" else 0)
    assert found.count("MatMulIntegerToFloat") == 3
    assert {"Mul", "Gather", "Concat", "DynamicQuantizeMatMul", "ReduceMax", "Div"}.isdisjoint(found)
    x = data(6, k) if transposed else data(2, 3, k)
    for level in ("none", "all"):
        got, want = run(one, {"r": x}, level=level), run(several, {"r": x}, level=level)
        for name, array in want.items():
            # An integer may fall on the other side of a tie; rows that have ranges of their own are nearer to float.
            assert tools.sqnr(array, got[name]) > (50 if mode == "dynamic" else 28)
        exact = run(tools.proto_of(model), {"r": x})
        for name, array in exact.items():
            assert tools.sqnr(array, got[name]) > 28


@pytest.mark.parametrize("odd", [np.inf, -np.inf])
@pytest.mark.parametrize("mode", ["dynamic", "rowwise", "two_terms"])
def test_infinity_does_not_become_a_number(mode: Mode, odd: float) -> None:
    model = shared(24)
    plan = Plan(modes={layer.name: mode for layer in find_layers(model.graph)})
    model.graph.node(0).op_type = "Neg"
    x = data(1, 3, 24)
    x[0, 1, 4] = odd
    for name, got in run(quantised(model, plan, forms=ROWS), {"r": x}).items():
        assert not np.isfinite(got[0, 1]).any(), name
        assert np.isfinite(got[0, [0, 2]]).all() == (mode != "dynamic")


def test_a_lone_plain_dynamic_product_stays_the_engines() -> None:
    model = build("g (float[N,24] x) => (float[N,20] y) { y = MatMul(x, w) }", {"w": weight(24, 20)})
    plan = Plan(modes={layer.name: "dynamic" for layer in find_layers(model.graph)})
    assert tools.operators(quantised(model, plan, forms=ROWS)) == ["DynamicQuantizeMatMul"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("prepared", ["plain", "smoothed", "split"])
def test_rows_in_two_terms_lose_nothing_but_what_rounding_the_weights_does(
    prepared: str, transposed: bool, bias: bool
) -> None:
    model = shared(45, transposed=transposed, bias=bias)
    exact = tools.proto_of(model)
    if prepared != "plain":
        prepare(model, 45, split=prepared == "split")
    names = [layer.name for layer in find_layers(model.graph)]
    modes: tuple[Mode, ...] = ("two_terms", "rowwise")
    protos = [quantised(model, Plan(modes=dict.fromkeys(names, mode)), forms=ROWS) for mode in modes]
    found = tools.operators(protos[0])
    assert (found.count("QuantizeRows"), found.count("MatMulIntegerToFloat"), found.count("RescaleRows")) == (1, 3, 3)
    x = data(6, 45) if transposed else data(2, 3, 45)
    rounded = run(float_of_rounded(protos[0]), {"r": x})
    for level in ("none", "all"):
        two, one = (run(proto, {"r": x}, level=level) for proto in protos)
        for name, want in rounded.items():
            assert tools.sqnr(want, two[name]) > 75
            assert tools.sqnr(want, one[name]) < 60
    for name, want in run(exact, {"r": x}).items():
        assert tools.sqnr(want, two[name]) > 34


@pytest.mark.parametrize(
    ("mode", "forms"),
    [
        ("two_terms", SEPARATE),
        ("blockwise", SEPARATE),
        ("rowwise", Forms(fused_products=False, blockwise=True)),
        ("dynamic", Forms(fused_products=False)),
    ],
)
def test_modes_need_their_operators(mode: Mode, forms: Forms) -> None:
    """Decisions may be replayed where the target's file says something else."""
    model = build("g (float[N,24] x) => (float[N,20] y) { y = MatMul(x, w) }", {"w": weight(24, 20)})
    plan = Plan(modes={layer.name: mode for layer in find_layers(model.graph)})
    with pytest.raises(InternalError, match="for which the target has no operators"):
        quantised(model, plan, forms=forms)


@pytest.mark.parametrize("mode", ["dynamic", "rowwise", "two_terms"])
@pytest.mark.parametrize("backwards", [False, True])
def test_products_in_a_row_read_each_other(mode: Mode, backwards: bool) -> None:
    """What a product reads may have been replaced before it."""
    model = build(
        "g (float[N,24] x) => (float[N,20] y, float[N,20] z) { a = MatMul(x, w1) y = MatMul(a, w2) z = MatMul(a, w3) }",
        {"w1": weight(24, 32), "w2": weight(32, 20, seed=2), "w3": weight(32, 20, seed=3)},
    )
    names = [layer.name for layer in find_layers(model.graph)]
    proto = quantised(model, Plan(modes=dict.fromkeys(names[::-1] if backwards else names, mode)), forms=ROWS)
    feeds = {"x": data(6, 24)}
    got = run(proto, feeds, level="all")
    for name, want in run(tools.proto_of(model), feeds).items():
        assert tools.sqnr(want, got[name]) > 28


def test_factors_that_are_made_behind_the_activation_are_not_taken_in() -> None:
    factors = vector(24)
    given = ",".join(str(float(factor)) for factor in factors)
    model = build(
        "g (float[N,24] r) => (float[N,20] y) { h = Relu(r) "
        f"k = Constant <value = float[24] {{ {given} }}>() x = Mul(h, k) y = MatMul(x, w) }}",
        {"w": weight(24, 20)},
    )
    proto = quantised(model, Plan(modes={layer.name: "rowwise" for layer in find_layers(model.graph)}), forms=ROWS)
    feeds = {"r": data(6, 24)}
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values()
    assert tools.sqnr(want, got) > 28


NEAR_MISSES = {
    "a scalar": ("x = Mul(r, s)", {"s": np.array(2, np.float32)}),
    "a factor for each row": ("x = Mul(r, s)", {"s": vector(6).reshape(6, 1)}),
    "rows of one value widened": ("p = ReduceMax <axes = [-1]> (r) x = Mul(p, s)", {"s": vector(24)}),
    "the constant in front": ("x = Mul(s, r)", {"s": vector(24)}),
    "another axis": ("g = Gather <axis = 0> (h, i) c = Concat <axis = 0> (h, g) x = Mul(c, s)", {"s": vector(24)}),
    "copies of another": ("t = Neg(h) g = Gather <axis = 1> (t, i) c = Concat <axis = 1> (h, g) x = Mul(c, s)", {}),
    "shifts that vary": ("g = Gather <axis = 1> (h, i) a = Add(g, v) c = Concat <axis = 1> (h, a) x = Mul(c, s)", {}),
}


@pytest.mark.parametrize("form", NEAR_MISSES)
def test_what_only_looks_like_a_preparation_keeps_its_numbers(form: str) -> None:
    text, given = NEAR_MISSES[form]
    rows = 3 if form == "another axis" else 6
    constants = {"s": vector(24), "i": np.array([0, 2, 1], np.int64), "w": weight(24, 20)} | given
    source = f"h = Slice(r, b, e, o) {text}" if "h" in text else text
    depth = 21 if "axis = 1" in text else 24
    bounds = {"b": [0, 0], "e": [rows, depth], "o": [0, 1]}
    constants |= {name: np.array(value, np.int64) for name, value in bounds.items()}
    source = source.replace("Add(g, v)", "Add(g, v0)").replace(
        "g = Gather <axis = 1> (h", "v0 = Sqrt(q) g = Gather <axis = 1> (h"
    )
    used = {name: array for name, array in constants.items() if f" {name}" in source or f"({name}," in source}
    model = build(
        f"g (float[6,24] r, float[3] q) => (float[6,20] y) {{ {source} y = MatMul(x, w) }}",
        used | {"w": weight(24, 20)},
    )
    (layer,) = find_layers(model.graph)
    found = preparation_of(layer.data)
    assert found.columns is None
    if found.any:
        assert found.source.name == "c"
    feeds = {"r": data(6, 24), "q": np.abs(data(3, seed=4))}
    proto = quantised(model, Plan(modes={layer.name: "rowwise"}), forms=ROWS)
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values()
    assert tools.sqnr(want, got) > 28


def test_others_still_read_what_is_taken_into_the_pass() -> None:
    model = build(
        "g (float[N,24] r) => (float[N,20] y, float[N,24] x, float[N,24] z) { x = Mul(r, s) y = MatMul(x, w) z = Exp(x) }",
        {"s": vector(24), "w": weight(24, 20)},
    )
    (layer,) = find_layers(model.graph)
    found = preparation_of(layer.data)
    assert (found.source.name, found.factors and found.factors.name) == ("r", "s")
    proto = quantised(model, Plan(modes={layer.name: "dynamic"}), forms=ROWS)
    feeds = {"r": data(6, 24)}
    want, got = run(tools.proto_of(model), feeds), run(proto, feeds, level="all")
    np.testing.assert_array_equal(got["x"], want["x"])
    np.testing.assert_allclose(got["z"], want["z"], rtol=1e-6)
    assert tools.sqnr(want["y"], got["y"]) > 28


def test_rows_without_values_have_sizes() -> None:
    integers, scale, zero, sizes, offsets = quantize_rows(np.zeros((3, 0), np.float32), scaled=True)
    assert integers.shape == (3, 0)
    assert (float(scale), int(zero)) == (1.0, 128)
    np.testing.assert_array_equal(sizes, np.ones((3, 1)))
    np.testing.assert_array_equal(offsets, np.zeros((3, 1)))


@pytest.mark.parametrize("count", [2, 4])
def test_as_many_sizes_as_rows_are_asked_for(count: int) -> None:
    make, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    node = onnx.helper.make_node("RescaleRows", ["x", "sizes"], ["y"], domain="edgebuild", terms=1, gelu=0)
    inputs = [make("x", kind, [None, None]), make("sizes", kind, [None, None])]
    graph = onnx.helper.make_graph([node], "g", inputs, [make("y", kind, [None, None])])
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("edgebuild", 1)]
    proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
    with pytest.raises(Exception, match=f"RescaleRows: expected 3 sizes, got {count}"):
        run(proto, {"x": data(3, 5), "sizes": data(count, 1)})
