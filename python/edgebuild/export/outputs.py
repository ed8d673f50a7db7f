"""The signature's outputs: names from the model's own nesting, shapes from what was seen on the samples."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgebuild.export.arrays import Array, dtype_name
from edgebuild.model.signature import Dim, Structure, SymbolRange, TensorType, ValueSpec
from edgebuild.model.source import Inputs

_DATA_DEPENDENT = frozenset(
    {"NonZero", "Unique", "NonMaxSuppression", "Compress", "Loop", "SequenceAt", "If", "RandomNormal"}
)


def output_names(structure: Structure, count: int) -> list[str]:
    """A unique name for each output: the keys and positions on the way to it, ``output`` where there are none."""
    names: list[str] = [""] * count

    def walk(part: Structure, path: tuple[str, ...]) -> None:
        if "tensor" in part:
            if not names[part["tensor"]]:
                keyed = path and not path[-1].isdigit()
                names[part["tensor"]] = "_".join(path) if keyed else "_".join(("output", *path))
        elif "dict" in part:
            for key, item in part["dict"]:
                walk(item, (*path, str(key)))
        else:
            for position, item in enumerate(part.get("tuple") or part.get("list") or ()):
                walk(item, (*path, str(position)))

    walk(structure, ())
    unique: list[str] = []
    for position, name in enumerate(names):
        candidate = name or f"output_{position}"
        while candidate in unique:
            candidate += "_"
        unique.append(candidate)
    return unique


def symbol_sizes(inputs: Sequence[ValueSpec], sample: Inputs) -> dict[str, int]:
    """The size of every symbol in one input set."""
    sizes: dict[str, int] = {}
    for spec in inputs:
        if isinstance(spec.type, TensorType) and spec.type.shape is not None:
            for dim, size in zip(spec.type.shape, np.shape(sample[spec.name]), strict=False):
                if isinstance(dim, str):
                    sizes[dim] = size
    return sizes


def output_specs(
    names: Sequence[str],
    inputs: Sequence[ValueSpec],
    symbols: Mapping[str, SymbolRange],
    samples: Sequence[Inputs],
    expected: Sequence[Sequence[Array]],
    model: ir.Model | None,
    *,
    sized_by_data: bool = False,
) -> tuple[ValueSpec, ...]:
    """Dtype and shape of each output.

    An axis that had one size in all samples has that size, unless the graph computes shapes from data; one that always had a
    symbol's size is that symbol; any other is unknown. Where there is no graph (None), ``sized_by_data`` says whether sizes come from data.
    """
    data_dependent = sized_by_data
    if model is not None:
        data_dependent = any(node.op_type in _DATA_DEPENDENT for node in model.graph.all_nodes())
    sizes = [symbol_sizes(inputs, sample) for sample in samples]
    specs = []
    for position, name in enumerate(names):
        arrays = [outputs[position] for outputs in expected]
        shape: tuple[Dim, ...] | None = None
        if len({array.ndim for array in arrays}) == 1:
            told = None if model is None else model.graph.outputs[position].shape
            dims: list[Dim] = []
            for axis in range(arrays[0].ndim):
                seen = [array.shape[axis] for array in arrays]
                fixed = told is not None and len(told) == arrays[0].ndim and isinstance(told[axis], int)
                dims.append(_dim(seen, sizes, symbols, trusted=fixed or not data_dependent))
            shape = tuple(dims)
        specs.append(ValueSpec(name=name, type=TensorType(dtype=dtype_name(arrays[0]), shape=shape)))
    return tuple(specs)


def _dim(
    seen: Sequence[int], sizes: Sequence[Mapping[str, int]], symbols: Mapping[str, SymbolRange], *, trusted: bool
) -> Dim:
    if len(set(seen)) > 1:
        for symbol in symbols:
            if all(size == known.get(symbol) for size, known in zip(seen, sizes, strict=True)):
                return symbol
        return None
    return seen[0] if trusted else None
