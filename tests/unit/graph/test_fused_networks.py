"""Torch modules through both exporters: what is fused in the end, and that the numbers are the module's."""

import functools
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graph_tools import run, to_bytes
from torch import nn
from torch_blocks import (
    BertLayer,
    ConvNextBlock,
    CrossAttention,
    EfficientNetBlock,
    Handwritten,
    LlamaBlock,
    PackedSelf,
    PaddingMask,
    SdpaSelf,
    SelfAttentionWithWeights,
    VitBlock,
    WrittenLayerNorm,
)

from edgebuild.export.rewrites.lowered import lower_program
from edgebuild.graph.framework import checked_passes
from edgebuild.graph.optimize import optimize
from edgebuild.targets.spec import FUSED_OPERATORS

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's exporters warn about themselves

TOKENS, IMAGE, MASK = (2, 7, 24), (2, 12, 9, 9), (2, 7)
ATTENTION = {"MultiHeadAttention": 1, "MatMul": 4, "Add": 4}
MASKED = {"MultiHeadAttention": 1, "MatMul": 4, "Softmax": 0, "Transpose": 0, "Reshape": 0, "IsNaN": 0}

CASES = {
    "scaled_dot_product_attention": (SdpaSelf, [TOKENS], ATTENTION),
    "with a scale": (lambda: SdpaSelf(scale=0.3), [TOKENS], ATTENTION),
    "causal": (lambda: SdpaSelf(causal=True), [TOKENS], MASKED),
    "padding as numbers": (lambda: PaddingMask(SdpaSelf()), [TOKENS, MASK], MASKED),
    "padding as booleans": (lambda: PaddingMask(SdpaSelf(), boolean=True), [TOKENS, MASK], MASKED),
    "handwritten": (Handwritten, [TOKENS], ATTENTION),
    "handwritten with padding": (lambda: PaddingMask(Handwritten()), [TOKENS, MASK], MASKED),
    "packed, unbound": (PackedSelf, [TOKENS], ATTENTION),
    "packed, indexed, handwritten": (lambda: PackedSelf(how="index", handwritten=True), [TOKENS], ATTENTION),
    "packed, in chunks": (lambda: PackedSelf(how="chunk"), [TOKENS], ATTENTION),
    "nn.MultiheadAttention, cross": (CrossAttention, [TOKENS, (2, 5, 24)], {"MultiHeadAttention": 1, "MatMul": 4, "Transpose": 0}),
    "nn.MultiheadAttention, with weights": (
        SelfAttentionWithWeights,
        [TOKENS],
        {"MultiHeadAttention": 1, "MatMul": 4, "Transpose": 0, "Reshape": 0},
    ),
    "nn.TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(24, 3, 48, activation="gelu", batch_first=True),
        [TOKENS],
        {"MultiHeadAttention": 1, "LayerNormalization": 2, "Gelu": 1, "MatMul": 6, "Transpose": 0, "Reshape": 0},
    ),
    "ViT block": (VitBlock, [TOKENS], {"MultiHeadAttention": 1, "LayerNormalization": 2, "Gelu": 1, "MatMul": 6, "Add": 8}),
    "BERT layer": (BertLayer, [TOKENS, MASK], {"MultiHeadAttention": 1, "LayerNormalization": 2, "Gelu": 1, "Softmax": 0, "Erf": 0}),
    "LLaMA block": (LlamaBlock, [TOKENS], {"MultiHeadAttention": 1, "SimplifiedLayerNormalization": 2, "Softmax": 0}),
    "LLaMA block, nn.RMSNorm": (
        lambda: LlamaBlock(native=True),
        [TOKENS],
        {"MultiHeadAttention": 1, "SimplifiedLayerNormalization": 2, "Softmax": 0},
    ),
    "ConvNeXt block": (ConvNextBlock, [IMAGE], {"LayerNormalization": 1, "Gelu": 1, "Conv": 1, "Erf": 0}),
    "EfficientNet block": (lambda: EfficientNetBlock(12), [IMAGE], {"Conv": 5, "BatchNormalization": 0}),
    "EfficientNet block, hard-swish": (
        lambda: EfficientNetBlock(12, activation=nn.Hardswish),
        [IMAGE],
        {"Conv": 5, "HardSwish": 3, "HardSigmoid": 0},
    ),
    "written layer norm": (WrittenLayerNorm, [TOKENS], {"LayerNormalization": 1, "Mul": 0}),
    "written layer norm, var()": (lambda: WrittenLayerNorm(how="var"), [TOKENS], {"LayerNormalization": 1, "Mul": 0}),
}  # fmt: skip
NOT_BY_TORCHSCRIPT = {  # what the exporter itself can't write, or not for every size
    "nn.MultiheadAttention, cross",
    "nn.MultiheadAttention, with weights",
    "nn.TransformerEncoderLayer",
    "LLaMA block, nn.RMSNorm",
}
FIXED = {"nn.MultiheadAttention, cross"}
"""torch.export finds the two sequences to be of one length."""


@functools.cache
def by_torch_export(name, dynamic):
    make, shapes, _ = CASES[name]
    module, inputs = made(make, shapes)
    dims = {0: torch.export.Dim("b", min=1, max=64), 1: torch.export.Dim("s", min=2, max=64)}
    axes = tuple({k: v for k, v in dims.items() if k == 0 or len(shape) != 4} for shape in shapes) if dynamic else None
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            program = lower_program(torch.export.export(module, inputs, dynamic_shapes=axes))
            exported = torch.onnx.export(program, (), dynamo=True, opset_version=20, verbose=False, optimize=True).model
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    for value in exported.graph.inputs:  # as export/finish.py: the signature's own names
        if dynamic:
            dims = [d if isinstance(d, int) else ("batch", "length")[axis] for axis, d in enumerate(value.shape)]
            value.shape = ir.Shape(dims)
    return module, exported


def by_torchscript(name, dynamic, folder):
    make, shapes, _ = CASES[name]
    module, inputs = made(make, shapes)
    names = [f"input_{index}" for index in range(len(shapes))]
    axes = {
        n: {0: "batch"} if len(shape) == 4 else {0: "batch", 1: "length"}
        for n, shape in zip(names, shapes, strict=True)
    }
    with torch.no_grad():
        traced = torch.jit.trace(module, inputs, check_trace=False)
        path = folder / "m.onnx"
        torch.onnx.export(
            traced,
            inputs,
            path,
            dynamo=False,
            opset_version=18,
            input_names=names,
            dynamic_axes=axes if dynamic else None,
        )
    return module, ir.from_proto(ir.to_proto(ir.load(path)))


def made(make, shapes):
    torch.manual_seed(0)
    module = make().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.running_mean)
        if isinstance(part, nn.MultiheadAttention):  # torch starts these at zero
            nn.init.normal_(part.in_proj_bias)
            nn.init.normal_(part.out_proj.bias)
    return module, tuple(torch.from_numpy(array) for array in arrays(shapes, 0))


def arrays(shapes, seed):
    rng = np.random.default_rng(seed)
    made = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    for index, shape in enumerate(shapes):
        if len(shape) == 2:  # a padding mask
            made[index] = np.ones(shape, np.float32)
            made[index][-1, shape[1] // 2 + 1 :] = 0
    return made


def check(name, module, exported, dynamic, **others):
    _, shapes, expected = CASES[name]
    expected = expected | others
    sizes = [(2, 7), (1, 3), (5, 12)] if dynamic else [(2, 7)]
    with checked_passes():
        report = optimize(exported, target_opset_max=26, fused_operators=FUSED_OPERATORS).report
    assert not report.notes
    counts = Counter(node.op_type for node in exported.graph.all_nodes())
    assert {op: counts[op] for op in expected} == expected, dict(counts)
    for batch, length in sizes:
        moved = [(batch, length if dynamic and len(shape) != 4 else shape[1], *shape[2:]) for shape in shapes]
        feeds = arrays(moved, batch)
        with torch.no_grad():
            wanted = module(*map(torch.from_numpy, feeds)).numpy()
        got = run(exported, {value.name: array for value, array in zip(exported.graph.inputs, feeds, strict=True)})[0]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    once = to_bytes(exported)
    with checked_passes():
        optimize(exported, target_opset_max=26, fused_operators=FUSED_OPERATORS)
    assert to_bytes(exported) == once, "a second run changes it"


QUICK = (
    "ViT block",
    "BERT layer",
    "nn.TransformerEncoderLayer",
    "causal",
    "EfficientNet block, hard-swish",
    "padding as booleans",
)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_torch_export(name):
    dynamic = name not in FIXED
    module, exported = by_torch_export(name, dynamic)
    check(name, module, exported.clone(), dynamic)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CASES) - FIXED))
def test_torch_export_with_fixed_sizes(name):
    module, exported = by_torch_export(name, False)
    check(name, module, exported.clone(), False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dynamic"),
    [
        (name, dynamic)
        for name in sorted(set(CASES) - NOT_BY_TORCHSCRIPT)
        for dynamic in (False, True)
        if not (name == "LLaMA block" and dynamic)  # its rotary positions have a length that only the run tells
    ],
)
def test_torchscript_exporter(name, dynamic, tmp_path):
    module, exported = by_torchscript(name, dynamic, tmp_path)
    # This exporter writes -infinity where the mask is false, so that the guard may matter: it goes behind the attention.
    check(name, module, exported, dynamic, **({"IsNaN": 1} if name == "padding as booleans" else {}))


@pytest.mark.parametrize("name", ["ViT block", "BERT layer"])
def test_without_fused_operators_the_graph_is_plain_onnx(name):
    module, exported = by_torch_export(name, True)
    plain = exported.clone()
    with checked_passes():
        optimize(plain, target_opset_max=20)
    assert set(plain.graph.opset_imports) == {""}
    assert "Softmax" in {node.op_type for node in plain.graph}
    feeds = arrays(CASES[name][1], 3)
    with torch.no_grad():
        wanted = module(*map(torch.from_numpy, feeds)).numpy()
    got = run(plain, {value.name: array for value, array in zip(plain.graph.inputs, feeds, strict=True)})[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
