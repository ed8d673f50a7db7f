"""edgebuild's own operators in graphs that the builder would not write: a status with the reason, never a crash."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from quantize_tools import data, run

FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
Array = np.ndarray[Any, Any]


def operator(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: int) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, inputs, outputs, domain="edgebuild", **attributes)


def run_nodes(nodes: Sequence[onnx.NodeProto], wanted: str, kind: int, **feeds: Array) -> Array:
    """One value of a graph whose inputs have any shape."""
    make = onnx.helper.make_tensor_value_info
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    inputs = [make(name, kinds[name], [None] * array.ndim) for name, array in feeds.items()]
    graph = onnx.helper.make_graph(nodes, "g", inputs, [make(wanted, kind, None)])
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("edgebuild", 1)]
    (result,) = run(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8), feeds).values()
    return result


@pytest.mark.parametrize(
    ("outputs", "attributes", "wanted", "said"),
    [
        (("y", "s", "z", "", "o"), {"scale_rows": 1, "terms": 1}, "o", "output 3 is left out"),
        (("y", "s", "z", "q", ""), {"scale_rows": 1, "terms": 1}, "q", "output 4 is left out"),
        (("y", "s", "z", ""), {"scale_rows": 1, "terms": 2}, "y", "output 3 is left out"),
        (("y", "s", "z"), {"scale_rows": 1, "terms": 1}, "y", "expected 5 outputs, got 3"),
        (("y", "s", "z", "q", "o"), {"scale_rows": 1, "terms": 2}, "o", "expected 4 outputs, got 5"),
        (("y", "s", "z", "q"), {"scale_rows": 0, "terms": 1}, "q", "expected 3 outputs, got 4"),
        (("y", "s", "z"), {"scale_rows": 2, "terms": 1}, "y", "expected 0 or 1 for 'scale_rows', got 2"),
        (("y", "s", "z"), {"scale_rows": 0, "terms": 0}, "y", "expected 1 or 2 for 'terms', got 0"),
    ],
)
def test_outputs_that_do_not_fit_the_attributes_are_refused(
    outputs: tuple[str, ...], attributes: dict[str, int], wanted: str, said: str
) -> None:
    node = operator("QuantizeRows", ["x"], outputs, **attributes)
    with pytest.raises(Exception, match=f"QuantizeRows: {said}"):
        run_nodes([node], wanted, UINT8 if wanted == "y" else FLOAT, x=data(3, 8))


@pytest.mark.parametrize(
    ("shapes", "attributes", "said"),
    [
        ({"x": (3, 5), "sizes": (0,)}, {}, "expected 3 sizes, got 0"),
        ({"x": (3, 5), "sizes": (3, 5)}, {}, "expected 3 sizes, got 15"),
        ({"x": (), "sizes": (1,)}, {}, "expected rows, got a scalar"),
        ({"x": (3, 5), "sizes": (3,), "bias": (4,)}, {}, "expected 5 biases, got 4"),
        ({"x": (3, 5), "sizes": (3,), "offsets": (3,)}, {}, "offsets need sums, and one term"),
        ({"x": (3, 5), "sizes": (3,), "offsets": (2,), "sums": (5,)}, {}, "expected 3 offsets, got 2"),
        ({"x": (3, 5), "sizes": (3,), "offsets": (3,), "sums": (1,)}, {}, "expected 5 sums, got 1"),
        ({"x": (3, 5), "sizes": (3,), "sums": (0,)}, {}, "expected 5 sums, got 0"),
        ({"x": (3, 5), "sizes": (3,)}, {"terms": 2}, "expected the rows of two terms along the first axis"),
        ({"x": (2,), "sizes": (1,)}, {"terms": 2}, "expected the rows of two terms along the first axis"),
        ({"x": (2, 5), "sizes": (1,)}, {"terms": 2}, "expected 2 sizes, got 1"),
        ({"x": (2, 5), "sizes": (2,), "offsets": (2,), "sums": (5,)}, {"terms": 2}, "offsets need sums, and one term"),
        ({"x": (3, 5), "sizes": (3,)}, {"gelu": 2}, "expected 0 or 1 for 'gelu', got 2"),
    ],
)
def test_what_rows_are_brought_back_with_must_fit_them(
    shapes: dict[str, tuple[int, ...]], attributes: dict[str, int], said: str
) -> None:
    names = [name if name in shapes else "" for name in ("x", "sizes", "bias", "offsets", "sums")]
    node = operator("RescaleRows", names, ["y"], **{"terms": 1, "gelu": 0, **attributes})
    with pytest.raises(Exception, match=f"RescaleRows: {said}"):
        run_nodes([node], "y", FLOAT, **{name: np.ones(shape, np.float32) for name, shape in shapes.items()})


def rows_of_no_value(shape: tuple[int, int]) -> Array:
    make = onnx.helper.make_node("ConstantOfShape", ["shape"], ["x"])
    nodes = [make, operator("QuantizeRows", ["x", "", "columns"], ["y", "s", "z"], scale_rows=0, terms=1)]
    return run_nodes(nodes, "y", UINT8, shape=np.array(shape), columns=np.arange(min(shape[1], 3)))


def test_the_longest_rows_are_not_read_where_there_are_none() -> None:
    assert rows_of_no_value((0, 2**62)).shape == (0, 2**62 + 3)
    assert rows_of_no_value((2**33, 0)).shape == (2**33, 0)


def test_rows_whose_length_overflows_are_refused() -> None:
    with pytest.raises(Exception, match="QuantizeRows"):
        rows_of_no_value((0, 2**63 - 1))
