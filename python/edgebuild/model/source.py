"""ModelSource: a loaded model with everything the exporters need to know. Lives in the worker process, beside torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from edgebuild.model.signature import Structure, SymbolRange, ValueSpec, ValueType

Inputs = Mapping[str, Any]
"""One input set: a numpy array for each tensor input by its name (bfloat16 and the 8-bit floats as ml_dtypes arrays)."""


class ModelKind(Enum):
    """What a file (or object) is, found out by looking inside it."""

    TORCHSCRIPT = "TorchScript"
    TORCH_EXPORT = "torch.export program"
    ONNX = "ONNX"
    MODULE = "nn.Module"
    PICKLED_MODULE = "pickled nn.Module"
    STATE_DICT = "state_dict"


@dataclass(frozen=True, kw_only=True)
class TensorArgument:
    """An argument of ``forward`` that is the tensor input ``index`` of the signature."""

    index: int


@dataclass(frozen=True, kw_only=True)
class ConstantArgument:
    """An argument that is bound to a constant at build: None, a Python scalar, a string."""

    value: Any


@dataclass(frozen=True, kw_only=True)
class NestedArgument:
    """A list, tuple or dict argument; ``keys`` are the dict's."""

    kind: str  # "list" | "tuple" | "dict"
    items: tuple["Argument", ...]
    keys: tuple[str, ...] = ()


Argument = TensorArgument | ConstantArgument | NestedArgument


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A loaded model.

    Args:
        kind: What came in.
        name: The stem of the bundle's name, a valid path segment.
        module: ``nn.Module``, ``ScriptModule`` or ``ExportedProgram`` on CPU, in inference mode; None for ONNX.
        onnx_path: The file of an ONNX model; None otherwise.
        inputs: Tensor inputs in the order of the signature; dynamic axes are symbols.
        symbols: Range of every symbol.
        args: Positional arguments of ``forward``.
        kwargs: Keyword arguments of ``forward``.
        samples: At least three input sets that the model was seen to accept; with dynamic axes at two sizes of each.
        assumptions: What was inferred, one sentence each, naming the flag that overrides it.
        notes: What was changed or found (moved from CUDA, put into eval mode, random operators …), one sentence each.
        reference: Runs the original model: input set -> (flat outputs in signature order, how the model nests them). Seeded, and
            from the same state every time; outputs are numpy arrays.
        output_names: Names of the flat outputs, unique, in order.
        output_types: Dtype and shape (of sample 0) of each output; for ONNX with the graph's own symbols.
    """

    kind: ModelKind
    name: str
    module: Any
    onnx_path: str | None
    inputs: tuple[ValueSpec, ...]
    symbols: Mapping[str, SymbolRange]
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]
    samples: Sequence[Inputs]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    reference: Callable[[Inputs], tuple[list[Any], Structure]]
    output_names: tuple[str, ...] = ()
    output_types: tuple[ValueType, ...] = ()
