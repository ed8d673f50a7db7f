import io
import re
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from model_zoo import DictInput, DigitsCnn, Masked, Noise
from onnx import TensorProto, helper, numpy_helper

from edgebuild.errors import ModelError, UsageError
from edgebuild.model.load import load
from edgebuild.model.pt2_devices import foreign_devices
from edgebuild.model.request import DynamicRequest, InputRequest, ModelRequest
from edgebuild.model.source import ModelKind

EMPTY_ZIP = b"PK\x05\x06" + bytes(18)

FACTORY = """
import torch
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
def number():
    return 3
def broken():
    raise ValueError("no weights here")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
    def forward(self, x):
        return {"logits": self.fc(x), "pair": (x, x + 1)}
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mynet_under_test.py").write_text(FACTORY)
    yield "mynet_under_test"
    sys.modules.pop("mynet_under_test", None)


def request(factory: str, tmp_path: Path, name: str, path: Path | None = None, **more) -> ModelRequest:
    search = (str(tmp_path),)
    return ModelRequest(path=str(path) if path else None, factory=f"{factory}:{name}", search_path=search, **more)


def test_a_factory_makes_the_model_the_same_every_time(factory: str, tmp_path: Path) -> None:
    one, two = (load(request(factory, tmp_path, "net")) for _ in range(2))
    assert one.kind is ModelKind.MODULE
    assert str(one.inputs[0].type) == "float32[1,3,224,224]"
    np.testing.assert_array_equal(one.reference(one.samples[0])[0][0], two.reference(two.samples[0])[0][0])


def test_nested_outputs_have_names_and_structure(factory: str, tmp_path: Path) -> None:
    source = load(request(factory, tmp_path, "Net"))
    assert source.output_names == ("logits", "pair.0", "pair.1")
    outputs, structure = source.reference(source.samples[0])
    assert structure == {"dict": [["logits", {"tensor": 0}], ["pair", {"tuple": [{"tensor": 1}, {"tensor": 2}]}]]}
    np.testing.assert_allclose(outputs[2], source.samples[0]["x"] + 1)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("number", "expected an nn.Module"),
        ("broken", "no weights here"),
        ("nett", "has no 'nett'"),
        ("torch.nn", "can't be called"),
    ],
)
def test_factories_that_do_not_work_are_explained(name: str, what: str, factory: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=what):
        load(request(factory, tmp_path, name))


@pytest.mark.parametrize(("wanted", "hint"), [("smal", "did you mean small?"), ("zzz", "it has Large, Small, small")])
def test_a_name_that_a_module_lacks_is_answered_with_its_own_names(wanted: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "own_names.py").write_text(
        "from typing import Dict, List\nimport torch\nfrom torch.nn import Linear\nSIZE = 3\n"
        "class Small(torch.nn.Module): ...\nclass Large(Small): ...\ndef small(): ...\ndef _small(): ...\n"
    )
    with pytest.raises(ModelError, match=f"own_names has no '{wanted}'") as caught:
        load(ModelRequest(path=None, factory=f"own_names:{wanted}", search_path=(str(tmp_path),)))
    assert caught.value.hint == hint


def test_factory_text_and_module_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"package\.module:factory"):
        load(ModelRequest(path=None, factory="nothing"))
    with pytest.raises(ModelError, match="'no_such_package_x' was not found"):
        load(ModelRequest(path=None, factory="no_such_package_x:f"))


def test_state_dicts_are_loaded_strictly(factory: str, tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    path = tmp_path / "w.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.fc.{k}": v for k, v in module.state_dict().items()}}, path)
    source = load(request(factory, tmp_path, "Net", path))
    assert source.kind is ModelKind.STATE_DICT
    assert any("'state_dict'" in note for note in source.notes)
    sample = source.samples[0]["x"]
    wanted = sample @ module.weight.detach().numpy().T + module.bias.detach().numpy()
    np.testing.assert_allclose(source.reference(source.samples[0])[0][0], wanted, atol=1e-6)
    with pytest.raises(ModelError, match="--model"):
        load(ModelRequest(path=str(path)))
    with pytest.raises(ModelError, match=r"4 missing .* and 2 unexpected"):
        load(request(factory, tmp_path, "net", path))
    torch.save({"fc.weight": torch.zeros(9, 9), "fc.bias": torch.zeros(9)}, path)
    with pytest.raises(ModelError, match="size mismatch"):
        load(request(factory, tmp_path, "Net", path))


def test_a_pickled_module_needs_trust(tmp_path: Path) -> None:
    torch.save(DigitsCnn().eval(), tmp_path / "m.pt")
    with pytest.raises(ModelError, match="--trust-model"):
        load(ModelRequest(path=str(tmp_path / "m.pt")))
    source = load(ModelRequest(path=str(tmp_path / "m.pt"), trust=True))
    assert source.kind is ModelKind.PICKLED_MODULE
    assert str(source.inputs[0]) == "x:float32[1,1,8,8]"


def test_objects_from_python_are_taken_and_left_unchanged() -> None:
    module = DictInput().train()
    source = load(ModelRequest(path=None), module=module)
    assert [str(spec) for spec in source.inputs] == ["batch.image:float32[1,4]", "batch.meta:float32[1,6]"]
    assert module.training
    noise = load(ModelRequest(path=None), module=Noise())
    assert any("random" in note for note in noise.notes)
    inputs = tuple(InputRequest(name=None, dtype="float32", shape=s) for s in ((2, 3), (3, 4)))
    function = load(ModelRequest(path=None, inputs=inputs), module=lambda x, y: x @ y)
    sample = function.samples[0]
    np.testing.assert_allclose(function.reference(sample)[0][0], sample["x"] @ sample["y"], atol=1e-5)
    with pytest.raises(UsageError, match="a model is expected"):
        load(ModelRequest(path=None), module=3)


def test_pt2_keeps_names_nesting_and_dynamic_sizes(tmp_path: Path) -> None:
    batch = torch.export.Dim("n", min=1, max=64)
    path = tmp_path / "m.pt2"
    program = torch.export.export(DigitsCnn().eval(), (torch.zeros(4, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    source = load(ModelRequest(path=str(path)))
    assert str(source.inputs[0]) == "x:float32[batch,1,8,8]"
    assert (source.symbols["batch"].minimum, source.symbols["batch"].maximum) == (1, 64)
    assert len({sample["x"].shape[0] for sample in source.samples}) >= 2
    renamed = load(ModelRequest(path=str(path), dynamic=(DynamicRequest(input="x", axis=0, symbol="b", maximum=8),)))
    assert str(renamed.inputs[0]) == "x:float32[b,1,8,8]"
    assert renamed.symbols["b"].maximum == 8
    with pytest.raises(UsageError, match="the file says"):
        load(ModelRequest(path=str(path), inputs=(InputRequest(name="x", dtype="float32", shape=(1, 1, 9, 9)),)))


class OnDevice(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)
        self.register_buffer("scale", torch.tensor([2.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.scale + torch.arange(2, device="cpu").to(torch.float32)


def as_if_saved_on(device: str, data: bytes) -> bytes:
    """What PyTorch would have written on a machine with that device: the archive with other names of devices."""
    kind, _, index = device.partition(":")
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".json"):
                content = re.sub(
                    rb'"type": ?"cpu", "index": null', f'"type": "{kind}", "index": {index}'.encode(), content
                )
            if name.endswith(".pt"):
                content = as_if_saved_on(device, content)
            if name.endswith(".pkl"):  # a pickle's text is its length and its bytes
                content = content.replace(
                    b"X\x03\x00\x00\x00cpu", b"X" + struct.pack("<I", len(device)) + device.encode()
                )
            new.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize("device", ["cuda:0", "cuda:3", "mps:0"])
def test_a_program_saved_on_another_device_is_moved_to_the_cpu_and_computes_the_same(
    device: str, tmp_path: Path
) -> None:
    module = OnDevice().eval()
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.randn(4, 3),)), buffer)
    path = tmp_path / "m.pt2"
    path.write_bytes(as_if_saved_on(device, buffer.getvalue()))
    assert foreign_devices(path) == (device,)
    source = load(ModelRequest(path=str(path)))
    assert f"the program was moved from {device} to the CPU" in source.notes
    x = source.samples[0]["x"]
    w, b = (t.detach().numpy() for t in (module.fc.weight, module.fc.bias))
    np.testing.assert_allclose(source.reference({"x": x})[0][0], (x @ w.T + b) * [2, 3] + [0, 1], rtol=1e-5)


def test_what_is_no_program_names_no_device(tmp_path: Path) -> None:
    for name, data in (
        ("empty", b""),
        ("text", b"PK but no archive"),
        ("cut", as_if_saved_on("cuda:0", EMPTY_ZIP)[:10]),
    ):
        (tmp_path / name).write_bytes(data)
        assert foreign_devices(tmp_path / name) == ()
    assert foreign_devices(tmp_path / "missing") == ()


def test_pt2_integers_stay_in_range(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    args = (torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.long))
    torch.export.save(torch.export.export(Masked().eval(), args), path)
    source = load(ModelRequest(path=str(path)))
    assert max(int(sample["ids"].max()) for sample in source.samples) < 50


def lookup(folder: Path, **external) -> Path:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in (("w", (20, 6)), ("m", (6, 3)))
    ]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "ids"], ["e"]), helper.make_node("MatMul", ["e", "m"], ["y"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = folder / "m.onnx"
    onnx.save(model, path, **external)
    return path


def test_onnx_unknown_sizes_become_symbols_and_integers_stay_in_range(tmp_path: Path) -> None:
    external = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    for more in ({}, external):
        source = load(ModelRequest(path=str(lookup(tmp_path, **more))))
        assert source.module is None
        assert str(source.inputs[0]) == "ids:int64[N,ids_1]"
        assert set(source.symbols) == {"N", "ids_1"}
        assert max(int(sample["ids"].max()) for sample in source.samples) < 20
        assert len({sample["ids"].shape for sample in source.samples}) >= 3
    fixed = load(
        ModelRequest(path=str(lookup(tmp_path)), inputs=(InputRequest(name=None, dtype="int64", shape=(2, 5)),))
    )
    assert str(fixed.inputs[0]) == "ids:int64[2,5]"


@pytest.mark.parametrize("location", ["../m.data", "/etc/hostname", "sub/../../m.data", "missing.data", "link.data"])
def test_onnx_external_data_must_lie_in_the_folder(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = lookup(folder, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").write_bytes((folder / "m.data").read_bytes())
    (folder / "link.data").symlink_to(tmp_path / "m.data")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"outside the model's folder|is missing"):
        load(ModelRequest(path=str(path)))


def test_onnx_short_external_data_and_old_opsets_are_errors(tmp_path: Path) -> None:
    path = lookup(tmp_path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").write_bytes(b"1234")
    with pytest.raises(ModelError, match="has 4 bytes"):
        load(ModelRequest(path=str(path)))
    path = lookup(tmp_path)
    model = onnx.load(path)
    model.opset_import[0].version = 6
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="opset 6, expected 7"):
        load(ModelRequest(path=str(path)))
