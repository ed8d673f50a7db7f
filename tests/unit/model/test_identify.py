import io
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgebuild.errors import EdgebuildError, ModelError, UsageError
from edgebuild.model.identify import FileKind, identify
from edgebuild.model.load import load
from edgebuild.model.request import ModelRequest


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (self.path, "w"))


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return buffer.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0\0\0\0"


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    return buffer.getvalue()


WRONG = {
    "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(90)),
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "HTML page": b"<!DOCTYPE html>\n<html><body>404</body></html>",
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "text file": b"hello world, this is not a model\n",
    "JSON": b'{"a": 1}',
    "Python source": b"import torch\n\ndef f():\n    pass\n",
    "TensorFlow Lite": b"\x1c\0\0\0TFL3" + bytes(100),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "Keras": zipped(**{"config.json": b"{}", "model.weights.h5": b"x"}),
    "GGUF": b"GGUF\x03\0\0\0" + bytes(50),
    "TensorRT plan": b"ftrt" + bytes(100),
    "edgebuild bundle": tarred("m.x86-64/manifest.json", "m.x86-64/manifest.sha256"),
    "safetensors": safetensors(),
    "arrays": npz(),
    "zeros": bytes(500),
    "gzip": b"\x1f\x8b\x08\0" + bytes(50),
    "ELF": b"\x7fELF\x02\x01\x01" + bytes(60),
    "not known": bytes([0x9B, 0xFF, 0x13, 0x77, 0xE1, 0x02]) * 40,
    "zip archive that holds": zipped(**{"folder/model.pt": b"x"}),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_wrong_kinds_are_named_whatever_the_suffix(what: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(WRONG[what])
    with pytest.raises(ModelError) as caught:
        identify(path)
    assert what in str(caught.value)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_missing_files_folders_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        identify(tmp_path / "no.pt")
    with pytest.raises(UsageError, match="a folder"):
        identify(tmp_path)
    (tmp_path / "e.pt").touch()
    with pytest.raises(ModelError, match="empty"):
        identify(tmp_path / "e.pt")


def made(tmp_path: Path) -> dict[FileKind, Path]:
    linear = torch.nn.Linear(3, 2).eval()
    paths = {kind: tmp_path / f"{kind.name}.bin" for kind in FileKind}
    torch.jit.trace(linear, torch.zeros(1, 3)).save(str(paths[FileKind.TORCHSCRIPT]))
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(linear, (torch.zeros(1, 3),)), buffer)
    paths[FileKind.TORCH_EXPORT].write_bytes(buffer.getvalue())
    torch.save(linear.state_dict(), paths[FileKind.STATE_DICT])
    torch.save(linear, paths[FileKind.PICKLE])
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]), paths[FileKind.ONNX])
    return paths


def test_every_kind_is_recognised_by_content(tmp_path: Path) -> None:
    for kind, path in made(tmp_path).items():
        assert identify(path).kind is kind


def test_truncated_files_are_errors_and_never_loaded(tmp_path: Path) -> None:
    for path in made(tmp_path).values():
        data = path.read_bytes()
        for fraction in (0.3, 0.6, 0.95):
            cut = tmp_path / "cut.bin"
            cut.write_bytes(data[: int(len(data) * fraction)])
            with pytest.raises(EdgebuildError) as caught:
                load(ModelRequest(path=str(cut), trust=True))
            assert caught.value.exit_code == 9


def test_old_format_files_are_recognised(tmp_path: Path) -> None:
    linear = torch.nn.Linear(3, 2)
    torch.save(linear.state_dict(), tmp_path / "s", _use_new_zipfile_serialization=False)
    torch.save(linear, tmp_path / "m", _use_new_zipfile_serialization=False)
    assert identify(tmp_path / "s").kind is FileKind.STATE_DICT
    assert identify(tmp_path / "m").kind is FileKind.PICKLE


@pytest.mark.parametrize("form", ["plain", "zip", "legacy", "in a dict"])
@pytest.mark.parametrize("factory", [None, "torch.nn:Identity"])
def test_malicious_pickles_do_not_run(form: str, factory: str | None, tmp_path: Path) -> None:
    evidence, path = tmp_path / "evidence", tmp_path / "m.pt"
    payload = Payload(str(evidence))
    if form == "plain":
        path.write_bytes(pickle.dumps(payload))
    elif form == "in a dict":
        torch.save({"w": torch.zeros(3), "x": payload}, path)
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ModelError, match="--trust-model"):
        load(ModelRequest(path=str(path), factory=factory))
    assert not evidence.exists()


def test_a_malicious_pickle_inside_a_pt2_does_not_run(tmp_path: Path) -> None:
    evidence, path = tmp_path / "evidence", tmp_path / "m.pt2"
    source = made(tmp_path)[FileKind.TORCH_EXPORT]
    buffer = io.BytesIO()
    torch.save(Payload(str(evidence)), buffer)
    replaced = 0
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if data[:2] == b"PK":
                data, replaced = buffer.getvalue(), replaced + 1
            new.writestr(info.filename, data)
    assert replaced
    with pytest.raises(ModelError):
        load(ModelRequest(path=str(path)))
    assert not evidence.exists()


def test_identification_imports_neither_torch_nor_onnx(tmp_path: Path) -> None:
    paths = [str(path) for path in made(tmp_path).values()]
    code = (
        "import sys; from pathlib import Path; from edgebuild.model.identify import identify; import edgebuild.model.spec\n"
        "for p in sys.argv[1:]: identify(Path(p))\n"
        "assert not {'torch', 'onnx', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *paths], check=True)
