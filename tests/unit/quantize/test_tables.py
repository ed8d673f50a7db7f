"""Embedding tables as integers with a scale for each row."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from quantize_tools import STANDARD, U8S8, build, proto_of, quantised, run, sqnr, vector, weight

from edgebuild.errors import InternalError
from edgebuild.quantize.plan import Plan
from edgebuild.quantize.tables import find_tables

ROWS, WIDTH = 701, 99
HEAD = f"g (int64[N,S] i, int64[N] k) => (float[?,?,{WIDTH}] y"
ONE = f"{HEAD}) {{ e = Gather(table, i) y = Mul(e, gain) }}"


def table(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.standard_normal((ROWS, WIDTH)) * np.exp(random.uniform(-6, 6, (ROWS, 1)))
    values[17] = 0.0
    return values.astype(np.float32)


def model_of(text: str = ONE, **weights: np.ndarray) -> ir.Model:
    return build(text, {"table": table(), "gain": np.ones(WIDTH, np.float32)} | weights)


def indices(seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    i = random.integers(-ROWS, ROWS, (3, 11))
    i[0, :2] = (17, -1)
    return {"i": i, "k": random.integers(0, ROWS, 3)}


def stored(model: ir.Model, *names: str) -> onnx.ModelProto:
    plan = Plan.from_json(json.loads(json.dumps(Plan(modes={}, tables=frozenset(names)).to_json())))
    return quantised(model, plan, scheme=U8S8, forms=STANDARD)


def test_each_row_is_within_half_a_step_of_its_own() -> None:
    model = model_of()
    assert find_tables(model.graph) == ("table",)
    feeds = indices()
    proto = stored(model, "table")
    rows = table()[feeds["i"]]
    error = np.abs(run(proto, feeds)["y"] - rows)
    steps = np.abs(rows).max(-1, keepdims=True) / 127
    assert np.all(error <= steps * 0.501)
    assert np.all(error[0, 0] == 0)
    assert sqnr(rows, run(proto, feeds, level="all")["y"]) > 35


def test_the_file_shrinks_to_a_quarter() -> None:
    model = model_of()
    sizes = [len(proto.SerializeToString()) for proto in (proto_of(model), stored(model, "table"))]
    assert sizes[1] < 0.27 * sizes[0]
    assert sorted(node.op_type for node in stored(model, "table").graph.node) == [
        "Cast",
        "Gather",
        "Gather",
        "Mul",
        "Mul",
    ]


def test_a_table_that_two_read_is_stored_once_and_an_output_keeps_its_name() -> None:
    text = f"{HEAD}, float[?,{WIDTH}] z) {{ e = Gather(table, i) y = Mul(e, gain) z = Gather <axis = 0> (table, k) }}"
    model = model_of(text)
    proto = stored(model, "table")
    feeds = indices()
    assert [len(i.dims) for i in proto.graph.initializer if i.data_type == onnx.TensorProto.INT8] == [2]
    expected, got = run(proto_of(model), feeds), run(proto, feeds)
    assert list(got) == ["y", "z"]
    assert all(sqnr(expected[name], got[name]) > 35 for name in expected)


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}) {{ e = Gather(small, i) y = Mul(e, gain) }}",
        f"{HEAD}) {{ e = Gather <axis = 1> (table, k) f = Transpose(e) g = Gather(table2, i) y = Mul(g, gain) }}",
        f"{HEAD}, float[{ROWS},{WIDTH}] z) {{ e = Gather(table, i) y = Mul(e, gain) z = Neg(table) }}",
        f"{HEAD}) {{ t = Neg(table) e = Gather(t, i) y = Mul(e, gain) }}",
        f"{HEAD}) {{ e = Gather(broken, i) y = Mul(e, gain) }}",
    ],
)
def test_what_is_no_large_table_of_rows_stays(text: str) -> None:
    broken = table()
    broken[5, 5] = np.inf
    every = {"small": table()[:600], "table2": table()[:300], "broken": broken, "table": table(), "gain": vector(WIDTH)}
    model = build(
        text,
        {name: array for name, array in every.items() if f"({name}, " in text or f"({name})" in text or name == "gain"},
    )
    assert find_tables(model.graph) == ()


@pytest.mark.parametrize("name", ["nowhere", "gain"])
def test_a_plan_with_another_graphs_table_is_refused(name: str) -> None:
    with pytest.raises(InternalError, match=f"names '{name}' as a table"):
        stored(model_of(), name)


def test_a_table_that_is_a_layers_weight_too_stays() -> None:
    text = f"g (int64[S] i) => (float[S,{ROWS}] y) {{ e = Gather(table, i) y = Gemm <transB = 1> (e, table) }}"
    assert find_tables(build(text, {"table": weight(ROWS, WIDTH)}).graph) == ()
