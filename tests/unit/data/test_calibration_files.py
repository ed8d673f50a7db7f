"""Calibration data in files: what is taken, how it is cut into batches, how what can't be used is refused."""

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_tools import DYNAMIC, IMAGE, TEXT, images, opened, signature, stacked, staged

from edgebuild.cache import Cache
from edgebuild.data import arrays
from edgebuild.errors import CalibrationError, UsageError


def test_a_folder_of_npy_gives_its_files_in_order(tmp_path: Path, cache: Cache) -> None:
    want = images(3)
    for index in (2, 0, 1):
        np.save(tmp_path / f"{index}.npy", want[index : index + 1])
    data = opened(tmp_path, IMAGE, cache)
    assert data.count == 3
    assert len(data) == 3
    np.testing.assert_array_equal(stacked(data), want)
    assert data.description == f"3 samples from {tmp_path}/*.npy"
    assert data.notes == ()
    assert not data.random


def test_a_missing_batch_axis_is_added_and_said(tmp_path: Path, cache: Cache) -> None:
    want = images(2)
    np.save(tmp_path / "a.npy", want[0])
    np.save(tmp_path / "b.npy", want[1])
    data = opened(str(tmp_path), IMAGE, cache)
    np.testing.assert_array_equal(stacked(data), want)
    assert data.notes == ("samples without a batch axis: it was added",)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_stacked_npy_is_split_into_batches_of_the_fixed_size(tmp_path: Path, cache: Cache, order: Any) -> None:
    want = images(12)
    np.save(tmp_path / "all.npy", np.asarray(want, order=order))
    data = opened(tmp_path / "all.npy", IMAGE, cache)
    assert [batch["x"].shape for batch in data.batches()] == [(1, 3, 4, 5)] * 12
    assert all(batch["x"].flags.c_contiguous for batch in data.batches())
    np.testing.assert_array_equal(stacked(data), want)
    assert "split into batches of 1" in data.notes[0]


def test_samples_are_gathered_into_a_larger_fixed_batch_and_a_rest_is_said(tmp_path: Path, cache: Cache) -> None:
    want = images(11)
    for index, (start, stop) in enumerate([(0, 5), (5, 6), (6, 11)]):
        np.save(tmp_path / f"{index}.npy", want[start:stop])
    data = opened(tmp_path, signature(("x", "float32", (4, 3, 4, 5))), cache)
    assert data.count == 8
    np.testing.assert_array_equal(stacked(data), want[:8])
    assert any("3 samples at the end do not fill a batch of 4" in note for note in data.notes)


def test_too_few_samples_for_a_fixed_batch_are_refused(cache: Cache) -> None:
    with pytest.raises(CalibrationError, match=r"empty calibration set, expected at least 4 samples.*3 samples at the"):
        opened(images(3), signature(("x", "float32", (4, 3, 4, 5))), cache)


def test_arrays_with_one_axis_more_count_input_sets(cache: Cache) -> None:
    state = np.random.default_rng(1).standard_normal((5, 2, 1, 7)).astype(np.float32)
    data = opened(
        {"x": images(5)[:, None], "h": state},
        signature(("x", "float32", (1, 3, 4, 5)), ("h", "float32", (2, 1, 7))),
        cache,
    )
    assert data.count == 5
    np.testing.assert_array_equal(np.stack([b["h"] for b in data.batches()]), state)


def test_a_stacked_file_of_a_dynamic_model_is_split_into_best_sizes(tmp_path: Path, cache: Cache) -> None:
    want = np.arange(66, dtype=np.float32).reshape(22, 3)
    np.savez(tmp_path / "all.npz", x=want)
    data = opened(tmp_path / "all.npz", DYNAMIC, cache)
    assert [len(batch["x"]) for batch in data.batches()] == [4, 4, 4, 4, 4, 2]
    np.testing.assert_array_equal(stacked(data), want)
    assert data.count == 22


def test_a_batch_of_a_dynamic_model_stays_as_it_was_given(tmp_path: Path, cache: Cache) -> None:
    for index, size in enumerate((7, 2, 16)):
        np.savez(tmp_path / f"{index}.npz", x=np.zeros((size, 3), np.float32))
    data = opened(tmp_path, DYNAMIC, cache)
    assert [len(batch["x"]) for batch in data.batches()] == [7, 2, 16]
    assert data.count == 25


def test_a_batch_beyond_the_range_of_a_dynamic_axis_is_split(tmp_path: Path, cache: Cache) -> None:
    for index in range(2):
        np.save(tmp_path / f"{index}.npy", np.full((18, 3), index, np.float32))
    data = opened(tmp_path, DYNAMIC, cache)
    assert [len(batch["x"]) for batch in data.batches()] == [4] * 9


def test_npz_of_several_inputs_and_ragged_lengths(tmp_path: Path, cache: Cache) -> None:
    for index, length in enumerate((5, 9, 3)):
        np.savez_compressed(
            tmp_path / f"{index}.npz", mask=np.ones((1, length), np.int64), ids=np.full((1, length), index)
        )
    data = opened(tmp_path, TEXT, cache)
    assert [list(batch) for batch in data.batches()] == [["ids", "mask"]] * 3  # the signature's order
    assert [batch["ids"].shape for batch in data.batches()] == [(1, 5), (1, 9), (1, 3)]


def test_one_subfolder_of_npy_an_input(tmp_path: Path, cache: Cache) -> None:
    for name in ("ids", "mask"):
        (tmp_path / name).mkdir()
        for index in range(3):
            np.save(tmp_path / name / f"{index}.npy", np.full((1, 4), index, np.int64))
    data = opened(tmp_path, TEXT, cache)
    assert data.count == 3
    (tmp_path / "mask" / "1.npy").unlink()
    with pytest.raises(CalibrationError, match=r"input 'mask': mask/1\.npy is missing"):
        opened(tmp_path, TEXT, cache)


def test_a_large_npz_is_unpacked_to_disk_and_removed(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_LARGE", 100)
    want = images(9)
    np.savez_compressed(tmp_path / "all.npz", x=want)
    with opened(tmp_path / "all.npz", IMAGE, cache) as data:
        np.testing.assert_array_equal(stacked(data), want)
        assert staged(cache)
    assert not staged(cache)


@pytest.mark.parametrize(
    ("dtype", "want"),
    [
        ("float64", "float32"),
        (">f4", "float32"),
        ("float16", "float32"),
        ("int32", "int64"),
        ("bool", "int64"),
        ("uint8", "int64"),
        ("int64", "int32"),
    ],
)
def test_what_is_converted_without_loss_is_said(cache: Cache, dtype: str, want: str) -> None:
    given = np.array([[0, 1, 1]], dtype=dtype)
    data = opened({"x": given}, signature(("x", want, (1, 3))), cache)
    batch = next(iter(data.batches()))
    assert batch["x"].dtype == np.dtype(want)
    np.testing.assert_array_equal(batch["x"], given.astype(want))
    assert any(f"was converted to {want}" in note for note in data.notes) == (dtype != ">f4")


@pytest.mark.parametrize(
    ("value", "want", "text"),
    [
        (np.array([[1e39, 0, 0]]), "float32", r"a value beyond float32 at \[0,0\]"),
        (np.array([[0, 2**40, 0]]), "int32", "1099511627776 .int64. is beyond int32"),
        (np.array([[0, 1, -1]]), "uint64", "-1 .int64. is beyond uint64"),
        (np.array([[0, 1, 2**63]], dtype=np.uint64), "int64", "9223372036854775808 .uint64. is beyond int64"),
        (np.array([[0, 1, 2]]), "float32", r"expected float32\[1,3\], got int64\[1,3\]"),
        (np.array([[0.0, 1, 2]]), "int64", r"expected int64\[1,3\], got float64"),
        (np.array([[0, 1, 2]]), "bool", r"expected bool\[1,3\], got int64"),
        (np.array([["a", "b", "c"]]), "float32", r"got <U1"),
    ],
)
def test_what_would_lose_more_than_precision_is_refused(cache: Cache, value: Any, want: str, text: str) -> None:
    with pytest.raises(CalibrationError, match=text):
        opened({"x": value}, signature(("x", want, (1, 3))), cache)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_names_tensor_sample_and_place(tmp_path: Path, cache: Cache, value: float) -> None:
    bad = images(6)
    bad[4, 2, 1, 3] = value
    np.save(tmp_path / "all.npy", bad)
    word = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(CalibrationError, match=rf"all\.npy, sample 4: input 'x': {word} at \[0,2,1,3\] \(1 of 60"):
        opened(tmp_path / "all.npy", IMAGE, cache)


def test_a_file_with_nan_is_named(tmp_path: Path, cache: Cache) -> None:
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", images(1) * (np.nan if index == 1 else 1))
    with pytest.raises(CalibrationError, match=r"1\.npy: input 'x': NaN at \[0,0,0,0\]") as caught:
        opened(tmp_path, IMAGE, cache)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"y": images(1)}, "unknown input 'y', the model takes x.*e.g. labels"),
        ({}, "input 'x' is missing, got no array"),
        ({"x": np.zeros((1, 3, 5, 4), np.float32)}, r"input 'x': expected float32\[1,3,4,5\], got float32\[1,3,5,4\]"),
        ({"x": np.zeros((5,), np.float32)}, r"expected float32\[1,3,4,5\], got float32\[5\]"),
        ({"x": np.zeros((8, 3, 4, 7), np.float32)}, "if axis 3 may have any size: --dynamic 'x:3=SYMBOL'"),
        ({"x": np.zeros((8, 3, 4, 7), np.float32)}, "if they are the model's own sizes: --input 'x:float32.1,3,4,7.'"),
        ({"x": np.zeros((1, 4, 5, 3), np.float32)}, "NHWC.*transpose"),
        ({"x": np.zeros((0, 3, 4, 5), np.float32)}, "empty array"),
    ],
)
def test_names_and_sizes_that_do_not_fit_are_refused(cache: Cache, given: Any, text: str) -> None:
    with pytest.raises(CalibrationError, match=text):
        opened([given], IMAGE, cache)


def test_a_symbol_is_one_size_inside_a_batch(cache: Cache) -> None:
    good = {"ids": np.zeros((1, 4), np.int64), "mask": np.ones((1, 4), np.int64)}
    bad = {"ids": np.zeros((1, 4), np.int64), "mask": np.ones((1, 5), np.int64)}
    with pytest.raises(CalibrationError, match="batch 1 of the list: 'length' is 4 in input 'ids' and 5 in axis 1 of"):
        opened([good, bad], TEXT, cache)
    long = {"ids": np.zeros((1, 129), np.int64), "mask": np.ones((1, 129), np.int64)}
    with pytest.raises(CalibrationError, match=r"axis 1 \(length\): expected 1 to 128, got 129"):
        opened([good, long], TEXT, cache)


def test_pickles_are_refused_and_not_run(tmp_path: Path, cache: Cache) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    objects = np.array([Trap()], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "c.npz", x=objects, allow_pickle=True)
    for name in ("a.npy", "b.npy", "c.npz"):
        with pytest.raises(CalibrationError, match=r"pickle.*can run code.*numpy\.save"):
            opened(tmp_path / name, IMAGE, cache)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "empty", "header"])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, cache: Cache, damage: str, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    np.save(path, images(1)) if kind == "npy" else np.savez(path, x=images(1))
    raw = bytearray(path.read_bytes())
    if damage == "flip" and kind == "npy":
        return  # a flipped element is a number like any other
    if damage == "flip":
        raw[300] ^= 1
    elif damage == "cut":
        raw = raw[:-40]
    elif damage == "header":
        raw[10 if kind == "npy" else 2] ^= 0xFF
    path.write_bytes({"text": b"hello, this is text", "empty": b""}.get(damage, bytes(raw)))
    with pytest.raises(CalibrationError, match=re.escape(str(path))):
        opened(path, IMAGE, cache)


def test_a_file_that_changes_during_the_build_is_noticed(tmp_path: Path, cache: Cache) -> None:
    for index in range(2):
        np.save(tmp_path / f"{index}.npy", images(1, index))
    data = opened(tmp_path, IMAGE, cache)
    np.save(tmp_path / "1.npy", images(2))
    with pytest.raises(CalibrationError, match=r"1\.npy: changed while"):
        list(data.batches())
    (tmp_path / "0.npy").unlink()
    with pytest.raises(CalibrationError, match=r"0\.npy: can't be read"):
        list(data.batches())


def test_folders_that_hold_nothing_or_too_much_are_refused(tmp_path: Path, cache: Cache) -> None:
    with pytest.raises(CalibrationError, match=r"empty calibration set.*nothing"):
        opened(tmp_path, IMAGE, cache)
    (tmp_path / "labels.txt").write_text("0")
    with pytest.raises(CalibrationError, match=r"empty calibration set.*1 other files, e\.g\. labels\.txt"):
        opened(tmp_path, IMAGE, cache)
    np.save(tmp_path / "a.npy", images(1))
    assert "1 files of other kinds were left aside, e.g. labels.txt" in opened(tmp_path, IMAGE, cache).notes[0]
    np.savez(tmp_path / "b.npz", x=images(1))
    with pytest.raises(CalibrationError, match="several kinds of calibration data: 1 npy"):
        opened(tmp_path, IMAGE, cache)


def test_a_path_that_does_not_exist_is_a_usage_error(tmp_path: Path, cache: Cache) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        opened(str(tmp_path / "nothing"), IMAGE, cache)
    with pytest.raises(CalibrationError, match=r"none was given.*--calib"):
        opened(None, IMAGE, cache)
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(CalibrationError, match="not calibration data"):
        opened(tmp_path / "a.csv", IMAGE, cache)


def test_npy_files_of_a_model_with_two_inputs_are_refused(tmp_path: Path, cache: Cache) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 3), np.int64))
    with pytest.raises(CalibrationError, match=r"the model has 2 inputs: ids, mask.*\.npz"):
        opened(tmp_path, TEXT, cache)


def test_an_npz_member_of_any_compression_is_read_alike(tmp_path: Path, cache: Cache) -> None:
    buffer = io.BytesIO()
    np.save(buffer, images(2))
    hashes = set()
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", kind) as archive:
            archive.writestr("x.npy", buffer.getvalue())
        hashes.add(opened(tmp_path / "a.npz", IMAGE, cache).sha256)
    assert len(hashes) == 1


def test_the_hint_for_samples_of_another_size_has_the_input_that_takes_them(tmp_path: Path, cache: Cache) -> None:
    np.save(tmp_path / "0.npy", np.zeros((3, 7, 9), np.float32))
    with pytest.raises(CalibrationError) as caught:
        opened(tmp_path, IMAGE, cache)
    assert "--input 'x:float32[1,3,7,9]'" in str(caught.value.hint)


def test_samples_that_are_equal_are_told(tmp_path: Path, cache: Cache) -> None:
    for index in range(5):
        np.save(tmp_path / f"{index}.npy", np.full((1, 3, 4, 5), float(index // 3), np.float32))
    data = opened(tmp_path, IMAGE, cache)
    assert f"{tmp_path}/*.npy: only 2 of 5 samples differ from each other" in data.notes
