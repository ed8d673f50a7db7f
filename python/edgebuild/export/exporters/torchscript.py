"""torch.onnx's TorchScript exporter: keeps loops and branches that torch.export refuses."""

from pathlib import Path

import onnx_ir as ir
import torch

from edgebuild.export.arrays import to_torch
from edgebuild.export.exporters.dynamo import choose_sample
from edgebuild.export.finish import INPUT_PREFIX
from edgebuild.export.rewrites.for_onnx import fit_for_onnx
from edgebuild.export.rewrites.nested import written_out
from edgebuild.model.probe import State
from edgebuild.model.signature import TensorType
from edgebuild.model.source import ModelSource

TORCHSCRIPT_OPSETS = range(9, 21)
"""Opsets that this exporter writes."""


def export_torchscript(module: torch.nn.Module, source: ModelSource, opset: int, scratch: Path) -> ir.Model:
    """ONNX of ``module`` (tensors in, a flat tuple out), traced; scripted parts inside keep their control flow."""
    sample = choose_sample(source)
    args = tuple(to_torch(sample[spec.name]) for spec in source.inputs)
    axes: dict[str, dict[int, str]] = {}
    for index, spec in enumerate(source.inputs):
        shape = spec.type.shape if isinstance(spec.type, TensorType) else None
        dynamic = {axis: dim for axis, dim in enumerate(shape or ()) if isinstance(dim, str)}
        if dynamic:
            axes[f"{INPUT_PREFIX}{index}"] = dynamic
    path = scratch / "torchscript.onnx"
    with torch.no_grad(), written_out():
        # Tracing first makes a ScriptModule inside part of the trace; without it the exporter does not know that one.
        state = State(module)
        traced = torch.jit.trace(module, args, check_trace=False)
        state.restore()  # tracing runs the model
        fit_for_onnx(traced.graph)
        torch.onnx.export(
            traced,
            args,
            path,
            dynamo=False,
            opset_version=opset,
            input_names=[f"{INPUT_PREFIX}{index}" for index in range(len(args))],
            dynamic_axes=axes or None,
            do_constant_folding=True,
        )
    return ir.load(path)
