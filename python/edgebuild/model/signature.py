"""Signature: what a model takes and gives, as frozen values that need neither torch nor onnx.

The JSON form is that of the bundle's manifest (docs/bundle-format.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DTYPES: Mapping[str, tuple[int, int]] = {
    # name: (number in ONNX and in the plugin ABI, bits of an element; 0: variable)
    "float32": (1, 32),
    "uint8": (2, 8),
    "int8": (3, 8),
    "uint16": (4, 16),
    "int16": (5, 16),
    "int32": (6, 32),
    "int64": (7, 64),
    "string": (8, 0),
    "bool": (9, 8),
    "float16": (10, 16),
    "float64": (11, 64),
    "uint32": (12, 32),
    "uint64": (13, 64),
    "complex64": (14, 64),
    "complex128": (15, 128),
    "bfloat16": (16, 16),
    "float8_e4m3fn": (17, 8),
    "float8_e4m3fnuz": (18, 8),
    "float8_e5m2": (19, 8),
    "float8_e5m2fnuz": (20, 8),
    "uint4": (21, 4),
    "int4": (22, 4),
    "float4_e2m1fn": (23, 4),
    "float8_e8m0fnu": (24, 8),
    "uint2": (25, 2),
    "int2": (26, 2),
}
"""Element types by their name in manifests and on the command line."""

DTYPE_BY_NUMBER: Mapping[int, str] = {number: name for name, (number, _) in DTYPES.items()}

Dim = int | str | None
"""One axis: its size, a symbol shared between tensors, or None if unknown."""


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a packed, contiguous tensor; ``shape`` holds sizes >= 0. Not for strings."""
    count = 1
    for size in shape:
        count *= size
    return (count * DTYPES[dtype][1] + 7) // 8


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """A tensor's dtype and shape; ``shape`` None means any rank."""

    dtype: str
    shape: tuple[Dim, ...] | None

    def to_json(self) -> dict[str, Any]:
        return {"kind": "tensor", "dtype": self.dtype, "shape": None if self.shape is None else list(self.shape)}

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[...]"
        return f"{self.dtype}[{','.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True, kw_only=True)
class ContainerType:
    """A sequence of one type, or an optional of one type."""

    kind: Literal["sequence", "optional"]
    element: "ValueType"

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "element": self.element.to_json()}

    def __str__(self) -> str:
        return f"{self.kind}({self.element})"


ValueType = TensorType | ContainerType


def type_from_json(data: Mapping[str, Any]) -> ValueType:
    """The inverse of ``to_json``; ``data`` has been validated."""
    if data["kind"] == "tensor":
        shape = data["shape"]
        return TensorType(dtype=data["dtype"], shape=None if shape is None else tuple(shape))
    return ContainerType(kind=data["kind"], element=type_from_json(data["element"]))


@dataclass(frozen=True, kw_only=True)
class ValueSpec:
    """One named input or output."""

    name: str
    type: ValueType
    layout: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.type.to_json(), "layout": self.layout}

    def __str__(self) -> str:
        return f"{self.name}:{self.type}"


@dataclass(frozen=True, kw_only=True)
class SymbolRange:
    """Sizes that a symbol may have: multiples of ``step`` in a range; ``maximum`` None means unbounded."""

    minimum: int
    best: int
    maximum: int | None
    step: int = 1

    def to_json(self) -> dict[str, Any]:
        data = {"min": self.minimum, "best": self.best, "max": self.maximum}
        return data if self.step == 1 else {**data, "step": self.step}

    def __str__(self) -> str:
        multiples = "" if self.step == 1 else f"/{self.step}"
        return f"{self.minimum}..{self.best}..{'' if self.maximum is None else self.maximum}{multiples}"


Structure = Mapping[str, Any]
"""How the original model nests its outputs, as JSON: ``{"tensor": 0}``, ``{"tuple": [...]}``, ``{"list": [...]}``,
``{"dict": [[key, structure], ...]}`` or ``{"constant": value}``."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Inputs and outputs in order, the symbols that their shapes share, and the outputs' original nesting."""

    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    symbols: Mapping[str, SymbolRange] = field(default_factory=dict)
    output_structure: Structure = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "symbols": {name: self.symbols[name].to_json() for name in sorted(self.symbols)},
            "output_structure": self.output_structure,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Signature":
        """The inverse of ``to_json``; ``data`` has been validated."""

        def specs(items: Sequence[Mapping[str, Any]]) -> tuple[ValueSpec, ...]:
            return tuple(
                ValueSpec(name=item["name"], type=type_from_json(item["type"]), layout=item["layout"]) for item in items
            )

        return cls(
            inputs=specs(data["inputs"]),
            outputs=specs(data["outputs"]),
            symbols={
                name: SymbolRange(
                    minimum=entry["min"], best=entry["best"], maximum=entry["max"], step=entry.get("step", 1)
                )
                for name, entry in data["symbols"].items()
            },
            output_structure=data["output_structure"],
        )
