"""The graph stage: from the exported model to the one that backends and quantisation start from.

Order, and why:

1. Nodes are sorted and names made unique; what is still invalid then is refused. Initialisers that are inputs only
   because IR version 3 wanted it are taken out of the inputs.
2. Functions are inlined and metadata is stripped: everything after sees plain graphs.
3. The opset is adjusted before anything is fused: converters know plain operators only.
4. To a fixed point: shapes, constants, no-ops, batch norm, equal subexpressions and weights, dead code. Each feeds the
   next: shapes make constants, constants make no-ops, no-ops bring convolution and batch norm together.
5. Again to a fixed point, with the fusions: they see a graph without detours, and what they leave is cleaned up with the same
   passes. Operators outside the standard are written only where the backend has them.
6. Outputs that the rewrites left without a node of their own get an Identity; unused imports go.

The model's inputs and outputs (names, order, dtypes, axes) are the same before and after; the graph's rules and this
are checked at both borders in every build, after every pass under ``checked_passes()``.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import _basic_rules, _fuse_pad_into_conv, _materialize_reshape_shape, _no_op

from edgebuild.errors import InternalError, ModelError
from edgebuild.graph.framework import Adapted, FixedPoint, GraphPass, PassReport, PassSequence
from edgebuild.graph.invariants import GraphInterface, GraphInvariantError, check_graph
from edgebuild.graph.passes.attention import OPERATOR as MULTI_HEAD_ATTENTION
from edgebuild.graph.passes.attention import AttentionFusion
from edgebuild.graph.passes.axis_names import AxisNames
from edgebuild.graph.passes.bias_folding import BiasFolding
from edgebuild.graph.passes.constant_folding import ConstantFolding
from edgebuild.graph.passes.conv_batch_norm import ConvBatchNormFolding
from edgebuild.graph.passes.dead_code import DeadCodeElimination
from edgebuild.graph.passes.duplicate_initializers import DuplicateInitializers
from edgebuild.graph.passes.gelu import GeluFusion
from edgebuild.graph.passes.hard_swish import HardSwishFusion
from edgebuild.graph.passes.identity_elimination import IdentityElimination
from edgebuild.graph.passes.layer_norm import SIMPLIFIED, LayerNormFusion, RmsNormFusion
from edgebuild.graph.passes.opset import OpsetAdjustment
from edgebuild.graph.passes.reshape_targets import ReshapeTargets
from edgebuild.graph.passes.row_projections import RowProjections
from edgebuild.graph.passes.shape_folding import ShapeFolding
from edgebuild.graph.passes.shape_inference import ShapeInference
from edgebuild.graph.passes.shape_sources import ShapeSources
from edgebuild.graph.passes.slice_concat import SliceConcatCleanup
from edgebuild.graph.passes.softmax_guard import SoftmaxGuardRemoval
from edgebuild.graph.passes.strip_metadata import StripMetadata
from edgebuild.graph.passes.transpose_sinking import TransposeSinking

MINIMUM_OPSET = 18
"""Old models are raised to this: per-channel Q/DQ needs 13, torch's own exporter starts at 18."""

_ROUNDS = 12


@dataclass(frozen=True, kw_only=True)
class OptimizeResult:
    """The optimised model (the object that was given) and what every pass did."""

    model: ir.Model
    report: PassReport


def optimize(
    model: ir.Model,
    *,
    target_opset_max: int,
    target_opset_min: int = MINIMUM_OPSET,
    fused_operators: Collection[str] = (),
    max_folded_bytes: int = 1 << 20,
    backend_name: str = "the target's backend",
    skip: Collection[str] = (),
) -> OptimizeResult:
    """Optimise a float model in place for a backend; without ``fused_operators`` the result is plain ONNX.

    The same model gives the same result, byte for byte once saved, and a second run changes nothing.

    Args:
        model: Any ONNX model from opset 7; tensors in external files stay there unless a rewrite needs their values.
        target_opset_max: Highest opset that the backend has.
        target_opset_min: Models below are raised to it where ONNX's converter can.
        fused_operators: Operators outside the ONNX standard that the backend has, e.g. "com.microsoft.MultiHeadAttention".
        max_folded_bytes: Largest result of constant folding that may grow the model.
        skip: Names of improvements and fusions to leave out, so that what they gain can be measured.
        backend_name: Whose limit ``target_opset_max`` is, for the error.

    Raises:
        ModelError: The model breaks ONNX's rules, is older than opset 7, or needs an opset above ``target_opset_max``.
        InternalError: A pass failed or broke its contract; names the pass. The model may be half-changed.
    """
    interface = _expected_interface(model)
    _repair(model)
    first = _prepare(backend_name, target_opset_min, target_opset_max)(model)
    with _overridable_initializers_hidden(model):
        improvements = [step for step in _improvements(max_folded_bytes) if step.name not in skip]
        second = FixedPoint("improve", improvements, limit=_ROUNDS)(model)
        improvements = [step for step in _improvements(max_folded_bytes) if step.name not in skip]
        fusions = [*(step for step in _fusions(frozenset(fused_operators)) if step.name not in skip), *improvements]
        third = FixedPoint("fuse", fusions, limit=_ROUNDS)(model)
    last = _finish()(model)
    report = PassReport(records=first.records + second.records + third.records + last.records)
    try:
        check_graph(model)
    except GraphInvariantError as error:
        msg = f"the graph stage left an invalid graph: {error}"
        raise InternalError(msg, hint="EDGEBUILD_CHECK_PASSES=1 finds the pass") from error
    changed = interface.difference(GraphInterface.of(model))
    if changed:
        msg = f"the graph stage changed the model's interface: {changed}"
        raise InternalError(msg, hint="EDGEBUILD_CHECK_PASSES=1 finds the pass")
    return OptimizeResult(model=model, report=report)


def _expected_interface(model: ir.Model) -> GraphInterface:
    interface = GraphInterface.of(model)
    if model.ir_version >= 4:
        return interface
    weights = set(model.graph.initializers)  # see _LegacyInputs
    return GraphInterface(
        inputs=tuple(entry for entry in interface.inputs if entry[0] not in weights), outputs=interface.outputs
    )


def _repair(model: ir.Model) -> None:
    """Sort nodes and part equal names, as any engine would put up with; what is still wrong is the model's fault."""
    try:
        common.TopologicalSortPass()(model)
        common.NameFixPass()(model)
        check_graph(model)
    except (GraphInvariantError, ValueError) as error:
        msg = f"the ONNX model is invalid: {error}"
        raise ModelError(msg, hint="check it with onnx.checker") from error


class _LegacyInputs(GraphPass):
    """Takes initialisers out of the inputs of models with IR version 3.

    There every initialiser had to be an input and, as in ONNX Runtime, counts as constant; from 4 on it means that a
    caller may override it.
    """

    interface_may_change = True

    @property
    def name(self) -> str:
        return "legacy-inputs"

    def rewrite(self, model: ir.Model) -> int:
        if model.ir_version >= 4:
            return 0
        model.ir_version = 8
        kept = [value for value in model.graph.inputs if not value.is_initializer()]
        removed = len(model.graph.inputs) - len(kept)
        model.graph.inputs.clear()
        model.graph.inputs.extend(kept)
        return removed + 1


def _prepare(backend_name: str, minimum: int, maximum: int) -> GraphPass:
    return PassSequence(
        "prepare",
        [
            _LegacyInputs(),
            Adapted("inline", common.InlinePass()),
            Adapted("unused-functions", _remove_unused_functions),
            StripMetadata(),
            Adapted("names", common.NameFixPass()),
            OpsetAdjustment(minimum=minimum, maximum=maximum, maximum_name=backend_name),
        ],
    )


def _improvements(max_folded_bytes: int) -> list[GraphPass]:
    return [
        ShapeInference(),
        AxisNames(),
        ShapeFolding(),
        ShapeSources(),
        ConstantFolding(max_output_bytes=max_folded_bytes),
        Adapted("onnxscript-rules", RewritePass(_onnxscript_rules())),
        StripMetadata(),  # onnxscript's rules leave notes in the nodes
        ReshapeTargets(),
        SliceConcatCleanup(),
        IdentityElimination(),
        ConvBatchNormFolding(),
        DuplicateInitializers(),
        Adapted("common-subexpressions", common.CommonSubexpressionEliminationPass()),
        DeadCodeElimination(),
    ]


def _fusions(legal: frozenset[str]) -> list[GraphPass]:
    """Fusions, those of standard operators always, others where the backend has the operator."""
    passes: list[GraphPass] = [
        BiasFolding(),
        LayerNormFusion(),
        RmsNormFusion(simplified=SIMPLIFIED in legal),
        GeluFusion(legal),
        HardSwishFusion(),
        RowProjections(),
        TransposeSinking(),
        SoftmaxGuardRemoval(),
    ]
    if MULTI_HEAD_ATTENTION in legal:
        passes.append(AttentionFusion())
    return passes


def _onnxscript_rules() -> list[object]:
    """The rules of onnxscript that are exact.

    Left out, as of 0.7.2: ``SlicesSplit`` (an odd axis is split at the wrong place), Cast of Cast (rounds once where
    the model rounds twice), Min/Max to Clip (NaN), Flatten to Reshape (axes of size 0), batch norm (ours checks more).
    """
    return [
        *_no_op.rules,
        *_materialize_reshape_shape.rules,
        *_fuse_pad_into_conv.rules,
        _basic_rules.transpose_transpose_rule,
        _basic_rules.unsqueeze_unsqueeze_rule,
    ]


def _finish() -> GraphPass:
    return PassSequence(
        "finish",
        [
            Adapted("outputs", common.OutputFixPass()),
            Adapted("names", common.NameFixPass()),
            Adapted("unused-opsets", common.RemoveUnusedOpsetsPass()),
        ],
    )


@contextlib.contextmanager
def _overridable_initializers_hidden(model: ir.Model) -> Iterator[None]:
    """Make initialisers that are inputs look like plain inputs: other people's passes take them for constants."""
    hidden = [(value, value.const_value) for value in model.graph.inputs if value.is_initializer()]
    for value, _ in hidden:
        if value.name is not None:
            del model.graph.initializers[value.name]
        value.const_value = None
    try:
        yield
    finally:
        for value, tensor in hidden:
            value.const_value = tensor
            model.graph.register_initializer(value)


def _remove_unused_functions(model: ir.Model) -> None:
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # its constructor has no annotations
