"""Transposed convolutions whose kernel is their stride as 1x1 convolutions and DepthToSpace, for quantisers."""

import re

import numpy as np
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, run, to_bytes

from edgebuild.graph.passes.shape_inference import ShapeInference
from edgebuild.graph.passes.sub_pixel import SubPixelConvolutions

PLAIN = "y = ConvTranspose <strides = [2, 2]> (x, w, b)"


def upsampling(
    text=PLAIN, *, channels=6, outputs=4, group=1, kernel=(2, 2), sizes="N,6,H,W", extra="", dtype="float", weights=None
):
    rng = np.random.default_rng(channels * outputs + kernel[0])
    numpy_type = {"float": np.float32, "double": np.float64}[dtype]
    arrays = {
        "w": rng.standard_normal((channels, outputs // group, *kernel)).astype(numpy_type),
        "b": rng.standard_normal(outputs).astype(numpy_type),
        **(weights or {}),
    }
    used = {name: array for name, array in arrays.items() if re.search(rf"\b{name}[,)]", text)}
    unknown = ",".join("?" * len(sizes.split(",")))
    built = model(f"g ({dtype}[{sizes}] x) => ({dtype}[{unknown}] y{extra}) {{ {text} }}", used)
    ShapeInference()(built)
    return built


def image(*shape, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize(("channels", "outputs", "group"), [(6, 4, 1), (1, 1, 1), (6, 4, 2), (5, 5, 5), (3, 9, 3)])
def test_gives_what_the_transposed_convolution_gives(channels, outputs, group, side, bias):
    text = f"y = ConvTranspose <strides = [{side}, {side}], group = {group}> (x, w{', b' if bias else ''})"
    built = upsampling(
        text, channels=channels, outputs=outputs, group=group, kernel=(side, side), sizes=f"N,{channels},H,W"
    )
    before = to_bytes(built)
    assert apply(SubPixelConvolutions(), built).records[0].rewrites == 1
    assert ops(built) == ["Conv", "DepthToSpace"]
    for shape in ((2, channels, 5, 7), (1, channels, 1, 1)):
        assert_same_results(before, built, image(*shape), rtol=1e-5, atol=1e-5)


def test_the_numbers_are_those_of_the_definition():
    built = upsampling(channels=3, outputs=2, sizes="1,3,3,5")
    weight, bias = (built.graph.initializers[name].const_value.numpy() for name in ("w", "b"))
    x = image(1, 3, 3, 5)["x"]
    expected = np.zeros((1, 2, 6, 10))
    for row in range(3):
        for column in range(5):
            square = np.einsum("c,cmij->mij", x[0, :, row, column].astype(np.float64), weight.astype(np.float64))
            expected[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = square + bias[:, None, None]
    apply(SubPixelConvolutions(), built)
    np.testing.assert_allclose(run(built, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        "Relu(t)",
        "LeakyRelu <alpha = 0.3> (t)",
        "Clip(t, low, high)",
        "Clip(t, , high)",
        "Sigmoid(t)",
    ],
)
def test_an_activation_stays_next_to_its_convolution(call):
    bounds = {"low": np.float32(-0.5), "high": np.float32(0.75)}
    built = upsampling(f"t = ConvTranspose <strides = [2, 2]> (x, w, b) y = {call}", weights=bounds)
    before = to_bytes(built)
    apply(SubPixelConvolutions(), built)
    assert ops(built) == ["Conv", call.split("(")[0].split(" ")[0], "DepthToSpace"]
    assert_same_results(before, built, image(2, 6, 3, 4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rest", "extra"),
    [
        ("y = Relu(t) z = Neg(t)", ", float[?,?,?,?] z"),
        ("y = Relu(t)", ", float[?,?,?,?] t"),
        ("s = Shape(t) y = Reshape(t, s)", ""),
        ("y = Clip(t, low)", ", float low"),
    ],
)
def test_what_else_reads_the_result_reads_it_behind_the_depth_to_space(rest, extra):
    text = f"t = ConvTranspose <strides = [2, 2]> (x, w, b) {rest}"
    if extra.endswith(" low"):
        text, extra = "low = ReduceMin <keepdims = 0> (x) " + text, ""
    built = upsampling(text, extra=extra)
    before = to_bytes(built)
    apply(SubPixelConvolutions(), built)
    kinds = ops(built)
    assert kinds.index("DepthToSpace") == kinds.index("Conv") + 1
    assert_same_results(before, built, image(1, 6, 3, 5), rtol=1e-5, atol=1e-5)


def test_layer_and_result_keep_their_names_and_the_bounds_are_told():
    built = upsampling("t = ConvTranspose <strides = [2, 2]> (x, w, b) y = Neg(t)", sizes="1,6,3,5")
    built.graph[0].name = "up"
    apply(SubPixelConvolutions(), built)
    convolution, shuffle, reader = built.graph
    assert convolution.name == "up"
    assert shuffle.outputs[0].name == "t"
    assert reader.inputs[0] is shuffle.outputs[0]
    assert list(convolution.outputs[0].shape) == [1, 16, 3, 5]
    assert list(shuffle.outputs[0].shape) == [1, 4, 6, 10]


def test_only_named_nodes_are_rewritten():
    text = "t = ConvTranspose <strides = [2, 2]> (x, w, b) y = ConvTranspose <strides = [2, 2]> (t, v)"
    more = {"v": np.random.default_rng(5).standard_normal((4, 3, 2, 2)).astype(np.float32)}
    built = upsampling(text, weights=more)
    before = to_bytes(built)
    built.graph[0].name, built.graph[1].name = "first", "second"
    apply(SubPixelConvolutions({"second", "third"}), built)
    assert ops(built) == ["ConvTranspose", "Conv", "DepthToSpace"]
    assert_same_results(before, built, image(2, 6, 3, 4), rtol=1e-5, atol=1e-5)
    assert_refused(SubPixelConvolutions(set()), upsampling())


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("y = ConvTranspose <strides = [2, 2]> (x, w, b)", {"kernel": (3, 3)}),
        ("y = ConvTranspose <strides = [2, 2]> (x, w, b)", {"kernel": (1, 1)}),
        ("y = ConvTranspose <strides = [2, 3]> (x, w, b)", {"kernel": (2, 3)}),
        ("y = ConvTranspose (x, w, b)", {"kernel": (1, 1)}),
        ("y = ConvTranspose (x, w, b)", {"kernel": (2, 2)}),
        ("y = ConvTranspose <strides = [2, 2], pads = [0, 1, 0, 0]> (x, w, b)", {}),
        ("y = ConvTranspose <strides = [2, 2], output_padding = [1, 0]> (x, w, b)", {}),
        ("y = ConvTranspose <strides = [2, 2], dilations = [1, 2]> (x, w, b)", {}),
        ("y = ConvTranspose <strides = [2, 2], output_shape = [6, 10]> (x, w, b)", {"sizes": "1,6,3,5"}),
        ('y = ConvTranspose <strides = [2, 2], auto_pad = "SAME_UPPER"> (x, w, b)', {}),
        ("y = ConvTranspose <strides = [2]> (x, w, b)", {"kernel": (2,), "sizes": "N,6,L"}),
        ("v = Neg(w) y = ConvTranspose <strides = [2, 2]> (x, v, b)", {}),
        ("c = Neg(b) y = ConvTranspose <strides = [2, 2]> (x, w, c)", {}),
        (PLAIN, {"dtype": "double"}),
        ("y = Conv <strides = [2, 2]> (x, w, b)", {"weights": {"w": np.ones((4, 6, 2, 2), np.float32)}}),
    ],
)
def test_near_misses_stay(text, options):
    assert_refused(SubPixelConvolutions(), upsampling(text, **options))


def test_explicit_defaults_are_no_obstacle():
    text = (
        "y = ConvTranspose <strides = [2, 2], pads = [0, 0, 0, 0], output_padding = [0, 0], dilations = [1, 1],"
        ' auto_pad = "NOTSET", kernel_shape = [2, 2]> (x, w, b)'
    )
    built = upsampling(text)
    assert apply(SubPixelConvolutions(), built).modified
