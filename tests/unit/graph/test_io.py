import random

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_tools import model, run, to_bytes

from edgebuild.errors import ModelError, ResourceError
from edgebuild.graph.io import load_model, save_model

BODY = "g (float[2,3] x) => (float[2,5] y) { a = MatMul(x, w) y = Add(a, b) }"
RNG = np.random.default_rng(0)
WEIGHTS = {"w": RNG.normal(size=(3, 5)).astype(np.float32), "b": RNG.normal(size=5).astype(np.float32)}
FEEDS = {"x": RNG.normal(size=(2, 3)).astype(np.float32)}


def external_model(folder, location, *, data=None, length=60, offset=0, name="model.onnx"):
    proto = ir.to_proto(model(BODY, WEIGHTS))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    (folder / name).write_bytes(proto.SerializeToString())
    if data is not None:
        (folder / data).write_bytes(WEIGHTS["w"].tobytes())
    return folder / name


@pytest.mark.parametrize("threshold", [1, 21, 1024])
def test_round_trip_keeps_results(tmp_path, threshold):
    built = model(BODY, WEIGHTS)
    before = to_bytes(built)
    files = save_model(built, tmp_path / "m.onnx", external_threshold=threshold)
    assert [file.name for file in files] == (["m.onnx"] if threshold == 1024 else ["m.onnx", "m.onnx.data"])
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(file.name for file in files)
    assert to_bytes(built) == before, "saving changed the model"
    loaded = load_model(tmp_path / "m.onnx")
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor) == (threshold != 1024)
    files[0].rename(tmp_path / "x.onnx")
    in_memory = ir.to_proto(loaded)
    onnx.load_external_data_for_model(in_memory, str(tmp_path))
    np.testing.assert_array_equal(run(in_memory.SerializeToString(), FEEDS)[0], run(before, FEEDS)[0])


def test_equal_models_give_equal_bytes_in_any_folder(tmp_path):
    contents = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files = save_model(model(BODY, WEIGHTS), tmp_path / folder / "m.onnx", external_threshold=1)
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]


def test_external_tensors_are_aligned(tmp_path):
    save_model(model(BODY, WEIGHTS), tmp_path / "m.onnx", external_threshold=1)
    offsets = [v.const_value.offset for v in load_model(tmp_path / "m.onnx").graph.initializers.values()]
    assert offsets == [0, 4096]


def test_a_model_may_be_saved_over_its_own_files(tmp_path):
    path = tmp_path / "m.onnx"
    save_model(model(BODY, WEIGHTS), path, external_threshold=1)
    loaded = load_model(path)
    before = [file.read_bytes() for file in sorted(tmp_path.iterdir())]
    save_model(loaded, path, external_threshold=1)
    assert [file.read_bytes() for file in sorted(tmp_path.iterdir())] == before


def test_small_external_tensors_come_back_into_the_message(tmp_path):
    path = external_model(tmp_path, "w.bin", data="w.bin")
    (tmp_path / "out").mkdir()
    assert len(save_model(load_model(path), tmp_path / "out" / "m.onnx")) == 1
    np.testing.assert_array_equal(
        run((tmp_path / "out" / "m.onnx").read_bytes(), FEEDS)[0], run(model(BODY, WEIGHTS), FEEDS)[0]
    )


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "sub/../../w.bin", "", "a\0b"])
def test_external_data_outside_the_folder_is_refused(tmp_path, location):
    (tmp_path / "in").mkdir()
    path = external_model(tmp_path / "in", location)
    (tmp_path / "w.bin").write_bytes(WEIGHTS["w"].tobytes())
    with pytest.raises(ModelError, match=r"inside the model's folder|malformed"):
        load_model(path)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_external_data_behind_a_link_is_refused(tmp_path, kind):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "w.bin").write_bytes(WEIGHTS["w"].tobytes())
    if kind == "file":
        (tmp_path / "w.bin").symlink_to(tmp_path / "real" / "w.bin")
        path = external_model(tmp_path, "w.bin")
    else:
        (tmp_path / "link").symlink_to(tmp_path / "real")
        path = external_model(tmp_path, "link/w.bin")
    with pytest.raises(ModelError, match="symbolic link"):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, "No such file"),
        ({"data": "w.bin", "offset": 8}, "expected 60 bytes at 8, the file has 60"),
        ({"data": "w.bin", "length": 40}, "expected 60 bytes"),
    ],
)
def test_external_data_that_does_not_fit_is_refused(tmp_path, change, message):
    with pytest.raises(ModelError, match=message):
        load_model(external_model(tmp_path, "w.bin", **change))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 100, b"not a model at all", b"PK\x03\x04" + bytes(200), random.Random(7).randbytes(64) + b"\xff"],
)
def test_what_is_no_model_is_refused(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"m\.onnx"):
        load_model(tmp_path / "m.onnx")


def test_every_truncation_is_refused_or_still_a_model(tmp_path):
    data = to_bytes(model(BODY, WEIGHTS))
    path = tmp_path / "m.onnx"
    refused = 0
    for size in range(len(data)):
        path.write_bytes(data[:size])
        try:
            load_model(path)
        except ModelError:
            refused += 1
    assert refused > len(data) * 0.9


def test_a_missing_file_is_refused_and_a_missing_folder_too(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        load_model(tmp_path / "m.onnx")
    with pytest.raises(ResourceError, match="can't be written"):
        save_model(model(BODY, WEIGHTS), tmp_path / "none" / "m.onnx")
