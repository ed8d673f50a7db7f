"""GELU applied while rows are brought back, where nothing else reads them."""

import numpy as np
import pytest
import quantize_tools as tools
from quantize_tools import build, data, quantised, run, vector, weight

from edgebuild.quantize.insert import Forms
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.plan import Mode, Plan

ROWS = Forms(fused_products=True, fused_rows=True)

GELUS = {
    "erf": ("com.microsoft.Gelu (h)", True),
    "tanh": ("com.microsoft.FastGelu (h)", False),
    "read twice": ("com.microsoft.Gelu (h) z = Neg(h)", False),
    "an output": ("com.microsoft.Gelu (h)", False),
}


@pytest.mark.parametrize("form", GELUS)
@pytest.mark.parametrize("mode", ["dynamic", "rowwise", "two_terms"])
def test_gelu_is_taken_in_where_nothing_else_reads_the_rows(mode: Mode, form: str) -> None:
    text, taken = GELUS[form]
    outputs = {"read twice": ", float[N,45] z", "an output": ", float[N,45] h"}.get(form, "")
    nodes = f"m = MatMul(x, w1) h = Add(m, b) g = {text} y = MatMul(g, w2)"
    model = build(
        f"g (float[N,24] x) => (float[N,20] y{outputs}) {{ {nodes} }}",
        {"w1": weight(24, 45), "b": vector(45), "w2": weight(45, 20, seed=2)},
    )
    proto = quantised(model, Plan(modes={layer.name: mode for layer in find_layers(model.graph)}), forms=ROWS)
    found = tools.operators(proto)
    assert ("Gelu" in found or "FastGelu" in found) != (taken and mode != "dynamic")
    feeds = {"x": data(6, 24)}
    got = run(proto, feeds, level="all")
    for name, want in run(tools.proto_of(model), feeds).items():
        assert tools.sqnr(want, got[name]) > 28


def test_a_gelu_inside_a_branch_stays_there() -> None:
    ones = ",".join(["1"] * 20)
    branches = (
        "then_branch = t () => (float[N,20] u) { u = com.microsoft.Gelu(h) }, "
        f"else_branch = e () => (float[N,20] v) {{ v = Constant <value = float[1,20] {{ {ones} }}>() }}"
    )
    model = build(
        f"g (float[N,24] x, bool c) => (float[N,20] y) {{ h = MatMul(x, w) y = If (c) <{branches}> }}",
        {"w": weight(24, 20)},
    )
    proto = quantised(model, Plan(modes={layer.name: "rowwise" for layer in find_layers(model.graph)}), forms=ROWS)
    for choice in (True, False):
        feeds = {"x": data(1, 24), "c": np.array(choice)}
        (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values()
        assert tools.sqnr(want, got) > 28
