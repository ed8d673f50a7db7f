"""torch.export, then ONNX from the exported program."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from edgebuild.export.arrays import to_torch
from edgebuild.export.finish import INPUT_PREFIX
from edgebuild.export.rewrites.lowered import lower_program
from edgebuild.export.rewrites.nested import written_out
from edgebuild.model.signature import SymbolRange, TensorType
from edgebuild.model.source import Inputs, ModelSource

DYNAMO_OPSETS = range(18, 24)
"""Opsets that torch.onnx writes by way of torch.export: it implements 18 and raises from there."""


def choose_sample(source: ModelSource) -> Inputs:
    """The sample that tells dynamic axes best apart: sizes above 1 (0 and 1 are special to torch.export), and distinct."""

    def score(sample: Inputs) -> tuple[int, int]:
        sizes: dict[str, int] = {}
        for spec in source.inputs:
            if isinstance(spec.type, TensorType) and spec.type.shape is not None:
                for dim, size in zip(spec.type.shape, sample[spec.name].shape, strict=False):
                    if isinstance(dim, str):
                        sizes[dim] = size
        return sum(size > 1 for size in sizes.values()), len(set(sizes.values()))

    return max(source.samples, key=score)


def dynamic_shapes(source: ModelSource) -> tuple[Any, ...]:
    """For each input, {axis: Dim} of its dynamic axes."""
    dims = {name: _dim(name, limits) for name, limits in source.symbols.items()}
    shapes: list[Any] = []
    for spec in source.inputs:
        shape = spec.type.shape if isinstance(spec.type, TensorType) else None
        axes = {axis: dims[dim] for axis, dim in enumerate(shape or ()) if isinstance(dim, str) and dim in dims}
        shapes.append(axes or None)
    return tuple(shapes)


def _dim(name: str, limits: SymbolRange) -> Any:
    """The axis as torch.export wants it: of multiples, the factor is the free number."""
    step = limits.step
    maximum = None if limits.maximum is None else limits.maximum // step
    dim = torch.export.Dim(f"d_{name}", min=max(-(-limits.minimum // step), 0), max=maximum)
    return dim if step == 1 else step * dim


def export_program(module: torch.nn.Module, source: ModelSource, *, strict: bool) -> torch.export.ExportedProgram:
    """``module`` (tensors in, a flat tuple out) as an ExportedProgram with the signature's dynamic axes."""
    sample = choose_sample(source)
    args = tuple(to_torch(sample[spec.name]) for spec in source.inputs)
    shapes = {"tensors": dynamic_shapes(source)} if any(dynamic_shapes(source)) else None
    with torch.no_grad(), written_out():
        return torch.export.export(module, args, dynamic_shapes=shapes, strict=strict)


def program_to_onnx(program: torch.export.ExportedProgram, opset: int) -> ir.Model:
    """ONNX of a program; raises the exporter's own errors."""
    program = lower_program(program)
    with torch.no_grad():
        produced = torch.onnx.export(program, (), dynamo=True, opset_version=opset, verbose=False, optimize=True)
    assert produced is not None
    model: ir.Model = produced.model
    name_inputs(model.graph.inputs)
    return model


def name_inputs(values: Sequence[ir.Value]) -> None:
    """Names graph inputs, all there and in signature order, as ``finish`` wants them."""
    for index, value in enumerate(values):
        value.name = f"{INPUT_PREFIX}{index}"
