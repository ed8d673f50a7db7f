"""What is said against calibration data before the model is exported."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgebuild.data.survey import as_calibration, sizes_of, survey
from edgebuild.errors import CalibrationError, DeadlineError, ModelError, UsageError
from edgebuild.model.request import InputRequest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def folder(tmp_path: Path, count: int = 3, **arrays: object) -> Path:
    path = tmp_path / "calib"
    path.mkdir(exist_ok=True)
    for index in range(count):
        np.savez(path / f"{index}.npz", **(arrays or {"x": np.ones((1, 3), np.float32)}))  # type: ignore[arg-type]
    return path


def test_sound_data_of_every_kind_pass(tmp_path: Path) -> None:
    survey(None)
    survey("random")
    survey([{"x": np.ones(3)}])
    path = folder(tmp_path)
    survey(path)
    survey(str(path / "1.npz"))
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "a.npy", np.ones((2, 3)))
    survey(tmp_path / "npy")
    for name in ("a", "b"):
        (tmp_path / "both" / name).mkdir(parents=True)
        np.save(tmp_path / "both" / name / "0.npy", np.ones(2))
    survey(tmp_path / "both")
    (tmp_path / "mydata.py").write_text("def batches():\n    raise SystemExit('it must not be called')\n")
    survey("mydata:batches", search_path=[str(tmp_path)])
    assert not (tmp_path / "cache" / "edgebuild" / "staging").exists() or not any(
        (tmp_path / "cache" / "edgebuild" / "staging").iterdir()
    )


def test_inputs_that_some_files_leave_out_may_be_optional(tmp_path: Path) -> None:
    path = folder(tmp_path, x=np.ones((1, 3), np.float32), mask=np.ones(3, np.float32))
    np.savez(path / "1.npz", x=np.ones((1, 3), np.float32))
    survey(path)


def test_of_a_large_file_a_few_rows_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebuild.data import arrays

    read: list[int] = []
    real = arrays.StoredArray._read

    def counted(self: arrays.StoredArray, first: int, shape: tuple[int, ...]) -> object:
        read.append(int(np.prod(shape)))
        return real(self, first, shape)

    monkeypatch.setattr(arrays.StoredArray, "_read", counted)
    big = np.ones((100_000, 20), np.float32)
    np.savez(tmp_path / "all.npz", x=big)
    survey(tmp_path / "all.npz")
    assert sum(read) < 1000


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--calib nothere: no such file or folder"):
        survey("nothere")
    with pytest.raises(CalibrationError, match="--calib nomodule_x:f: module 'nomodule_x' was not found"):
        survey("nomodule_x:f", search_path=[str(tmp_path)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationError, match="an empty calibration set"):
        survey(tmp_path / "empty")


@pytest.mark.parametrize("number", [0, 2])
def test_a_file_that_can_not_be_read_is_named_wherever_it_stands(tmp_path: Path, number: int) -> None:
    path = folder(tmp_path)
    broken = path / f"{number}.npz"
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(CalibrationError, match=f"{number}.npz: not a sound .npz file"):
        survey(path)
    broken.unlink()
    np.save(path / "a.npy", np.ones(2))
    with pytest.raises(CalibrationError, match="several kinds of calibration data"):
        survey(path)


def test_files_with_other_names_than_the_first_are_said(tmp_path: Path) -> None:
    path = folder(tmp_path)
    np.savez(path / "2.npz", y=np.ones(3))
    with pytest.raises(CalibrationError, match=r"2.npz: holds 'y', expected 'x' as in 0.npz"):
        survey(path)


def test_nan_objects_and_nothing_in_the_first_file_are_said(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"0.npz: input 'x': NaN at \[1\]"):
        survey(folder(tmp_path, x=np.array([0, np.nan], np.float32)))
    with pytest.raises(CalibrationError, match=r"0.npz: 'x' is empty, of shape \(0, 3\)"):
        survey(folder(tmp_path, x=np.zeros((0, 3))))
    with pytest.raises(CalibrationError, match="pickled Python objects"):
        survey(folder(tmp_path, x=np.array([{}], object)))
    with zipfile.ZipFile(tmp_path / "calib" / "0.npz", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(CalibrationError, match="holds no array"):
        survey(tmp_path / "calib")


def test_images_need_a_recipe_and_the_first_must_decode(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.mkdir()
    (path / "a.png").write_bytes(b"no image")
    with pytest.raises(
        CalibrationError, match=r"holds images, e\.g\. a\.png, and how inputs are made of them was not said"
    ):
        survey(path)
    pytest.importorskip("PIL", reason="Pillow is not installed")
    with pytest.raises(CalibrationError, match=r"a.png: not an image that Pillow can decode"):
        survey(path, preprocess="imagenet")


def test_an_export_that_fails_on_the_calibration_sample_speaks_of_calibration() -> None:
    sample = Path("calib/0.npz")
    error = as_calibration(
        ModelError("the model refuses x:uint8[1,8]: RuntimeError: no", hint="check --input; --sample gives values"),
        "calib",
        sample,
    )
    assert isinstance(error, CalibrationError)
    assert error.message == "--calib calib: calib/0.npz: the model refuses x:uint8[1,8]: RuntimeError: no"
    assert "--sample" not in str(error)
    named = as_calibration(UsageError("the model has no tensor input 'label'; its inputs are 'x'"), "calib", sample)
    assert "leave out what is none, e.g. labels" in str(named)
    pickled = as_calibration(
        UsageError("--sample calib/0.npz: not an .npz file of plain arrays: x", hint="write it so"), "calib", sample
    )
    assert str(pickled) == "--calib calib: calib/0.npz: not an .npz file of plain arrays: x (write it so)"
    other = DeadlineError("the deadline passed")
    assert as_calibration(other, "calib", sample) is other
    said = CalibrationError("--calib calib: the model refuses calib/0.npz: no")
    assert as_calibration(said, "calib", sample) is said


def test_arrays_of_bytes_that_a_model_refuses_may_be_images(tmp_path: Path) -> None:
    sample = tmp_path / "0.npz"
    np.savez(sample, x=np.zeros((1, 3, 8, 8), np.uint8))
    refused = ModelError("the model refuses x:uint8[1,3,8,8]: no", hint="check --input")
    assert "--preprocess imagenet" in str(as_calibration(refused, tmp_path, sample))
    np.savez(sample, x=np.zeros((1, 3, 8, 8), np.float32))
    assert "--preprocess" not in str(as_calibration(refused, tmp_path, sample))


def test_one_sample_of_a_stack_has_the_models_sizes(tmp_path: Path) -> None:
    ids, image = np.ones((5, 7), np.int64), np.ones((5, 1, 8, 8))
    np.savez(tmp_path / "stack.npz", ids=ids, image=image)
    assert sizes_of(tmp_path / "stack.npz", stacked=True) == (
        InputRequest(name="ids", dtype="int64", shape=(1, 7)),
        InputRequest(name="image", dtype="float32", shape=(1, 1, 8, 8)),
    )
    np.save(tmp_path / "stack.npy", image.astype(np.float16))
    assert sizes_of(tmp_path / "stack.npy", stacked=True) == (
        InputRequest(name=None, dtype="float16", shape=(1, 1, 8, 8)),
    )


def test_a_set_of_inputs_is_taken_as_it_is_but_for_numpys_own_float64(tmp_path: Path) -> None:
    ids, image = np.ones((2, 7), np.int64), np.ones((2, 1, 8, 8))
    np.savez(tmp_path / "wide.npz", ids=ids, image=image)
    assert sizes_of(tmp_path / "wide.npz", stacked=False) == (
        InputRequest(name="ids", dtype="int64", shape=(2, 7)),
        InputRequest(name="image", dtype="float32", shape=(2, 1, 8, 8)),
    )
    np.savez(tmp_path / "sound.npz", ids=ids, image=image.astype(np.float32))
    assert sizes_of(tmp_path / "sound.npz", stacked=False) == ()
    np.savez(tmp_path / "scalar.npz", x=np.float32(1), y=image.astype(np.float32))
    assert sizes_of(tmp_path / "scalar.npz", stacked=True) == ()  # that is no stack
