"""Which input sets of calibration data become goldens: from the whole length of the data, and small."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_tools import signature

from edgebuild.data.first import first_batches
from edgebuild.model.signature import Signature

EIGHT = signature(("x", "float32", (8, 3)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picked(folder: Path, sig: Signature, files: int, rows: int) -> list[np.ndarray[Any, Any]]:
    """Of files with so many rows each, whose elements are the row's number over all files."""
    folder.mkdir()
    numbers = np.arange(files * rows, dtype=np.float32).reshape(files, rows, 1) * np.ones(3, np.float32)
    for index, array in enumerate(numbers):
        np.savez(folder / f"{index:03d}.npz", x=array)
    return [arrays["x"] for _, arrays in first_batches(folder, sig)]


def firsts(batches: list[np.ndarray[Any, Any]]) -> list[float]:
    assert all(batch.shape == (8, 3) for batch in batches)
    assert all((np.diff(batch[:, 0]) == 1).all() for batch in batches)
    return [float(batch[0, 0]) for batch in batches]


@pytest.mark.parametrize(
    ("files", "rows", "expected"),
    [
        (20, 8, [0, 6 * 8, 13 * 8]),  # each file is a batch
        (100, 1, [0, 33, 66]),  # eight make one
        (10, 100, [0, 3 * 100, 6 * 100]),  # each holds many
        (9, 4, [0, 3 * 4, 6 * 4]),  # two make one
        (20, 1, [0, 8]),  # too few for three apart
        (3, 8, [0, 8, 16]),
        (2, 8, [0, 8]),
        (1, 80, [0, 24, 48]),
    ],
)
def test_batches_come_from_the_whole_length_of_the_data(
    tmp_path: Path, files: int, rows: int, expected: list[float]
) -> None:
    assert firsts(picked(tmp_path / "calib", EIGHT, files, rows)) == expected


@pytest.mark.parametrize("files", [1, 2, 3, 7])
def test_large_batches_of_a_dynamic_axis_are_cut_to_the_best_size(tmp_path: Path, files: int) -> None:
    sig = signature(("x", "float32", ("batch", 3)), symbols={"batch": (1, 2, None)})
    batches = picked(tmp_path / "calib", sig, files, 500)
    assert [batch.shape for batch in batches] == [(2, 3)] * (3 if files == 1 else min(files, 3))
    assert [float(batch[0, 0]) % 500 for batch in batches if files > 1] == [0.0] * (min(files, 3) if files > 1 else 0)


def test_batches_of_a_dynamic_axis_below_the_best_size_stay(tmp_path: Path) -> None:
    sig = signature(("x", "float32", ("batch", 3)), symbols={"batch": (1, 16, None)})
    assert [batch.shape for batch in picked(tmp_path / "calib", sig, 6, 5)] == [(5, 3)] * 3
