"""From a loaded module to a ModelSource: inputs, dynamic axes, samples, and what has to be said about the model."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgebuild.errors import ModelError, UsageError
from edgebuild.model import probe
from edgebuild.model.arguments import Parameter, plan_call
from edgebuild.model.fill import is_lengths
from edgebuild.model.graphfacts import Facts
from edgebuild.model.guess import merge
from edgebuild.model.infer import infer_inputs
from edgebuild.model.request import ModelRequest
from edgebuild.model.samples import make_samples, read_samples
from edgebuild.model.signature import Dim, Structure, SymbolRange, TensorType, ValueSpec
from edgebuild.model.source import Inputs, ModelKind, ModelSource
from edgebuild.model.values import Call, dtype_name, flatten_outputs, to_numpy, torch_dtype


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A module on CPU in inference mode, before its inputs are known.

    Args:
        kind: What came in.
        stem: What the bundle is named after.
        module: Called with the tensors.
        parameters: Of ``forward``.
        hints: Items of container arguments, as the graph takes them apart.
        facts: What the graph shows about flat inputs; None: there is no graph, so inputs must be given.
        notes: What was done to it so far.
        known: Inputs that the file itself fixes (torch.export).
        symbols: Ranges of the symbols in ``known``.
        call: How it is called, if the file fixes that too.
    """

    kind: ModelKind
    stem: str
    module: Any
    parameters: tuple[Parameter, ...]
    hints: Callable[[str], Sequence[str]]
    facts: Callable[[Sequence[str]], Mapping[str, Facts]] | None
    notes: tuple[str, ...] = ()
    known: Mapping[str, ValueSpec] = field(default_factory=dict)
    symbols: Mapping[str, SymbolRange] = field(default_factory=dict)
    call: Call | None = None


def resolve(loaded: Loaded, request: ModelRequest) -> ModelSource:
    """Finds the inputs of ``loaded``, makes samples, and probes its behaviour.

    Raises:
        ModelError: Inputs can't be found.
        SignatureError: The model refuses the inputs that the user gave.
        UsageError: What the user said does not fit the model.
    """
    given = read_samples(request.samples)
    sampled = list(given[0]) if given else []
    assumptions: list[str] = []
    if loaded.call is not None:
        call = loaded.call
        check_names(request, sampled, call.names)
    else:
        plan = plan_call(loaded.parameters, request, sampled, loaded.hints)
        call, assumptions = plan.call, list(plan.assumptions)
    if not call.names:
        msg = f"{loaded.stem}: the model takes no tensor"
        raise ModelError(msg, hint="forward needs at least one tensor argument")
    facts = loaded.facts(call.names) if loaded.facts is not None else {}
    state = probe.State(loaded.module)

    def raw(inputs: Inputs) -> Any:
        """One seeded run from the model's saved state."""
        import torch

        torch.manual_seed(request.seed)
        state.restore()
        return call.run(loaded.module, inputs)

    fixed = given_specs(request, given, call.names)
    for name, spec in loaded.known.items():
        fixed[name] = check_known(spec, fixed.get(name))
    if len(fixed) < len(call.names):
        if loaded.facts is None:
            missing = next(name for name in call.names if name not in fixed)
            msg = f"{loaded.stem}: dtype and shape of input '{missing}' are not known"
            raise ModelError(msg, hint=f"give it: --input '{missing}:float32[1,3,224,224]' with the model's own sizes")
        inferred = infer_inputs(call.names, fixed, facts, raw)
        fixed = {spec.name: spec for spec in inferred.specs}
        assumptions += inferred.assumptions
    for name in call.names:
        kind = fixed[name].type
        assert isinstance(kind, TensorType)
        torch_dtype(kind.dtype)
    specs, symbols = apply_dynamic([fixed[name] for name in call.names], request, assumptions, loaded.symbols)
    merged = {name: merge(facts[name].demands) for name in call.names if name in facts}
    lengths = frozenset(
        name
        for name in call.names
        if is_lengths(name, _dtype(fixed[name]))
        or ((found := merged.get(name)) is not None and found.reason.startswith("lengths of"))
    )
    made = make_samples(
        specs,
        symbols,
        {name: found.limit if found is not None else None for name, found in merged.items()},
        raw,
        seed=request.seed,
        given=given,
        lengths=lengths,
    )
    assumptions += made.assumptions

    def reference(inputs: Inputs) -> tuple[list[Any], Structure]:
        flat, structure = flatten_outputs(raw(inputs))
        return [to_numpy(tensor) for _, tensor in flat], structure

    symbols = dict(made.symbols)
    flat, _ = flatten_outputs(raw(made.samples[0]))
    behaviour = probe.behaviour(call, loaded.module, state, made.samples)
    state.restore()
    return ModelSource(
        kind=loaded.kind,
        name=stem_of(loaded.stem),
        module=loaded.module,
        onnx_path=None,
        inputs=tuple(specs),
        symbols=symbols,
        args=call.args,
        kwargs=call.kwargs,
        samples=made.samples,
        assumptions=tuple(assumptions),
        notes=(*loaded.notes, *behaviour),
        reference=reference,
        output_names=tuple(name for name, _ in flat),
        output_types=tuple(TensorType(dtype=dtype_name(t.dtype), shape=tuple(t.shape)) for _, t in flat),
    )


def _dtype(spec: ValueSpec) -> str:
    return spec.type.dtype if isinstance(spec.type, TensorType) else ""


def stem_of(text: str) -> str:
    """A valid segment of a path out of a file's stem."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip(".").lstrip("-")
    return stem[:100] or "model"


def check_names(request: ModelRequest, sampled: Sequence[str], names: Sequence[str]) -> None:
    """Raises UsageError if --input or --sample names an input that is not among ``names``."""
    for name in [*(entry.name for entry in request.inputs if entry.name is not None), *sampled]:
        if name not in names:
            msg = f"the model has no tensor input '{name}'; its inputs are {', '.join(names)}"
            raise UsageError(msg, hint="use these names")
    if len(request.inputs) > len(names):
        msg = f"{len(request.inputs)} --input given, but the model takes {len(names)}: {', '.join(names)}"
        raise UsageError(msg, hint="drop the surplus --input")
    if request.arguments:
        name = next(iter(request.arguments))
        msg = f"--arg {name}: constants of this kind of file were fixed when it was made"
        raise UsageError(msg, hint="drop --arg")


def given_specs(request: ModelRequest, given: Sequence[Inputs], names: Sequence[str]) -> dict[str, ValueSpec]:
    """Types of the inputs that --input and --sample give, by name."""
    found: dict[str, ValueSpec] = {}
    for name, array in given[0].items() if given else ():
        found[name] = ValueSpec(name=name, type=TensorType(dtype=dtype_name(array.dtype), shape=tuple(array.shape)))
    dynamic = {(entry.input, entry.axis) for entry in request.dynamic}
    for i, sample in enumerate(given):
        for name, array in sample.items():
            kind = found[name].type
            assert isinstance(kind, TensorType)
            first = kind.shape or ()
            fits = len(first) == array.ndim and all(
                a == b or (name, axis) in dynamic or (name, axis - array.ndim) in dynamic
                for axis, (a, b) in enumerate(zip(first, array.shape, strict=False))
            )
            if not fits or dtype_name(array.dtype) != kind.dtype:
                msg = f"--sample {request.samples[i]}: '{name}' is {array.dtype}{list(array.shape)}, in the first sample {kind}"
                raise UsageError(msg, hint=f"axes that change need --dynamic '{name}:AXIS=SYMBOL'")
    taken = {entry.name for entry in request.inputs if entry.name is not None}
    free = iter([name for name in names if name not in taken])
    for entry in request.inputs:
        name = entry.name if entry.name is not None else next(free)
        spec = ValueSpec(name=name, type=TensorType(dtype=entry.dtype, shape=entry.shape))
        if name in found and str(found[name].type) != str(spec.type):
            msg = f"--input says '{name}' is {spec.type}, the samples say {found[name].type}"
            raise UsageError(msg, hint="samples alone are enough; drop --input")
        found[name] = spec
    return found


def check_known(known: ValueSpec, given: ValueSpec | None) -> ValueSpec:
    """What the file says, checked against what the user says; sizes of free axes are the user's."""
    if given is None or not isinstance(known.type, TensorType) or not isinstance(given.type, TensorType):
        return known
    theirs, ours = given.type, known.type
    if ours.shape is None:
        return given
    same = theirs.shape is not None and len(theirs.shape) == len(ours.shape) and theirs.dtype == ours.dtype
    if not same or any(isinstance(a, int) and a != b for a, b in zip(ours.shape, theirs.shape or (), strict=False)):
        msg = f"--input says '{known.name}' is {theirs}, the file says {ours}"
        raise UsageError(msg, hint="drop --input, or export the model with dynamic axes")
    return known


def apply_dynamic(
    specs: Sequence[ValueSpec], request: ModelRequest, assumptions: list[str], known: Mapping[str, SymbolRange]
) -> tuple[list[ValueSpec], dict[str, SymbolRange]]:
    """Puts the symbols of --dynamic into the shapes, and gives each its range; ``known`` are those the file has.

    Raises:
        UsageError: Unknown input, axis out of range, or sizes and ranges that contradict each other.
    """
    shapes: dict[str, list[Dim]] = {}
    for spec in specs:
        assert isinstance(spec.type, TensorType)
        shapes[spec.name] = list(spec.type.shape or ())
    sizes: dict[str, int] = {}
    spans: dict[str, dict[str, int | None]] = {}
    for entry in request.dynamic:
        where = f"--dynamic '{entry.input}:{entry.axis}={entry.symbol}'"
        if entry.input not in shapes:
            msg = f"{where}: the model has no input '{entry.input}'; its inputs are {', '.join(shapes)}"
            raise UsageError(msg, hint="use one of these names")
        shape = shapes[entry.input]
        if not -len(shape) <= entry.axis < len(shape):
            msg = (
                f"{where}: '{entry.input}' has {len(shape)} axes, so the axis is from {-len(shape)} to {len(shape) - 1}"
            )
            raise UsageError(msg, hint="count axes from 0")
        axis = entry.axis % len(shape)
        size = shape[axis]
        if isinstance(size, int):
            if sizes.setdefault(entry.symbol, size) != size:
                msg = f"{where}: the axis has {size}, but '{entry.symbol}' is {sizes[entry.symbol]} elsewhere"
                raise UsageError(msg, hint="one symbol is one size; give these axes equal sizes, or another symbol")
        elif size is not None and size in known and entry.symbol not in known:
            sizes.setdefault(entry.symbol, known[size].best)
            for other in shapes.values():
                other[:] = [entry.symbol if d == size else d for d in other]
        shape[axis] = entry.symbol
        span = spans.setdefault(entry.symbol, {"min": None, "best": None, "max": None, "step": None})
        given = (("min", entry.minimum), ("best", entry.best), ("max", entry.maximum), ("step", entry.step))
        for key, value in given:
            if value is not None and span[key] not in (None, value):
                msg = f"{where}: '{entry.symbol}' has two values for {key}: {span[key]} and {value}"
                raise UsageError(msg, hint="give the range once")
            span[key] = value if value is not None else span[key]
    used = {d for shape in shapes.values() for d in shape if isinstance(d, str)}
    symbols = {name: span for name, span in known.items() if name in used}
    for name, span in spans.items():
        symbols[name] = _range(name, span, sizes.get(name), symbols.get(name), assumptions)
    typed = [
        ValueSpec(
            name=spec.name, type=TensorType(dtype=_dtype(spec), shape=tuple(shapes[spec.name])), layout=spec.layout
        )
        for spec in specs
    ]
    return typed, symbols


def _range(
    name: str, span: Mapping[str, int | None], size: int | None, known: SymbolRange | None, assumptions: list[str]
) -> SymbolRange:
    best = span["best"]
    step = span["step"] or (known.step if known else 1)
    if best is None:
        best = size if size is not None else known.best if known else 1
        best = max(best, span["min"] or 0)
        best = min(best, span["max"]) if span["max"] is not None else best
    minimum = span["min"] if span["min"] is not None else min(known.minimum if known else step, best)
    maximum = span["max"] if span["max"] is not None else (known.maximum if known else None)
    if not minimum <= best <= (best if maximum is None else maximum):
        msg = f"--dynamic {name}: expected min <= best <= max, got {minimum}..{best}..{maximum}"
        raise UsageError(msg, hint="give a range that holds the best size")
    if best % step:
        msg = f"--dynamic {name}: expected multiples of {step}, got {best}"
        raise UsageError(msg, hint="give the axis such a size in --input, or another step")
    found = SymbolRange(minimum=minimum, best=best, maximum=maximum, step=step)
    if None in (span["min"], span["best"], span["max"]):
        limit = "unbounded" if maximum is None else str(maximum)
        assumptions.append(
            f"size '{name}' ranges from {minimum} over {best} (best) to {limit}; override with --dynamic '…={name}[min..best..max]'"
        )
    return found


def first_line(error: BaseException) -> str:
    """The first line that is not empty of an error of the user's own code, which says what it is about."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def last_line(error: BaseException) -> str:
    """The telling line of an error of torch's: its last one that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
