import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.bundle.values import decode, encode, storage_dtype
from edgebuild.errors import BundleError, UsageError
from edgebuild.model.signature import DTYPES, tensor_bytes

_ML = [name for name in DTYPES if hasattr(ml_dtypes, name)]
_SHAPES = [(), (0,), (1,), (3,), (2, 3), (5, 1, 7), (0, 4), (1023,)]


def _bits(dtype: str, count: int, seed: int) -> "np.ndarray[Any, Any]":
    """Random bit patterns, one element a row."""
    return np.random.default_rng(seed).integers(0, 2, (count, DTYPES[dtype][1])).astype(np.uint8)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "string"])
def test_any_bit_pattern_survives_and_lies_little_endian_lowest_bits_first(dtype: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape))
    bits = _bits(dtype, count, 5)
    if dtype == "bool":
        bits[:, 1:] = 0
    # The bits of all elements one after the other, lowest first: what packed and little-endian mean.
    data = np.packbits(bits.ravel(), bitorder="little").tobytes()
    array = decode(data, dtype, shape)
    assert array.shape == shape
    assert array.dtype == storage_dtype(dtype)
    assert encode(array, dtype) == data
    assert len(data) == tensor_bytes(dtype, shape)


@pytest.mark.parametrize("dtype", _ML)
def test_ml_dtypes_arrays_are_taken_bit_by_bit(dtype: str) -> None:
    width = DTYPES[dtype][1]
    values = np.linspace(-6, 6, 37).astype(ml_dtypes.float4_e2m1fn if dtype == "float4_e2m1fn" else np.float32)
    typed = (
        np.abs(values).astype(dtype)
        if dtype.startswith("u")
        else values.astype(np.float32).astype(getattr(ml_dtypes, dtype))
    )
    if dtype.startswith("u"):
        typed = (np.arange(37) % (1 << width)).astype(getattr(ml_dtypes, dtype))
    decoded = decode(encode(typed, dtype), dtype, (37,))
    if dtype.startswith(("int", "uint")):
        np.testing.assert_array_equal(decoded, typed.astype(np.int32))
    elif width >= 8:
        np.testing.assert_array_equal(decoded, typed.view(storage_dtype(dtype)))
    else:
        np.testing.assert_array_equal(decoded, typed.view(np.uint8) & 15)


def test_packed_nibbles_against_a_hand_made_example() -> None:
    assert encode(np.array([1, -1, 7], np.int8), "int4") == bytes([0xF1, 0x07])
    assert encode(np.array([0, 1, 2, 3, 3], np.uint8), "uint2") == bytes([0b11100100, 0b11])
    assert encode(np.array([-2, -1, 0, 1], np.int8), "int2") == bytes([0b01001110])


def test_order_and_endianness_of_the_array_do_not_matter() -> None:
    array = np.arange(24, dtype=">i4").reshape(2, 3, 4)
    expected = struct.pack("<24i", *range(24))
    assert encode(array, "int32") == expected
    assert encode(np.asfortranarray(array), "int32") == expected
    assert encode(array[:, ::-1][:, ::-1], "int32") == expected


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=9), max_size=8))
def test_strings_survive(texts: list[str]) -> None:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    data = encode(array, "string")
    assert data == b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    assert decode(data, "string", (len(texts),)).tolist() == texts


def test_numpy_strings_are_taken() -> None:
    assert encode(np.array(["ä", "b"]), "string") == b"\x02\0\0\0\xc3\xa4\x01\0\0\0b"
    assert encode(np.array("x"), "string") == b"\x01\0\0\0x"


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.zeros(2, np.float64), "float32"),
        (np.zeros(2, np.int32), "bool"),
        (np.array([8], np.int8), "int4"),
        (np.array([-9], np.int8), "int4"),
        (np.array([16], np.uint8), "uint4"),
        (np.array([4], np.uint8), "uint2"),
        (np.zeros(2, np.float32), "bfloat16"),
        (np.zeros(2, np.int8), "float8_e5m2"),
        (np.zeros(2, ml_dtypes.bfloat16), "float16"),
        (np.array([1], dtype=object), "string"),
        (np.array(["\ud800"], dtype=object), "string"),
        (np.array([b"\xff"], dtype=object), "string"),
    ],
)
def test_what_is_not_of_the_dtype_is_refused_by_name(value: Any, dtype: str) -> None:
    with pytest.raises(UsageError, match="weights"):
        encode(value, dtype, where="weights")


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (b"\0" * 3, "float32", (1,)),
        (b"\0" * 5, "float32", (1,)),
        (b"\x02", "bool", (1,)),
        (b"\x10", "uint4", (1,)),
        (b"\x40", "int2", (3,)),
        (b"", "string", (1,)),
        (b"\x05\0\0\0ab", "string", (1,)),
        (b"\xff\xff\xff\xff", "string", (1,)),
        (b"\x01\0\0\0\xff", "string", (1,)),
        (b"\0\0\0\0x", "string", (1,)),
        (b"", "string", (2**60,)),
    ],
)
def test_bytes_that_are_no_such_tensor_are_refused(data: bytes, dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match=r"golden/0\.bin"):
        decode(data, dtype, shape, where="golden/0.bin")


def test_decoded_arrays_may_be_written_to() -> None:
    array = decode(b"\0" * 8, "float32", (2,))
    array[0] = 1
    assert array.tolist() == [1.0, 0.0]
