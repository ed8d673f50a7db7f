"""Tensors as the raw bytes of a golden file, and back.

In memory a tensor is a numpy array. Types that numpy lacks are given as an ``ml_dtypes`` array (which this module handles without
importing that package) or raw: ``bfloat16`` as uint16, 8-bit floats as uint8, and types of 4 and 2 bits with one element a byte:
int8 values for ``int4`` and ``int2``, uint8 for ``uint4`` and ``uint2``, uint8 codes for ``float4_e2m1fn``. Decoding gives the raw form. Strings are object arrays
of ``str``.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgebuild.errors import BundleError, UsageError
from edgebuild.model.signature import DTYPES, tensor_bytes

_NUMPY = {
    "bool": "?",
    "int8": "i1",
    "uint8": "u1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "int64": "<i8",
    "uint64": "<u8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "complex64": "<c8",
    "complex128": "<c16",
}
_SIGNED_SUB_BYTE = frozenset(("int2", "int4"))
Array = np.ndarray[Any, np.dtype[Any]]


def storage_dtype(dtype: str) -> "np.dtype[Any]":
    """The numpy dtype of a decoded tensor."""
    if dtype == "string":
        return np.dtype(object)
    if dtype in _NUMPY:
        return np.dtype(_NUMPY[dtype])
    if dtype in _SIGNED_SUB_BYTE:
        return np.dtype("i1")
    return np.dtype("<u2" if DTYPES[dtype][1] == 16 else "u1")


def encode(value: Any, dtype: str, *, where: str = "value") -> bytes:
    """The bytes of a golden file: row-major, little-endian, sub-byte types packed.

    Args:
        value: An array of ``dtype`` as the module's docstring says, or anything that ``numpy.asarray`` makes one of.
        dtype: The manifest's name of the element type.
        where: The tensor's name for messages.

    Raises:
        UsageError: The array is not of ``dtype``, or an element can't be expressed.
    """
    array = np.asarray(value)
    if dtype == "string":
        return b"".join(_encode_string(item, where) for item in array.ravel())
    bits = DTYPES[dtype][1]
    expected = storage_dtype(dtype)
    if array.dtype.name == dtype and dtype not in _NUMPY:  # ml_dtypes: the raw bits are what we want
        array = array.view(expected if bits >= 8 else np.dtype("u1"))
    elif array.dtype.newbyteorder("<") != expected.newbyteorder("<"):
        message = f"{where}: expected {expected.name} elements for {dtype}, got {array.dtype.name}"
        raise UsageError(message)
    elif bits < 8 and array.size:
        least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype in _SIGNED_SUB_BYTE else (0, (1 << bits) - 1)
        if array.min() < least or array.max() > most:
            message = f"{where}: expected {dtype} elements from {least} to {most}, got {array.min()} to {array.max()}"
            raise UsageError(message)
    if bits < 8:
        return _pack(array.ravel().view(np.uint8), bits)
    return array.astype(expected, order="C", copy=False).tobytes()


def decode(data: bytes, dtype: str, shape: Sequence[int], *, where: str = "value") -> Array:
    """The tensor that ``encode`` wrote; sizes of ``shape`` are 0 or more.

    Raises:
        BundleError: The bytes are not a tensor of this dtype and shape.
    """
    shape = tuple(shape)
    if dtype == "string":
        return _decode_strings(data, shape, where)
    expected = tensor_bytes(dtype, shape)
    if len(data) != expected:
        message = f"{where}: expected {expected} bytes for {dtype}{list(shape)}, got {len(data)}"
        raise BundleError(message)
    bits = DTYPES[dtype][1]
    if bits < 8:
        return _unpack(data, dtype, bits, shape, where)
    if dtype == "bool" and data.strip(b"\0\1"):
        message = f"{where}: a bool is 0 or 1, got {data.strip(bytes((0, 1)))[0]}"
        raise BundleError(message)
    return np.frombuffer(bytearray(data), dtype=storage_dtype(dtype)).reshape(shape)


def _pack(codes: Array, bits: int) -> bytes:
    per_byte = 8 // bits
    codes = codes & np.uint8((1 << bits) - 1)
    codes = np.concatenate([codes, np.zeros(-codes.size % per_byte, np.uint8)]).reshape(-1, per_byte)
    packed = np.zeros(codes.shape[0], np.uint8)
    for lane in range(per_byte):
        packed |= codes[:, lane] << np.uint8(lane * bits)
    return packed.tobytes()


def _unpack(data: bytes, dtype: str, bits: int, shape: tuple[int, ...], where: str) -> Array:
    packed = np.frombuffer(data, np.uint8)
    mask = np.uint8((1 << bits) - 1)
    lanes = np.stack([(packed >> np.uint8(lane * bits)) & mask for lane in range(8 // bits)], axis=-1).ravel()
    count = int(np.prod(shape, dtype=np.int64)) if 0 not in shape else 0
    if lanes[count:].any():
        message = f"{where}: the last byte of packed {dtype} is not filled with zeros"
        raise BundleError(message)
    codes = lanes[:count]
    if dtype in _SIGNED_SUB_BYTE:
        codes = (codes << np.uint8(8 - bits)).view(np.int8) >> np.int8(8 - bits)
    return np.ascontiguousarray(codes).reshape(shape)


def _encode_string(item: Any, where: str) -> bytes:
    try:
        data = item.encode("utf-8") if isinstance(item, str) else bytes(item) if isinstance(item, bytes) else None
        if data is None:
            message = f"{where}: expected str elements for string, got {type(item).__name__}"
            raise UsageError(message)
        data.decode("utf-8")
    except UnicodeError as error:
        message = f"{where}: a string is not UTF-8: {error.reason if isinstance(error, UnicodeDecodeError) else error}"
        raise UsageError(message) from error
    return struct.pack("<I", len(data)) + data


def _decode_strings(data: bytes, shape: tuple[int, ...], where: str) -> Array:
    count = 1
    for size in shape:
        count *= size
    if count * 4 > len(data):
        message = f"{where}: expected at least {count * 4} bytes for string{list(shape)}, got {len(data)}"
        raise BundleError(message)
    items = np.empty(count, dtype=object)
    position = 0
    for index in range(count):
        end = position + 4
        size = struct.unpack_from("<I", data, position)[0] if end <= len(data) else 0
        if end + size > len(data):
            message = f"{where}: string {index} ends at byte {end + size}, but the file at byte {len(data)}"
            raise BundleError(message)
        try:
            items[index] = data[end : end + size].decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"{where}: string {index} is not UTF-8"
            raise BundleError(message) from error
        position = end + size
    if position != len(data):
        message = f"{where}: expected {position} bytes for {count} strings, got {len(data)}"
        raise BundleError(message)
    return items.reshape(shape)
