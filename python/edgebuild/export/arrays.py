"""Between numpy arrays, torch tensors, ONNX Runtime values and raw bits, without losing a dtype on the way."""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_ML_DTYPES: dict[str, Any] = {
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}


def dtype_name(array: Array) -> str:
    """The manifest's name of an array's dtype."""
    return str(array.dtype.name)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy (or ml_dtypes) dtype of a manifest's name."""
    found: np.dtype[Any] = np.dtype(_ML_DTYPES.get(name, name))
    return found


def is_float(dtype: str) -> bool:
    """Whether a dtype has a fraction: compared with a tolerance."""
    return dtype.startswith(("float", "bfloat", "complex"))


def raw_bits(array: Array) -> Array:
    """``array``, or its bits as unsigned integers where numpy has no such type."""
    if array.dtype.name in _ML_DTYPES:
        return array.view(np.uint8 if array.dtype.itemsize == 1 else np.uint16)
    return array


def to_torch(array: Array) -> Any:
    """A tensor that owns its memory (samples are used again and models may write into their inputs)."""
    import torch

    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.name in _ML_DTYPES:
        return torch.from_numpy(raw_bits(contiguous).copy()).view(getattr(torch, array.dtype.name))
    return torch.from_numpy(contiguous.copy())


def to_numpy(value: Any) -> Array:
    """The inverse of ``to_torch``; also passes numpy arrays through."""
    import torch

    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    value = value.detach().cpu().contiguous()
    name = str(value.dtype).removeprefix("torch.")
    if name in _ML_DTYPES:
        bits = torch.uint8 if value.element_size() == 1 else torch.uint16
        return np.asarray(value.view(bits).numpy()).view(_ML_DTYPES[name])
    return np.asarray(value.resolve_conj().resolve_neg().numpy())
