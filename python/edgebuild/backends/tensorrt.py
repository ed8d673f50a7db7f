"""TensorRT: loads ONNX whose types hold, with the recipe by which its plan is built on the board (cpp/backends/tensorrt)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.backends.candidate import Candidate, LoweredVariant
from edgebuild.model.signature import Signature, TensorType

if TYPE_CHECKING:
    from edgebuild.backends.half import HalfModel

NAME = "tensorrt"
ENGINE: str | None = None
"""The board's own system brings it."""

FORM = "onnx"
LOWERING = "1"
OPTIONS: dict[str, tuple[str, ...]] = {
    "workspace_mib": (),
    "optimization_level": (),
    "device": (),
    "sparsity": ("0", "1"),
    "tf32": ("0", "1"),
    "timing_cache": ("0", "1"),
    "cuda_graph": ("0", "1"),
    "dla_core": ("none", *map(str, range(16))),
}
"""What cpp/backends/tensorrt/recipe.cpp takes beside the profiles; a test holds the two together."""

NUMBERS = {"workspace_mib": 1 << 20, "optimization_level": 5, "device": 255}
"""The most of options that are numbers."""

_INLINE_LIMIT = 2**31 - 2**20
"""Bytes of a model with its weights in one file: protobuf's own limit, and TensorRT 10.3 takes no weights beside the model."""


def lower(candidate: Candidate, options: dict[str, str], folder: Path) -> tuple[LoweredVariant, ...]:
    """Writes the models that plans are built from: float16 before float32 where the target gains by it, alone and between integers.

    A network's types hold in TensorRT 11, and in 10 where it is asked for them: so precision is in the model, as casts and Q/DQ.
    """
    import onnx

    data = candidate.graph.with_name(candidate.graph.name + ".data")
    size = candidate.graph.stat().st_size + (data.stat().st_size if data.exists() else 0)
    if size > _INLINE_LIMIT:
        return ()
    model = onnx.load(candidate.graph)
    recipe = {**options, **profiles(candidate)}
    variants = []
    if candidate.precision == "int8":
        from edgebuild.backends.half import with_float_biases

        model = with_float_biases(model)
        if _has_foreign_operators(model) or not _is_symmetric(model):
            return ()
    name = candidate.precision if candidate.precision != "float32" else ""
    half = _in_half(model, candidate)
    if half is not None:
        kind = f"{name}-float16".lstrip("-")
        variants.append(_write(half.model, kind, candidate, recipe, folder, half.tolerances))
    variants.append(_write(model, candidate.precision, candidate, recipe, folder, None))
    return tuple(variants)


def unsupported(signature: Signature) -> str | None:
    """Why this backend can't serve a signature at all; None: it can."""
    for spec in (*signature.inputs, *signature.outputs):
        if not isinstance(spec.type, TensorType):
            return f"{spec.name!r} is a {spec.type}, and TensorRT takes tensors alone"
        if spec.type.dtype not in ("float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "bool"):
            return f"{spec.name!r} is {spec.type.dtype}, which TensorRT has not"
        if spec.type.shape is None:
            return f"{spec.name!r} may have any rank, and a plan is built for one"
    return None


def profiles(candidate: Candidate) -> Mapping[str, str]:
    """``profile.NAME`` of each input with dynamic sizes: its smallest, best and largest shapes.

    An axis without a range, or without an upper end, goes from 1 to what the export's first sample has.
    """
    found = {}
    for index, (name, spec) in enumerate(zip(candidate.inputs, candidate.signature.inputs, strict=True)):
        shape = spec.type.shape if isinstance(spec.type, TensorType) else None
        if name is None or shape is None or all(isinstance(dim, int) for dim in shape):
            continue
        sample = candidate.sample_shapes[index] if index < len(candidate.sample_shapes) else ()
        sizes = [_sizes(candidate.signature, dim, sample[axis] if sample else 1) for axis, dim in enumerate(shape)]
        found[f"profile.{name}"] = ":".join(",".join(str(size[which]) for size in sizes) for which in range(3))
    return found


def _sizes(signature: Signature, dim: int | str | None, sampled: int) -> Sequence[int]:
    """Smallest, best and largest size of an axis."""
    if isinstance(dim, int):
        return dim, dim, dim
    known = None if dim is None else signature.symbols.get(dim)
    if known is None:
        return min(1, sampled), sampled, sampled
    return known.minimum, known.best, max(known.best, sampled) if known.maximum is None else known.maximum


def _in_half(model: Any, candidate: Candidate) -> "HalfModel | None":
    """The model with its float parts in float16; None: the target gains nothing by it, or the model can't be so."""
    from edgebuild.backends.half import can_mix, to_float16

    if "float16" not in candidate.precisions or candidate.precision not in ("float32", "int8"):
        return None
    return to_float16(model, candidate) if candidate.precision == "float32" or can_mix(model) else None


def _has_foreign_operators(model: object) -> bool:
    """Whether a quantised graph has operators that TensorRT has not: those that quantise at run time, and other engines' own."""
    import onnx

    assert isinstance(model, onnx.ModelProto)
    at_run_time = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul")
    return any(node.domain not in ("", "ai.onnx") or node.op_type in at_run_time for node in model.graph.node)


def _is_symmetric(model: object) -> bool:
    """Whether all Q and DQ have zero points of 0, as constants; TensorRT has no others, and no unsigned ones."""
    import onnx

    assert isinstance(model, onnx.ModelProto)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = node.input[2] if len(node.input) > 2 else ""
            zero = constants.get(name)
            if zero is None:
                if name or node.op_type == "QuantizeLinear":
                    return False  # without one a Q gives unsigned integers
            elif zero.data_type == onnx.TensorProto.UINT8 or onnx.numpy_helper.to_array(zero).any():
                return False
    return True


def _write(
    model: object,
    kind: str,
    candidate: Candidate,
    recipe: Mapping[str, str],
    folder: Path,
    tolerances: Mapping[str, tuple[float, float]] | None,
) -> LoweredVariant:
    import onnx

    assert isinstance(model, onnx.ModelProto)
    stem = f"{NAME}-{kind}{candidate.suffix}"
    (folder / f"{stem}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    return LoweredVariant(
        name=stem,
        backend=NAME,
        precision=kind.partition("-")[0],
        model=f"{stem}.onnx",
        inputs=candidate.inputs,
        outputs=candidate.outputs,
        options=dict(recipe),
        tolerances=tolerances,
        measured_here=False,
    )
