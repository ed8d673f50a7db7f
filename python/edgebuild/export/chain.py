"""The chain of exporters: each is tried, its graph validated and compared, until one holds."""

import contextlib
import errno
import gc
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from edgebuild.errors import EdgebuildError, GateError, ModelError, ToolError
from edgebuild.export.failure import failed_location, failed_operator, summary
from edgebuild.export.result import Attempt, OutputParity
from edgebuild.model.source import ModelKind, ModelSource


class RefusedError(Exception):
    """An exporter's graph is not valid, or not for this target."""


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """One way from the model to ONNX: ``produce(source, opset, scratch folder)`` returns a graph or raises anything.

    ``note`` is what the user must know if this way is taken.
    """

    name: str
    produce: Callable[[ModelSource, int, Path], ir.Model]
    opsets: range
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A graph that was taken, written to the result's folder."""

    engine_inputs: tuple[str | None, ...]
    engine_outputs: tuple[str, ...]
    model: ir.Model
    parity: tuple[OutputParity, ...]
    tolerances: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...] = ()


def exporters(source: ModelSource) -> list[Exporter]:
    """The ways to try for this model, best graphs first (docs/export.md says why in this order)."""
    import torch

    from edgebuild.export.exporters.dynamo import DYNAMO_OPSETS
    from edgebuild.export.exporters.torchscript import TORCHSCRIPT_OPSETS

    torchscript = Exporter(name="torchscript", produce=_torchscript, opsets=TORCHSCRIPT_OPSETS)
    if isinstance(source.module, torch.jit.ScriptModule):
        ways = [
            Exporter(name="torch.export", produce=_interpreted, opsets=DYNAMO_OPSETS),
            Exporter(name="torch.export (TS2EP)", produce=_ts2ep, opsets=DYNAMO_OPSETS),
        ]
        last = []
    else:
        ways = [Exporter(name="torch.export", produce=_exported, opsets=DYNAMO_OPSETS)]
        if source.kind is not ModelKind.TORCH_EXPORT:
            ways.append(Exporter(name="torch.export (strict)", produce=_exported_strict, opsets=DYNAMO_OPSETS))
        if not isinstance(source.module, torch.export.ExportedProgram):
            scripted = "torch.jit.script + torchscript"
            ways += [
                Exporter(name="torch.jit.script + torch.export", produce=_scripted, opsets=DYNAMO_OPSETS),
                Exporter(name=scripted, produce=_scripted_torchscript, opsets=TORCHSCRIPT_OPSETS),
            ]
        ways.append(Exporter(name="torch.jit.trace + torch.export", produce=_traced, opsets=DYNAMO_OPSETS))
        # Last, because tracing keeps only the side of an `if` that the sample takes.
        last = [
            Exporter(
                name="torch.jit.trace + torch.export, as sampled", produce=_frozen, opsets=DYNAMO_OPSETS, note=_FROZEN
            ),
            Exporter(
                name="torchscript, as sampled", produce=_frozen_torchscript, opsets=TORCHSCRIPT_OPSETS, note=_FROZEN
            ),
        ]
    # torch.export unrolls a recurrent layer over its steps; the TorchScript exporter writes one LSTM, GRU or RNN node, at
    # the price of several copies of the weights in memory.
    if _has_recurrence(source.module) and _module_bytes(source.module) < LARGE_BYTES:
        return [torchscript, *ways, *last]
    return [*ways, torchscript, *last]


_FROZEN = (
    "the model's Python code decides by values or sizes of tensors; the exported graph holds the decisions that the first sample "
    "leads to, and is wrong where another input would lead elsewhere; torch.where, or a model that torch.jit.script takes, "
    "keeps both sides"
)
LARGE_BYTES = 512 << 20
"""Weights from which on memory decides how things are done."""


def _has_recurrence(module: Any) -> bool:
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        found = module.inlined_graph.findAllNodes
        kinds = ("aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu")
        return any(found(kind, recurse=True) for kind in kinds)
    return isinstance(module, torch.nn.Module) and any(isinstance(part, torch.nn.RNNBase) for part in module.modules())


def _module_bytes(module: Any) -> int:
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        return sum(tensor.nbytes for tensor in module.state_dict.values())
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def run_chain(
    source: ModelSource,
    opset_max: int,
    scratch: Path,
    judge: Callable[[ir.Model], Judged],
    progress: Callable[[str], None],
    reset: Callable[[], None] = lambda: None,
    attempts: list[Attempt] | None = None,
) -> tuple[str, int, Judged, tuple[Attempt, ...]]:
    """Tries exporters until one's graph is valid and computes what the original does.

    Args:
        source: The model.
        opset_max: Highest opset that the target's backends support.
        scratch: An empty folder.
        judge: Finishes, writes and compares a graph; raises if it is not to be taken.
        progress: Told each exporter's name.
        reset: Puts the model's own state (counters, running values) back to what the file holds.
        attempts: Is added to with every exporter that was tried, also where none holds.

    Returns:
        The exporter's name, the opset, what ``judge`` returned, and all attempts.

    Raises:
        GateError: Graphs were made, but none computes what the original does.
        ModelError: No exporter made a graph.
    """
    attempts = [] if attempts is None else attempts
    wrong: Exception | None = None
    for exporter in exporters(source):
        allowed = [opset for opset in exporter.opsets if opset <= opset_max]
        if not allowed:
            attempts.append(Attempt(exporter=exporter.name, error=f"writes no opset up to {opset_max}"))
            continue
        opset = min(allowed[-1], DEFAULT_OPSET)
        progress(exporter.name)
        reset()
        try:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                model = exporter.produce(source, opset, Path(folder))
                validate(model, opset_max)
                judged = judge(model)
        except (EdgebuildError, MemoryError):
            raise
        except Exception as error:
            _check_storage(error, scratch)
            from edgebuild.export.parity import DisagreementError

            if isinstance(error, DisagreementError):
                wrong = error
            attempts.append(
                Attempt(
                    exporter=exporter.name,
                    error=summary(error),
                    operator=failed_operator(error),
                    location=failed_location(error),
                )
            )
            del error
            gc.collect()
            continue
        attempts.append(Attempt(exporter=exporter.name, error=None))
        if exporter.note is not None:
            judged = replace(judged, notes=(*judged.notes, exporter.note))
        return exporter.name, int(judged.model.opset_imports[""]), judged, tuple(attempts)
    raise _failure(attempts, wrong)


def _check_storage(error: Exception, scratch: Path) -> None:
    """Raises what is no fault of the model: a full disk, or our own folder pulled away under us."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise error
    if not scratch.is_dir():
        message = f"the build's own folder was removed while it ran: {scratch}"
        raise ToolError(message, hint="build again; `edgebuild cache clean` leaves what a build uses")


DEFAULT_OPSET = 20
"""What exporters write if the target allows it: from here on, no operator they emit is a decomposition of a later one."""


def validate(model: ir.Model, opset_max: int) -> None:
    """Raises RefusedError for a graph with an opset above ``opset_max`` or an operator that the ONNX standard lacks."""
    opset = model.opset_imports.get("", 0)
    if opset > opset_max:
        message = f"the graph has opset {opset}, the target takes {opset_max} at most"
        raise RefusedError(message)
    functions = {(function.domain, function.name) for function in model.functions.values()}
    for node in model.graph.all_nodes():
        if (node.domain, node.op_type) in functions:
            continue
        if node.domain not in ("", "ai.onnx"):
            raise RefusedNodeError(node, "is not in the ONNX standard")
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, "")
        except onnx.defs.SchemaError:
            raise RefusedNodeError(node, f"is not in opset {opset}") from None
        if schema.deprecated:
            raise RefusedNodeError(node, f"is deprecated in opset {opset}")


class RefusedNodeError(RefusedError):
    """One node of an exporter's graph is not to be taken; ``operator`` names it."""

    def __init__(self, node: ir.Node, reason: str) -> None:
        self.operator = f"{node.domain or 'onnx'}::{node.op_type}"
        super().__init__(f"operator {self.operator} {reason}")


_ROUNDING_EXCESS = 32.0
"""A difference of so many tolerances can still be rounding that the tolerance's model did not foresee."""
_TOLERANCE_HINT = (
    "look at the named output; if the difference is harmless, widen the tolerance with --parity-tol ATOL,RTOL"
)
_STRUCTURE_HINT = (
    "this is no rounding, the graph computes something else, so a wider tolerance would only hide it: write the part of the "
    "model that leads to this output in plain operators, or export an ONNX file yourself and pass that"
)


_COMPLEX_HINT = (
    "ONNX has no complex tensors: return torch.view_as_real(output), with real and imaginary part on a last axis of 2"
)


def _is_rounding(wrong: Exception) -> bool:
    """Whether every output that is outside is so by little: finite, and within some tens of its tolerance."""
    outside = [p for p in getattr(wrong, "parity", ()) if not p.passed]
    return bool(outside) and all(
        p.max_abs_error <= _ROUNDING_EXCESS * (p.atol + p.rtol * abs(p.expected)) for p in outside
    )


_BY_VALUE = re.compile(r"data-dependent|dynamic value of condition")
_NO_KERNEL = re.compile(
    r"Could not find an implementation for (\w+)|Type 'tensor\(bfloat16\)' of input parameter \(\w+\) of operator \((\w+)\)"
)


def _failure(attempts: Sequence[Attempt], wrong: Exception | None) -> EdgebuildError:
    tried = "; ".join(f"{attempt.exporter}: {attempt.error}" for attempt in attempts)
    if wrong is not None:
        return GateError(
            f"the exported model does not compute what the original computes: {wrong}; tried {tried}",
            hint=_COMPLEX_HINT
            if "complex" in str(wrong)
            else _TOLERANCE_HINT
            if _is_rounding(wrong)
            else _STRUCTURE_HINT,
        )
    kernel = next((found for a in attempts if a.error and (found := _NO_KERNEL.search(a.error))), None)
    if kernel is not None:
        return ModelError(
            f"ONNX Runtime has no CPU kernel of {kernel.group(1) or kernel.group(2)} for the model's element types; tried {tried}",
            hint="bfloat16, 8-bit floats and, in some operators, float64 are rare there: save the model in float32 (model.float())",
        )
    hint = "replace that operator in the model by standard ones, or export an ONNX file yourself and pass that"
    if any(a.error and _BY_VALUE.search(a.error) for a in attempts):
        hint = (
            "the model decides by a tensor's value: compute both sides and choose with torch.where, take all steps and mask what comes "
            "after the last, or write what the loop's body does in plain operators"
        )
    operator = next((a.operator for a in attempts if a.operator), None)
    location = next((a.location for a in attempts if a.location), None)
    what = f"operator {operator}" if operator else "the model"
    where = f" ({location})" if location else ""
    return ModelError(
        f"{what}{where} can't be exported to ONNX; tried {tried}",
        hint=hint,
    )


def _exported(source: ModelSource, opset: int, scratch: Path) -> ir.Model:
    from edgebuild.export.exporters.dynamo import export_program, program_to_onnx
    from edgebuild.export.flat import flat_module

    return program_to_onnx(export_program(flat_module(source), source, strict=False), opset)


def _exported_strict(source: ModelSource, opset: int, scratch: Path) -> ir.Model:
    from edgebuild.export.exporters.dynamo import export_program, program_to_onnx
    from edgebuild.export.flat import flat_module

    return program_to_onnx(export_program(flat_module(source), source, strict=True), opset)


def _interpreted(source: ModelSource, opset: int, scratch: Path, script: Any = None) -> ir.Model:
    from edgebuild.export.exporters.dynamo import export_program, program_to_onnx
    from edgebuild.export.flat import flat_module
    from edgebuild.export.rewrites.interpreter import ScriptInterpreter

    interpreter = ScriptInterpreter(source.module if script is None else script)
    program = export_program(flat_module(source, interpreter), source, strict=False)
    return program_to_onnx(program, opset)


def _ts2ep(source: ModelSource, opset: int, scratch: Path) -> ir.Model:
    from edgebuild.export.exporters.dynamo import program_to_onnx
    from edgebuild.export.exporters.ts2ep import convert_script

    return program_to_onnx(convert_script(source), opset)


def _torchscript(source: ModelSource, opset: int, scratch: Path) -> ir.Model:
    with no_decisions():
        return _frozen_torchscript(source, opset, scratch)


def _frozen_torchscript(source: ModelSource, opset: int, scratch: Path) -> ir.Model:
    from edgebuild.export.exporters.torchscript import export_torchscript
    from edgebuild.export.flat import flat_module

    return export_torchscript(flat_module(source), source, opset, scratch)


@contextlib.contextmanager
def no_decisions() -> Iterator[None]:
    """Refuses a trace in which Python decided by the value of a tensor."""
    import torch

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", torch.jit.TracerWarning)
        yield
    for warning in seen:
        decision = issubclass(warning.category, torch.jit.TracerWarning) and "to a Python" in str(warning.message)
        if decision and not _CHECKS.search(warning.filename):
            message = f"tracing would keep one side of a decision at {_short(warning.filename)}:{warning.lineno}"
            raise RefusedError(message)


_CHECKS = re.compile(r"/torch/(_export|export)/")
"""Where a torch.export program compares its inputs with its own signature: that decides nothing."""


def _short(filename: str) -> str:
    return "/".join(Path(filename).parts[-2:])


def _traced(source: ModelSource, opset: int, scratch: Path) -> ir.Model:
    with no_decisions():
        return _frozen(source, opset, scratch)


def _frozen(source: ModelSource, opset: int, scratch: Path) -> ir.Model:
    """Decisions on values are taken as the sample has them; parity on the other samples shows whether that is right."""
    import torch

    from edgebuild.export.arrays import to_torch
    from edgebuild.export.exporters.dynamo import choose_sample, export_program, program_to_onnx
    from edgebuild.export.flat import FlatModule, flat_module
    from edgebuild.export.rewrites.interpreter import ScriptInterpreter
    from edgebuild.export.rewrites.nested import written_out
    from edgebuild.model.probe import State
    from edgebuild.model.source import TensorArgument

    sample = choose_sample(source)
    tensors = tuple(to_torch(sample[spec.name]) for spec in source.inputs)
    state = State(source.module)
    with torch.no_grad(), written_out():
        traced = torch.jit.trace(flat_module(source), tensors, check_trace=False)
    state.restore()  # tracing runs the model
    plain = tuple(TensorArgument(index=index) for index in range(len(tensors)))
    program = export_program(FlatModule(ScriptInterpreter(traced), plain, {}), source, strict=False)
    return program_to_onnx(program, opset)


def _scripted(source: ModelSource, opset: int, scratch: Path) -> ir.Model:
    import torch

    return _interpreted(source, opset, scratch, torch.jit.script(source.module))


def _scripted_torchscript(source: ModelSource, opset: int, scratch: Path) -> ir.Model:
    import torch

    from edgebuild.export.exporters.torchscript import export_torchscript
    from edgebuild.export.flat import flat_module

    return export_torchscript(flat_module(source, torch.jit.script(source.module)), source, opset, scratch)
