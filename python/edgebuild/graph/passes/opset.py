"""Brings a model to an opset that its backend has.

Takes: models below ``minimum`` (7 and up): raised by ONNX's version converter, weights left out of its message.

Refuses: models and single operators above ``maximum`` and models below 7, with a ``ModelError``; what the converter
can't do (operators in bodies, other domains, some operators: Upsample with dynamic scales, BatchNormalization that trains, …) stays at
its opset, and a note in the report says so.

Numbers: none change, except where ONNX redefined an operator; Softmax and its kin are rewritten to their old meaning.
"""

import contextlib
import logging
from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnxscript.version_converter import ConvertVersionPass

from edgebuild.errors import ModelError
from edgebuild.graph.framework import GraphPass
from edgebuild.graph.invariants import GraphInterface, check_graph, subgraphs
from edgebuild.graph.values import DEFAULT_DOMAINS, opset_of

OLDEST_OPSET = 7


class OpsetAdjustment(GraphPass):
    """Raises old models to ``minimum`` and refuses those above ``maximum``.

    Args:
        minimum: Lowest opset after this pass, where the converter can reach it.
        maximum: Highest opset that the backend has.
        maximum_name: Whose limit ``maximum`` is, for the error.
    """

    def __init__(self, *, minimum: int, maximum: int, maximum_name: str = "the target's backend") -> None:
        super().__init__()
        self._minimum = min(minimum, maximum)
        self._maximum = maximum
        self._maximum_name = maximum_name

    @property
    def name(self) -> str:
        return "opset"

    def requires(self, model: ir.Model) -> None:
        opset = opset_of(model)
        if opset and opset < OLDEST_OPSET:
            msg = f"the model uses ONNX opset {opset}, the oldest that works is {OLDEST_OPSET}"
            raise ModelError(msg, hint="export the model again with a newer opset")

    def rewrite(self, model: ir.Model) -> int:
        opset = opset_of(model)
        changed = self._lower_import(model, opset)
        if opset and opset < self._minimum:
            changed += self._raise(model, opset)
        if changed and model.ir_version < 8:
            model.ir_version = 8
        return changed

    def _lower_import(self, model: ir.Model, opset: int) -> int:
        """An import above the maximum is harmless where no operator changed after the maximum: lower the import."""
        if opset <= self._maximum:
            return 0
        newer: dict[str, int] = {}
        for node in model.graph.all_nodes():
            if node.domain not in DEFAULT_DOMAINS:
                continue
            try:
                since = onnx.defs.get_schema(node.op_type, opset, "").since_version
            except onnx.defs.SchemaError:
                since = opset
            if since > self._maximum:
                newer[node.op_type] = since
        if newer:
            named = ", ".join(f"{name} (opset {since})" for name, since in sorted(newer.items())[:5])
            msg = f"the model uses ONNX opset {opset}, {self._maximum_name} has {self._maximum}: {named}"
            raise ModelError(msg, hint=f"export the model with opset {self._maximum} or lower")
        for domain in DEFAULT_DOMAINS:
            if domain in model.graph.opset_imports:
                model.graph.opset_imports[domain] = self._maximum
        return 1

    def _raise(self, model: ir.Model, opset: int) -> int:
        reason = _why_not(model)
        if reason is None:
            reason = self._convert(model)
        if reason is not None:
            self.note(f"opset {opset} kept, not raised to {self._minimum}: {reason}")
            return 0
        return 1

    def _convert(self, model: ir.Model) -> str | None:
        interface, names = GraphInterface.of(model), list(model.graph.initializers)
        trial = model.clone()
        try:
            with _quiet("onnxscript"):
                result = ConvertVersionPass(target_version=self._minimum, fallback=True)(trial)
            check_graph(trial)
        except Exception as error:  # whatever the converter stumbles over, the model itself is still as it was
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        if not result.modified or opset_of(trial) != self._minimum:
            return "ONNX's version converter can't convert it"
        converted = result.model.graph
        for before, after in (
            *zip(model.graph.inputs, converted.inputs, strict=False),
            *zip(model.graph.outputs, converted.outputs, strict=False),
        ):
            if before.name == after.name:
                after.type, after.shape = before.type, before.shape
        if interface.difference(GraphInterface.of(trial)):
            return "ONNX's version converter changes its inputs or outputs"
        for name in names:
            value = converted.initializers.get(name)
            if value is not None and value.const_value is None:
                return f"ONNX's version converter lost the initialiser '{name}'"
        model.graph = converted
        return None


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Hold back a library's warnings: what matters of them goes into the report."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _why_not(model: ir.Model) -> str | None:
    """What is known to go wrong in the converter without an error."""
    for node in model.graph.all_nodes():
        if next(subgraphs(node), None) is not None:
            return f"'{node.name}' ({node.op_type}) has a body, which ONNX's version converter does not convert"
        if node.domain not in DEFAULT_DOMAINS:
            return f"'{node.name}' is of domain '{node.domain}', which ONNX's version converter does not know"
    return None
