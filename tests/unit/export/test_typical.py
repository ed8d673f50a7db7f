"""Samples of calibration data in place of random ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgebuild.errors import CalibrationError
from edgebuild.export.typical import with_data
from edgebuild.model.load import load
from edgebuild.model.request import DataRequest, DynamicRequest, InputRequest, ModelRequest
from edgebuild.model.source import ModelSource


class Scorer(nn.Module):
    """Any batch and length; refuses what holds a negative first value."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert float(x.flatten()[0]) >= 0, "negative"
        return self.head(x.mean(1))


def source(*, dynamic: bool = False) -> ModelSource:
    request = ModelRequest(
        path="scorer.pt",
        inputs=(InputRequest(name="x", dtype="float32", shape=(1, 4, 3)),),
        dynamic=(DynamicRequest(input="x", axis=1, symbol="n", best=4, maximum=16),) if dynamic else (),
    )

    class Positive(Scorer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.mean(1))

    return load(request, module=Positive().eval() if dynamic else torch.jit.script(Scorer().eval()))


def folder(path: Path, count: int, *shape: int, seed: int = 1, low: float = 7.0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    path.mkdir(exist_ok=True)
    arrays = [rng.uniform(low, low + 1, shape).astype(np.float32) for _ in range(count)]
    for index, array in enumerate(arrays):
        np.savez(path / f"{len(list(path.iterdir())):03d}-{index}.npz", x=array)
    return arrays


def test_three_files_from_all_over_a_folder_take_the_place_of_random_numbers(tmp_path: Path) -> None:
    arrays = folder(tmp_path / "calib", 9, 1, 4, 3)
    made = with_data(source(), DataRequest(path=str(tmp_path / "calib")))
    assert len(made.samples) == 3
    for sample, index in zip(made.samples, (0, 3, 6), strict=True):
        np.testing.assert_array_equal(sample["x"], arrays[index])


def test_rows_of_one_stacked_file_become_samples_with_a_batch_axis(tmp_path: Path) -> None:
    stack = np.random.default_rng(3).uniform(7, 8, (10, 4, 3)).astype(np.float32)
    np.save(tmp_path / "stack.npy", stack)
    made = with_data(source(), DataRequest(path=str(tmp_path / "stack.npy")))
    assert [sample["x"].shape for sample in made.samples] == [(1, 4, 3)] * 3
    for sample, index in zip(made.samples, (0, 3, 6), strict=True):
        np.testing.assert_array_equal(sample["x"][0], stack[index])


def test_two_samples_are_enough(tmp_path: Path) -> None:
    arrays = folder(tmp_path / "calib", 2, 1, 4, 3)
    made = with_data(source(), DataRequest(path=str(tmp_path / "calib")))
    for sample, array in zip(made.samples, arrays, strict=True):
        np.testing.assert_array_equal(sample["x"], array)


def test_where_there_is_one_sample_random_ones_fill_up(tmp_path: Path) -> None:
    (array,) = folder(tmp_path / "calib", 1, 1, 4, 3)
    before = source()
    made = with_data(before, DataRequest(path=str(tmp_path / "calib")))
    np.testing.assert_array_equal(made.samples[0]["x"], array)
    assert len(made.samples) == 3
    assert made.samples[1] is before.samples[0]


def test_sizes_that_the_data_have_not_stay_covered_and_the_best_comes_first(tmp_path: Path) -> None:
    folder(tmp_path / "calib", 4, 1, 9, 3)
    before = source(dynamic=True)
    made = with_data(before, DataRequest(path=str(tmp_path / "calib")))
    sizes = [sample["x"].shape[1] for sample in made.samples]
    assert sizes[0] == 4
    assert sizes.count(9) == 3
    assert {sample["x"].shape[1] for sample in before.samples} <= set(sizes)


def test_sizes_that_the_data_have_not_are_cut_and_repeated_data(tmp_path: Path) -> None:
    folder(tmp_path / "calib", 4, 1, 9, 3)
    made = with_data(source(dynamic=True), DataRequest(path=str(tmp_path / "calib")))
    for sample in made.samples:
        assert sample["x"].min() >= 7  # random numbers have mean 0: one such golden widens the tolerance of all
        assert sample["x"].flags.c_contiguous
    short = [sample["x"] for sample in made.samples if sample["x"].shape[1] == 4]
    long = [sample["x"] for sample in made.samples if sample["x"].shape[1] == 9]
    assert len({array.tobytes() for array in short}) == len(short)
    assert {array.tobytes() for array in short} <= {array[:, :4].tobytes() for array in long}


def test_larger_batches_hold_rows_of_different_samples(tmp_path: Path) -> None:
    arrays = folder(tmp_path / "calib", 3, 1, 4, 3)
    request = ModelRequest(
        path="scorer.pt",
        inputs=(InputRequest(name="x", dtype="float32", shape=(1, 4, 3)),),
        dynamic=(DynamicRequest(input="x", axis=0, symbol="n", best=1, maximum=16),),
    )

    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(1)

    made = with_data(load(request, module=Mean()), DataRequest(path=str(tmp_path / "calib")))
    (double,) = (s["x"] for s in made.samples if s["x"].shape[0] == 2)
    rows = [next(index for index, array in enumerate(arrays) if np.array_equal(array[0], row)) for row in double]
    assert len(set(rows)) == 2


def test_what_the_model_refuses_when_it_is_cut_stays_random(tmp_path: Path) -> None:
    folder(tmp_path / "calib", 4, 1, 9, 3)

    class Long(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1] == 9 or float(x.max()) < 6, "cut"
            return x.mean(1)

    request = ModelRequest(
        path="long.pt",
        inputs=(InputRequest(name="x", dtype="float32", shape=(1, 4, 3)),),
        dynamic=(DynamicRequest(input="x", axis=1, symbol="n", best=4, maximum=16),),
    )
    before = load(request, module=torch.jit.script(Long()))
    made = with_data(before, DataRequest(path=str(tmp_path / "calib")))
    assert made.samples[0] is before.samples[0]


def test_scalars_stay_scalars(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
            return x * factor

    request = ModelRequest(
        path="scaled.pt",
        inputs=(
            InputRequest(name="x", dtype="float32", shape=(2, 3)),
            InputRequest(name="factor", dtype="float32", shape=()),
        ),
    )
    for index in range(3):
        arrays = {"x": np.ones((2, 3), np.float32), "factor": np.array(index, np.float32)}
        np.savez(tmp_path / f"{index}.npz", allow_pickle=False, **arrays)
    made = with_data(load(request, module=Scaled()), DataRequest(path=str(tmp_path)))
    assert [sample["factor"].shape for sample in made.samples] == [(), (), ()]
    assert [float(sample["factor"]) for sample in made.samples] == [0.0, 1.0, 2.0]


def test_data_that_the_model_refuses_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder(tmp_path / "calib", 2, 1, 4, 3, low=-5.0)
    with pytest.raises(CalibrationError, match=r"the model refuses .*000-0\.npz.*negative"):
        with_data(source(), DataRequest(path=str(tmp_path / "calib")))


def test_data_of_other_sizes_are_an_error_that_names_both(tmp_path: Path) -> None:
    folder(tmp_path / "calib", 2, 1, 5, 3)
    with pytest.raises(CalibrationError, match=r"expected float32\[1,4,3\], got float32\[1,5,3\]"):
        with_data(source(), DataRequest(path=str(tmp_path / "calib")))


def test_images_are_preprocessed(tmp_path: Path) -> None:
    from PIL import Image

    request = ModelRequest(path="net.pt", inputs=(InputRequest(name="x", dtype="float32", shape=(1, 3, 8, 8)),))

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    picture = np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(picture).save(tmp_path / "images" / "one.png")
    data = DataRequest(path=str(tmp_path / "images"), preprocess="mean=0.5,std=0.25")
    made = with_data(load(request, module=Net()), data)
    expected = (picture.astype(np.float64).transpose(2, 0, 1)[np.newaxis] / 255 - 0.5) / 0.25
    np.testing.assert_allclose(made.samples[0]["x"], expected, atol=1e-6)
