import numpy as np
import onnx_ir as ir
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, to_bytes

from edgebuild.graph.passes.conv_batch_norm import ConvBatchNormFolding


def norm_weights(channels, rng, dtype=np.float32):
    return {
        "gamma": rng.normal(size=channels).astype(dtype),
        "beta": rng.normal(size=channels).astype(dtype),
        "mean": rng.normal(size=channels).astype(dtype),
        "var": rng.uniform(0.01, 3, size=channels).astype(dtype),
    }


NORM = "y = BatchNormalization(c, gamma, beta, mean, var)"


def conv_model(
    rng, *, op="Conv", group=1, bias=True, spatial=(7, 5), channels=(6, 4), norm=NORM, extra="", dtype="float"
):
    inputs, outputs = channels
    kernel = (3,) * len(spatial)
    shape = (outputs, inputs // group, *kernel) if op == "Conv" else (inputs, outputs // group, *kernel)
    numpy_type = {"float": np.float32, "float16": np.float16, "double": np.float64}[dtype]
    weights = {"w": rng.normal(size=shape).astype(numpy_type), **norm_weights(outputs, rng, numpy_type)}
    if bias:
        weights["b"] = rng.normal(size=outputs).astype(numpy_type)
    sizes = ",".join(map(str, (2, inputs, *spatial)))
    call = f"c = {op} <group = {group}> (x, w{', b' if bias else ''})"
    text = f"g ({dtype}[{sizes}] x) => ({dtype}[?,?{',?' * len(spatial)}] y{extra}) {{ {call} {norm} }}"
    return model(text, weights), {"x": rng.normal(size=(2, inputs, *spatial)).astype(numpy_type)}


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize(("group", "channels"), [(1, (6, 4)), (2, (6, 4)), (3, (3, 9)), (5, (5, 5)), (1, (1, 1))])
@pytest.mark.parametrize("bias", [True, False])
def test_folds_and_keeps_the_numbers(op, group, channels, bias):
    built, feeds = conv_model(np.random.default_rng(group), op=op, group=group, channels=channels, bias=bias)
    before = to_bytes(built)
    result = apply(ConvBatchNormFolding(), built)
    assert ops(built) == [op]
    assert result.records[0].rewrites == 1
    assert_same_results(before, built, feeds, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spatial", [(9,), (4, 5, 6)])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_folds_along_one_and_three_axes(op, spatial):
    built, feeds = conv_model(np.random.default_rng(1), op=op, spatial=spatial, group=2)
    before = to_bytes(built)
    apply(ConvBatchNormFolding(), built)
    assert ops(built) == [op]
    assert_same_results(before, built, feeds, rtol=1e-4, atol=1e-5)


def test_folded_weights_are_the_formula_in_float64():
    built, _ = conv_model(np.random.default_rng(2))
    arrays = {name: value.const_value.numpy().astype(np.float64) for name, value in built.graph.initializers.items()}
    apply(ConvBatchNormFolding(), built)
    scale = arrays["gamma"] / np.sqrt(arrays["var"] + 1e-5)
    weight, bias = (value.const_value.numpy() for value in built.graph[0].inputs[1:])
    np.testing.assert_array_max_ulp(weight, (arrays["w"] * scale[:, None, None, None]).astype(np.float32))
    np.testing.assert_allclose(bias, (arrays["b"] - arrays["mean"]) * scale + arrays["beta"], rtol=1e-6)


def test_double_stays_double():
    built, _ = conv_model(np.random.default_rng(3), dtype="double")  # ONNX Runtime has no double convolution to run
    arrays = {name: value.const_value.numpy() for name, value in built.graph.initializers.items()}
    apply(ConvBatchNormFolding(), built)
    weight = built.graph[0].inputs[1]
    assert weight.dtype == ir.DataType.DOUBLE
    scale = arrays["gamma"] / np.sqrt(arrays["var"] + np.float32(1e-5))
    np.testing.assert_allclose(weight.const_value.numpy(), arrays["w"] * scale[:, None, None, None], rtol=1e-12)


def test_epsilon_is_used():
    built, feeds = conv_model(np.random.default_rng(4), norm=NORM.replace("(c", " <epsilon = 0.5> (c"))
    before = to_bytes(built)
    apply(ConvBatchNormFolding(), built)
    assert ops(built) == ["Conv"]
    assert_same_results(before, built, feeds, rtol=1e-4, atol=1e-5)


def test_a_shared_weight_keeps_its_value_for_the_other_convolution():
    rng = np.random.default_rng(5)
    weights = {"w": rng.normal(size=(4, 4, 1, 1)).astype(np.float32), **norm_weights(4, rng)}
    built = model("g (float[1,4,3,3] x) => (float[1,4,3,3] y) { a = Conv(x, w) c = Conv(a, w) " + NORM + " }", weights)
    before = to_bytes(built)
    apply(ConvBatchNormFolding(), built)
    assert ops(built) == ["Conv", "Conv"]
    assert_same_results(before, built, {"x": rng.normal(size=(1, 4, 3, 3)).astype(np.float32)}, rtol=1e-4, atol=1e-5)


def test_folds_inside_a_body():
    rng = np.random.default_rng(6)
    weights = {"w": rng.normal(size=(4, 4, 1, 1)).astype(np.float32), **norm_weights(4, rng)}
    built = model(
        """g (bool k, float[1,4,3,3] x) => (float[1,4,3,3] y) { y = If (k) <
        then_branch = t () => (float[1,4,3,3] p) { c = Conv(x, w) p = BatchNormalization(c, gamma, beta, mean, var) },
        else_branch = e () => (float[1,4,3,3] q) { q = Identity(x) }> }""",
        weights,
    )
    before = to_bytes(built)
    apply(ConvBatchNormFolding(), built)
    assert ops(built) == ["If", "Conv", "Identity"]
    x = rng.normal(size=(1, 4, 3, 3)).astype(np.float32)
    for flag in (True, False):
        assert_same_results(before, built, {"k": np.array(flag), "x": x}, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "extra"),
    [
        (NORM + " z = Relu(c)", ", float[?,?,?,?] z"),
        (NORM, ", float[?,?,?,?] c"),
        (NORM.replace("(c", " <training_mode = 1> (c").replace("y =", "y, m, v ="), ""),
        (NORM.replace("y =", "y, m, v =").replace("(c", " <training_mode = 1> (c"), ", float[?] m"),
        (NORM.replace("gamma", "g2").replace("y =", "g2 = Abs(gamma) y ="), ""),
    ],
    ids=["second reader", "graph output", "training", "statistics read", "parameter computed"],
)
def test_near_misses_are_refused(norm, extra):
    built, _ = conv_model(np.random.default_rng(7), norm=norm, extra=extra)
    assert_refused(ConvBatchNormFolding(), built)


@pytest.mark.parametrize("name", ["w", "b", "gamma", "var"])
def test_parameters_that_a_caller_may_override_are_refused(name):
    built, _ = conv_model(np.random.default_rng(8))
    built.graph.inputs.append(built.graph.initializers[name])
    assert_refused(ConvBatchNormFolding(), built)


def test_negative_variance_is_refused():
    built, _ = conv_model(np.random.default_rng(9))
    built.graph.initializers["var"].const_value = ir.Tensor(np.array([1, 1, -1, 1], np.float32), name="var")
    assert_refused(ConvBatchNormFolding(), built)


def test_weights_that_would_overflow_half_precision_are_refused():
    built, _ = conv_model(np.random.default_rng(10), dtype="float16")
    built.graph.initializers["gamma"].const_value = ir.Tensor(np.full(4, 6e4, np.float16), name="gamma")
    assert_refused(ConvBatchNormFolding(), built)
