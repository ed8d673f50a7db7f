"""ModelSource objects made by hand, so that this stage's tests do not depend on the loader."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from edgebuild.model.signature import SymbolRange, TensorType, ValueSpec
from edgebuild.model.source import ModelKind, ModelSource, TensorArgument


def nesting(value: Any, flat: list[np.ndarray]) -> dict[str, Any]:
    """How ``value`` nests its tensors; they are appended to ``flat``."""
    if isinstance(value, torch.Tensor):
        flat.append(value.detach().clone().numpy())
        return {"tensor": len(flat) - 1}
    if isinstance(value, Mapping):
        return {"dict": [[str(key), nesting(item, flat)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [nesting(item, flat) for item in value]}
    if isinstance(value, list):
        return {"list": [nesting(item, flat) for item in value]}
    return {"constant": value}


def make_source(
    module: Any,
    samples: Sequence[Sequence[Any]],
    *,
    dynamic: Mapping[tuple[int, int], str] | None = None,
    ranges: Mapping[str, SymbolRange] | None = None,
    names: Sequence[str] | None = None,
) -> ModelSource:
    """A source for ``module`` with positional tensor arguments; ``dynamic`` maps (input, axis) to a symbol."""
    arrays = [[np.asarray(value) for value in sample] for sample in samples]
    dynamic = dict(dynamic or {})
    names = names or [f"x{i}" if len(arrays[0]) > 1 else "x" for i in range(len(arrays[0]))]
    specs = tuple(
        ValueSpec(
            name=names[i],
            type=TensorType(
                dtype=array.dtype.name,
                shape=tuple(dynamic.get((i, axis), size) for axis, size in enumerate(array.shape)),
            ),
        )
        for i, array in enumerate(arrays[0])
    )
    symbols = {s: (ranges or {}).get(s, SymbolRange(minimum=1, best=4, maximum=None)) for s in dynamic.values()}
    runnable = module.module() if isinstance(module, torch.export.ExportedProgram) else module

    def reference(inputs: Mapping[str, Any]) -> tuple[list[np.ndarray], dict[str, Any]]:
        with torch.no_grad():
            out = runnable(*(torch.from_numpy(np.array(inputs[spec.name])) for spec in specs))
        flat: list[np.ndarray] = []
        return flat, nesting(out, flat)

    kind = ModelKind.TORCHSCRIPT if isinstance(module, torch.jit.ScriptModule) else ModelKind.MODULE
    return ModelSource(
        kind=ModelKind.TORCH_EXPORT if isinstance(module, torch.export.ExportedProgram) else kind,
        name="model",
        module=module,
        onnx_path=None,
        inputs=specs,
        symbols=symbols,
        args=tuple(TensorArgument(index=i) for i in range(len(specs))),
        kwargs={},
        samples=[dict(zip(names, sample, strict=True)) for sample in arrays],
        assumptions=(),
        notes=(),
        reference=reference,
    )
