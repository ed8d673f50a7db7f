"""An ONNX file that comes in: nothing to export; names and order stay, and what points to the file's folder is taken in."""

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir

from edgebuild.errors import EdgebuildError, GateError, IncompatibleError, ModelError
from edgebuild.export.chain import Judged
from edgebuild.export.failure import summary
from edgebuild.export.finish import strip_traces
from edgebuild.export.parity import DisagreementError
from edgebuild.export.write import INLINE_BELOW

OPSET_MIN = 7
"""Oldest opset that is taken; the graph stage raises it."""


def read_onnx(path: Path) -> ir.Model:
    """The checked model; external data must lie in the file's own folder.

    Raises:
        ModelError: Not valid ONNX, or its external data is outside the folder or missing.
        IncompatibleError: Its opset is older than 7.
    """
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        # An output may leave its shape open, whatever the checker says: engines infer it.
        if "Field 'shape' of 'type' is required" not in text:
            message = f"{path.name} is not valid ONNX: {text}"
            raise ModelError(message, hint="export it again, or run onnx.checker on it for the details") from None
    model = ir.load(path)
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                _check_location(path, str(tensor.location))
                if graph is not model.graph or tensor.nbytes < INLINE_BELOW:
                    value.const_value = _in_memory(tensor)
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type is ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                _check_location(path, str(attribute.value.location))
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, _in_memory(attribute.value))
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if opset < OPSET_MIN:
        message = f"{path.name} has opset {opset}, the oldest that is taken is {OPSET_MIN}"
        raise IncompatibleError(message, hint="raise it with onnx.version_converter, or export the model again")
    return model


def _in_memory(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    """A copy of what is written inside the graph's own message."""
    return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)


def _check_location(path: Path, location: str) -> None:
    folder = path.parent.resolve()
    target = (folder / location).resolve()
    if folder not in target.parents:
        message = f"{path.name} refers to external data outside its folder: {location}"
        raise ModelError(message, hint="put the data file beside the model and refer to it by its name")
    if not target.is_file():
        message = f"external data of {path.name} is missing: {location}"
        raise ModelError(message, hint="copy the data file beside the model")


def take_over(model: ir.Model, judge: Callable[..., Judged]) -> Judged:
    """The file's graph, written into the result's folder and compared with the file's own results in ONNX Runtime.

    Raises:
        GateError: It computes something else than the file does.
        ModelError: ONNX Runtime can't run it.
    """
    strip_traces(model)
    try:
        return judge(model, rename=False)
    except DisagreementError as error:
        message = f"the ONNX model does not give the same result twice: {error}"
        raise GateError(message, hint="a random operator, or uninitialised memory; take it out of the model") from None
    except (EdgebuildError, MemoryError, OSError):
        raise
    except Exception as error:  # ONNX Runtime raises its own kinds
        message = f"ONNX Runtime can't run the model: {summary(error)}"
        raise ModelError(message, hint="check it with onnx.checker") from error
