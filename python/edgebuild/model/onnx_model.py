"""Loads ONNX files: checks them, gives unknown sizes names, and runs them with ONNX Runtime as the reference."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edgebuild.errors import ModelError, UsageError
from edgebuild.model import signature as sig
from edgebuild.model.fill import plain_value
from edgebuild.model.guess import Guess
from edgebuild.model.infer import search
from edgebuild.model.request import ModelRequest
from edgebuild.model.resolve import apply_dynamic, check_names, given_specs, last_line, stem_of
from edgebuild.model.samples import make_samples, other_size, read_samples
from edgebuild.model.signature import Dim, Structure, SymbolRange, TensorType, ValueSpec
from edgebuild.model.source import Argument, Inputs, ModelKind, ModelSource, TensorArgument

_OLDEST_OPSET = 7
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
_PICKING = {"TopK", "ArgMax", "ArgMin"}


def load(path: Path, request: ModelRequest) -> ModelSource:
    """Loads an ONNX file of opset 7 or newer; external data must lie in its folder.

    Raises:
        ModelError: The file is damaged, too old, refers to data outside its folder, or ONNX Runtime refuses it.
        UsageError: What the user said does not fit its inputs.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises its own kinds
        msg = f"{path}: an ONNX model that can't be parsed: {last_line(error)}"
        raise ModelError(msg, hint="save or download it again") from None
    _check_opset(path, model, request.opset_max)
    _check_external(path, model)
    if request.arguments:
        msg = f"--arg {next(iter(request.arguments))}: an ONNX model has no Python arguments"
        raise UsageError(msg, hint="drop --arg")
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    declared = [_spec(path, value) for value in model.graph.input if value.name not in weights]
    outputs = [_output(value) for value in model.graph.output]
    if not outputs:
        msg = f"{path}: the ONNX graph has no output"
        raise ModelError(msg, hint="export the model again")
    session = _session(path)
    names = [spec.name for spec in declared]
    structure: Structure = (
        {"tensor": 0} if len(outputs) == 1 else {"tuple": [{"tensor": i} for i in range(len(outputs))]}
    )

    def reference(inputs: Inputs) -> tuple[list[Any], Structure]:
        return list(session.run(None, {name: inputs[name] for name in names})), structure

    given = read_samples(request.samples)
    check_names(request, list(given[0]) if given else [], names)
    fixed = given_specs(request, given, names)
    assumptions: list[str] = []
    free = _fix(declared, fixed)
    symbols = _best_sizes(free, lambda inputs: reference(inputs)[0], assumptions)
    free = _fix_rigid(free, symbols, reference, {entry.input: entry.axis for entry in request.dynamic}, assumptions)
    specs, symbols = apply_dynamic(free, request, assumptions, symbols)
    made = make_samples(specs, symbols, {}, lambda i: reference(i), seed=request.seed, given=given)
    args: tuple[Argument, ...] = tuple(TensorArgument(index=i) for i in range(len(names)))
    return ModelSource(
        kind=ModelKind.ONNX,
        name=stem_of(path.stem),
        module=None,
        onnx_path=str(path),
        inputs=tuple(specs),
        symbols=symbols,
        args=args,
        kwargs={},
        samples=made.samples,
        assumptions=(*assumptions, *made.assumptions),
        notes=tuple(_notes(model)),
        reference=reference,
        output_names=tuple(spec.name for spec in outputs),
        output_types=tuple(spec.type for spec in outputs),
    )


def _check_opset(path: Path, model: Any, newest: int) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version = versions.get("", versions.get("ai.onnx"))
    if version is not None and version < _OLDEST_OPSET:
        msg = f"{path}: ONNX opset {version}, expected {_OLDEST_OPSET} or newer"
        raise ModelError(msg, hint="raise it with onnx.version_converter.convert_version, or export the model again")
    if version is not None and version > newest:
        msg = f"{path}: ONNX opset {version}, but the target's backends take {newest} at most"
        raise ModelError(
            msg, hint=f"export the model again with opset {newest} or lower, or leave a backend out with --backend"
        )


def _tensors(graph: Any) -> Iterator[Any]:
    """All constant tensors of a graph, those of its subgraphs and attributes too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _attribute_tensors(node)


def _attribute_tensors(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _tensors(graph)


def _check_external(path: Path, model: Any) -> None:
    """External data must be regular files inside the model's folder, and long enough."""
    folder = path.parent.resolve()
    tensors = [
        *_tensors(model.graph),
        *(t for f in model.functions for node in f.node for t in _attribute_tensors(node)),
    ]
    for tensor in tensors:
        if tensor.data_location != 1:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        pure = PurePosixPath(location)
        inside = location and not pure.is_absolute() and ".." not in pure.parts and "\\" not in location
        file = folder / location
        if not inside or not file.resolve().is_relative_to(folder):
            msg = f"{path}: weights '{tensor.name}' refer to '{location}', outside the model's folder"
            raise ModelError(msg, hint="put the data file beside the model and save it with a relative location")
        if not file.is_file():
            msg = f"{path}: the external data file '{location}' is missing"
            raise ModelError(msg, hint="copy it beside the model")
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or 0)
        except ValueError:
            msg = f"{path}: offset or length of the external weights '{tensor.name}' is not a number"
            raise ModelError(msg, hint="save the model again") from None
        size = file.stat().st_size
        if offset < 0 or length < 0 or offset + length > size:
            msg = f"{path}: '{location}' has {size} bytes, but weights '{tensor.name}' need {offset + length}"
            raise ModelError(msg, hint="the data file is truncated or of another model; copy it again")


def _spec(path: Path, value: Any) -> ValueSpec:
    if value.type.WhichOneof("value") != "tensor_type":
        kind = (value.type.WhichOneof("value") or "value without type").removesuffix("_type").replace("_", " ")
        msg = f"{path}: input '{value.name}' is {'an' if kind[0] in 'aeiou' else 'a'} {kind}, not a tensor"
        raise ModelError(
            msg, hint="models whose inputs are sequences or optionals can't be sampled; give tensors to the model"
        )
    return ValueSpec(name=value.name, type=_tensor_type(value.type.tensor_type))


def _tensor_type(kind: Any) -> TensorType:
    shape: tuple[Dim, ...] | None = None
    if kind.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else (dim.dim_param or None)
            for dim in kind.shape.dim
        )
    return TensorType(dtype=sig.DTYPE_BY_NUMBER[kind.elem_type], shape=shape)


def _output(value: Any) -> ValueSpec:
    return ValueSpec(name=value.name, type=_value_type(value.type))


def _value_type(kind: Any) -> sig.ValueType:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return sig.ContainerType(kind="sequence", element=_value_type(kind.sequence_type.elem_type))
    if which == "optional_type":
        return sig.ContainerType(kind="optional", element=_value_type(kind.optional_type.elem_type))
    if which is None or which == "map_type":
        return TensorType(dtype="float32", shape=None)
    return _tensor_type(kind.tensor_type)


def _session(path: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # the model as it stands
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own kinds
        msg = f"{path}: ONNX Runtime {ort.__version__} can't load it: {_reason(error)}"
        raise ModelError(
            msg, hint="check it with onnx.checker; custom operators and newer opsets can't be loaded"
        ) from None


def _reason(error: Exception) -> str:
    """What ONNX Runtime says, without its status, the path, and the C++ function that says it."""
    text = last_line(error).rpartition(" failed:")[2]
    return re.sub(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(/\S+:\d+ .*?\) )?", "", text)


def _fix(declared: Sequence[ValueSpec], fixed: Mapping[str, ValueSpec]) -> list[ValueSpec]:
    """Declared inputs with the user's sizes put in, and every size that is still unknown given a symbol."""
    sizes: dict[str, int] = {}
    for spec in declared:
        user = fixed.get(spec.name)
        if user is None:
            continue
        assert isinstance(spec.type, TensorType)
        assert isinstance(user.type, TensorType)
        ours, theirs = spec.type.shape, user.type.shape or ()
        fits = ours is None or len(ours) == len(theirs)
        if user.type.dtype != spec.type.dtype or not fits:
            msg = f"--input says '{spec.name}' is {user.type}, the file says {spec.type}"
            raise UsageError(msg, hint="drop --input, or give sizes that fit")
        for a, b in zip(ours or (), theirs, strict=False):
            if isinstance(a, int) and a != b:
                msg = f"--input says '{spec.name}' is {user.type}, the file says {spec.type}"
                raise UsageError(msg, hint="fixed sizes of an ONNX file can't be changed")
            if isinstance(a, str) and isinstance(b, int) and sizes.setdefault(a, b) != b:
                msg = f"--input: '{a}' is {sizes[a]} in one input and {b} in '{spec.name}'"
                raise UsageError(msg, hint="one symbol of the file is one size")
    found = []
    for spec in declared:
        assert isinstance(spec.type, TensorType)
        user = fixed.get(spec.name)
        shape = spec.type.shape
        if shape is None:
            if user is None:
                msg = f"the file does not say the rank of input '{spec.name}'"
                raise ModelError(msg, hint=f"give it: --input '{spec.name}:{spec.type.dtype}[1,16]'")
            assert isinstance(user.type, TensorType)
            shape = user.type.shape or ()
        wanted = user.type.shape if user is not None and isinstance(user.type, TensorType) else None
        dims: list[Dim] = []
        for axis, dim in enumerate(shape or ()):
            if isinstance(dim, str) and dim in sizes:
                dims.append(sizes[dim])
            elif dim is None and wanted is not None:
                dims.append(wanted[axis])
            else:
                dims.append(
                    _symbol(dim if isinstance(dim, str) else f"{spec.name}_{axis}" if axis else "batch")
                    if not isinstance(dim, int)
                    else dim
                )
        found.append(ValueSpec(name=spec.name, type=TensorType(dtype=spec.type.dtype, shape=tuple(dims))))
    return found


def _symbol(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text)
    return f"_{name}" if name[:1].isdigit() else name


def _best_sizes(specs: Sequence[ValueSpec], run: Any, assumptions: list[str]) -> dict[str, SymbolRange]:
    """Sizes that the model accepts for every symbol, found by trying; a range from 1 upward for each."""
    roles: dict[str, str] = {}
    guesses = []
    for spec in specs:
        assert isinstance(spec.type, TensorType)
        shape = spec.type.shape or ()
        axes: list[int | str] = []
        for axis, dim in enumerate(shape):
            if isinstance(dim, str):
                usual = "batch" if axis == 0 else "space" if len(shape) == 4 and axis >= 2 else "sequence"
                dim = roles.setdefault(dim, usual)
            axes.append(dim if dim is not None else 1)
        channels = shape[1] if len(shape) == 4 and isinstance(shape[1], int) else None
        guesses.append(Guess(dtype=spec.type.dtype, axes=tuple(axes), reason="the file", channels=channels))
    if not roles:
        return {}
    names = [spec.name for spec in specs]
    found, error = search(names, {name: [guess] for name, guess in zip(names, guesses, strict=True)}, run)
    if found is None:
        shown = ", ".join(str(spec) for spec in specs)
        cause = last_line(error) if error is not None else "no size is accepted"
        first = specs[0]
        assert isinstance(first.type, TensorType)
        dims = ",".join(str(d) for d in first.type.shape or ())
        msg = f"no sizes were found that the model accepts for {shown}: {cause}"
        raise ModelError(
            msg, hint=f"give them: --input '{first.name}:{first.type.dtype}[{dims}]' with numbers for the names"
        )
    ranges = {}
    for symbol, role in roles.items():
        best = found[1][role]
        ranges[symbol] = SymbolRange(minimum=1, best=best, maximum=None)
        assumptions.append(
            f"size '{symbol}' of the ONNX file is taken as 1..{best}..unbounded; override with --dynamic "
            f"'INPUT:AXIS={symbol}[min..best..max]', or fix it with --input"
        )
    return ranges


def _fix_rigid(
    specs: Sequence[ValueSpec],
    symbols: dict[str, SymbolRange],
    run: Any,
    asked: Mapping[str, int],
    assumptions: list[str],
) -> list[ValueSpec]:
    """Fixes sizes that the file calls free, but at which the model refuses any other value; takes them out of ``symbols``."""
    best = {name: span.best for name, span in symbols.items()}
    for name, span in list(symbols.items()):
        sizes = {**best, name: other_size(span)}
        values = {}
        for spec in specs:
            assert isinstance(spec.type, TensorType)
            shape = tuple(sizes[d] if isinstance(d, str) else int(d or 1) for d in spec.type.shape or ())
            values[spec.name] = plain_value(spec.name, spec.type.dtype, shape, 1)
        wanted = any(
            isinstance(spec.type, TensorType)
            and spec.name in asked
            and (spec.type.shape or (None,))[asked[spec.name]] == name
            for spec in specs
        )
        if wanted:
            continue
        try:
            run(values)
        except Exception:  # a refusal is an answer
            del symbols[name]
            assumptions[:] = [text for text in assumptions if not text.startswith(f"size '{name}' ")]
            assumptions.append(
                f"size '{name}' of the ONNX file is fixed to {best[name]}: the model refuses {sizes[name]} there; "
                "override with --input and --dynamic"
            )
    found = []
    for spec in specs:
        assert isinstance(spec.type, TensorType)
        dims = tuple(best[d] if isinstance(d, str) and d not in symbols else d for d in spec.type.shape or ())
        found.append(ValueSpec(name=spec.name, type=TensorType(dtype=spec.type.dtype, shape=dims), layout=spec.layout))
    return found


def _notes(model: Any) -> list[str]:
    kinds = {node.op_type for node in model.graph.node}
    notes = []
    random = sorted(kinds & _RANDOM)
    if random:
        notes.append(
            f"the model has random operators ({', '.join(random)}): outputs that depend on them can't be compared"
        )
    picking = sorted(kinds & _PICKING)
    integers = [v.name for v in model.graph.output if v.type.tensor_type.elem_type in (6, 7)]
    if picking and integers:
        notes.append(
            f"integer output {', '.join(integers)} may come from an order ({', '.join(picking)}): values that tie within rounding "
            "may swap places on another engine"
        )
    return notes
