import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgebuild.errors import GateError
from edgebuild.export.chain import _failure
from edgebuild.export.parity import (
    DisagreementError,
    check_parity,
    check_repeatable,
    compare,
    derive_tolerances,
    explain,
    own_variation,
    perturbed,
)
from edgebuild.export.result import Attempt
from edgebuild.export.tolerance import output_depths


@pytest.mark.parametrize(
    ("got", "rounding"),
    [(1.0001, True), (1.00001, True), (0.0, False), (-2.86, False), (np.inf, False), (np.nan, False)],
)
def test_only_a_difference_that_may_be_rounding_is_met_with_a_wider_tolerance(got, rounding):
    def engine(_):
        return [np.array([got, 0.5], np.float32)]

    expected = [[np.array([1.0, 0.5], np.float32)]]
    results = check_parity(engine, ["y"], ["x"], [{"x": np.zeros(1)}], expected, {"y": (4e-6, 4e-6)})
    error = _failure([Attempt(exporter="a", error="no")], DisagreementError(explain(results), results))
    assert isinstance(error, GateError)
    assert ("--parity-tol" in str(error.hint)) is rounding
    assert ("hide" in str(error.hint)) is not rounding


def test_a_model_that_decides_by_values_is_told_what_to_do_instead():
    by_value = Attempt(
        exporter="a", error="GuardOnDataDependentSymNode: Could not guard on data-dependent expression u0"
    )
    assert "torch.where" in _failure([by_value, Attempt(exporter="b", error="no")], None).hint
    assert "torch.where" not in _failure([Attempt(exporter="b", error="no kernel", operator="aten::x")], None).hint


@pytest.mark.parametrize(
    "said",
    [
        "NotImplemented: Could not find an implementation for Conv(11) node with name 'n0'",
        "InvalidGraph: Type 'tensor(bfloat16)' of input parameter (x) of operator (Conv) in node (n0) is invalid.",
    ],
)
def test_a_type_that_the_engine_has_no_kernel_for_is_said_as_that(said):
    error = _failure(
        [Attempt(exporter="a", error=said), Attempt(exporter="b", error="no", operator="onnx::Constant")], None
    )
    assert error.message.startswith("ONNX Runtime has no CPU kernel of Conv for the model's element types")
    assert "model.float()" in error.hint


def test_a_complex_output_is_met_with_how_to_return_it():
    wrong = DisagreementError("output y on sample 0: the original gives complex64[2], the exported model float32[2,2]")
    assert "torch.view_as_real" in _failure([Attempt(exporter="a", error="no")], wrong).hint


def test_another_shape_is_never_met_with_a_wider_tolerance():
    error = _failure([Attempt(exporter="a", error="no")], DisagreementError("output y: another shape"))
    assert "--parity-tol" not in str(error.hint)


def test_nan_agrees_with_nan_and_infinity_with_the_same_infinity():
    array = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    assert compare(array.copy(), array, 0.0, 0.0).excess == 0.0


@pytest.mark.parametrize(
    ("got", "expected"), [(np.nan, 1.0), (1.0, np.nan), (np.inf, -np.inf), (np.inf, 3.0), (0.0, np.inf)]
)
def test_non_finite_against_anything_else_is_never_within_tolerance(got, expected):
    left, right = np.array([0.0, got], np.float32), np.array([0.0, expected], np.float32)
    worst = compare(left, right, 1e30, 1e30)
    assert worst.excess == math.inf
    assert worst.index == (1,)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20), st.integers(0, 19), st.floats(0.01, 10))
def test_worst_element_is_found_and_its_excess_is_the_ratio(values, place, step):
    expected = np.array(values, np.float64)
    got = expected.copy()
    place %= len(values)
    got[place] += step
    worst = compare(got, expected, 1e-3, 0.0)
    assert worst.index == (place,)
    assert worst.excess == pytest.approx(abs(got[place] - expected[place]) / 1e-3)


def test_large_int64_that_differ_by_one_are_told_apart():
    left, right = np.array([2**62 + 1]), np.array([2**62])
    assert compare(left, right, 0.0, 0.0).excess > 1


def test_empty_and_scalar_outputs_are_compared():
    assert compare(np.zeros((0, 3)), np.zeros((0, 3)), 0.0, 0.0).excess == 0.0
    assert compare(np.array(2.0), np.array(1.0), 0.5, 0.0).index == ()
    assert compare(np.array(2.0), np.array(1.0), 0.5, 0.0).excess == 2.0


def test_complex_outputs_are_compared_by_modulus():
    assert compare(np.array([1 + 1j]), np.array([1 - 1j]), 1.0, 0.0).excess == pytest.approx(2.0)


def outputs(values):
    return [[np.asarray(value)] for value in values]


def test_report_names_output_index_values_and_tolerance():
    expected = outputs([np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)])
    wrong = np.ones((2, 3), np.float32)
    wrong[1, 2] = 1.5

    def engine(values):
        return [wrong if values[0][0] else np.zeros((2, 3), np.float32)]

    samples = [{"x": np.array([0])}, {"x": np.array([1])}]
    parity = check_parity(engine, ["y"], ["x"], samples, expected, {"y": (0.01, 0.0)})
    assert not parity[0].passed
    assert (parity[0].index, parity[0].got, parity[0].expected) == ((1, 2), 1.5, 1.0)
    assert "y[1,2]" in explain(parity)
    assert "expected 1, got 1.5" in explain(parity)


@pytest.mark.parametrize("got", [np.zeros((2, 3), np.float64), np.zeros((3, 2), np.float32), np.zeros(6, np.float32)])
def test_another_dtype_or_shape_is_a_disagreement_whatever_the_tolerance(got):
    with pytest.raises(DisagreementError, match=r"output y on sample 0.*float32\[2,3\]"):
        check_parity(
            lambda _: [got], ["y"], ["x"], [{"x": np.zeros(1)}], outputs([np.zeros((2, 3), np.float32)]), {"y": (9, 9)}
        )


def test_tolerances_follow_the_magnitude_and_are_nothing_for_integers():
    expected = [
        [np.array([3.0, -8.0, np.inf], np.float32), np.array([5])],
        [np.array([1.0, 2.0, np.nan], np.float32), np.array([7])],
    ]
    tolerances = derive_tolerances(["y", "i"], expected, {"y": 1e-5, "i": 1e-5})
    assert tolerances == {"y": (pytest.approx(8e-5), 1e-5), "i": (0.0, 0.0)}


def test_near_ties_show_in_the_originals_own_variation_and_clear_cases_do_not():
    tie = {"x": np.array([1.0, 1.0 + 2**-23, 0.0], np.float32)}
    clear = {"x": np.array([1.0, 2.0, 0.0], np.float32)}

    def reference(sample):
        return [np.asarray(np.argmax(sample["x"]))]

    assert own_variation(reference, [tie] * 8, [reference(tie)] * 8, 0)[0] > 0
    assert own_variation(reference, [clear], [reference(clear)], 0) == [0.0]


def test_perturbed_moves_floats_by_one_unit_at_most_and_leaves_integers():
    sample = {"x": np.linspace(0.1, 100, 1000).astype(np.float32), "i": np.arange(5)}
    moved = perturbed(sample, np.random.default_rng(0))
    assert (moved["i"] == sample["i"]).all()
    assert (moved["x"] != sample["x"]).any()
    assert np.abs(moved["x"] / sample["x"] - 1).max() <= 2.0**-22


def test_a_model_that_draws_random_numbers_is_refused_and_a_steady_one_is_not():
    import torch

    check_repeatable(lambda s: [s["x"]], {"x": np.ones(3)}, ["y"])
    with pytest.raises(GateError, match=r"output y .*random"):
        check_repeatable(lambda s: [torch.rand(3).numpy()], {"x": np.ones(3)}, ["y"])


def depth_of(operator, size, out, inputs=("x",), **attributes):
    node = helper.make_node(operator, list(inputs), ["y"], **attributes)
    shapes = [[1, 3, *size], [1, 3, *out]]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip("xy", shapes, strict=True))
    graph = helper.make_graph([node], "g", [x], [y])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    return output_depths(model, {"y": "float32"})["y"].operations


def test_interpolating_at_rounded_places_counts_the_axis_and_exact_places_do_not():
    resized = {"operator": "Resize", "inputs": ("x", "", "", "s")}
    assert depth_of(**resized, size=(40, 8), out=(120, 24), mode="cubic") == 40**2
    assert depth_of(**resized, size=(40, 8), out=(80, 4), mode="linear") == 8  # powers of two: no rounding
    corners = "align_corners"
    assert (
        depth_of(**resized, size=(40, 8), out=(80, 16), mode="linear", coordinate_transformation_mode=corners) == 1600
    )
    assert depth_of(**resized, size=("h", 8), out=("k", 16), mode="linear") == 256**2
    assert depth_of(**resized, size=(40, 8), out=(120, 24)) == 1  # nearest
    assert depth_of("GridSample", size=(40, 8), out=(5, 5), inputs=("x", "g")) == 1600


@pytest.mark.parametrize(
    ("weight", "transposed", "length"), [((8, 300), 1, 300), ((300, 8), 1, 8), ((8, 300), 0, 8), ((300, 8), None, 300)]
)
def test_a_gemm_counts_the_axis_of_its_weight_that_is_summed_over(weight, transposed, length):
    attributes = {} if transposed is None else {"transB": transposed}
    rows, columns = weight if not transposed else weight[::-1]
    node = helper.make_node("Gemm", ["x", "w"], ["y"], **attributes)
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, s]) for n, s in zip("xy", (rows, columns), strict=True)
    )
    w = helper.make_tensor("w", TensorProto.FLOAT, weight, np.zeros(weight, np.float32).tobytes(), raw=True)
    graph = helper.make_graph([node], "g", [x], [y], [w])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    assert output_depths(model, {"y": "float32"})["y"].operations == length
