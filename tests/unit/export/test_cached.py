"""The export stage's cache: what has no hash of its own is kept by what came out of it."""

import os
from itertools import count
from pathlib import Path

import pytest

from edgebuild.cache import Cache
from edgebuild.errors import ModelError
from edgebuild.export.cached import export_cached
from edgebuild.export.result import ExportedModel
from edgebuild.model.request import DataRequest, ModelRequest
from edgebuild.model.signature import Signature, TensorType, ValueSpec
from edgebuild.report import SilentProgress

FACTORY = ModelRequest(path=None, factory="zoo:make", search_path=("/somewhere",))


def exported(folder: Path, latency_ms: float, weights: bytes) -> ExportedModel:
    value = ValueSpec(name="x", type=TensorType(dtype="float32", shape=(1, 3)))
    (folder / "model.onnx").write_bytes(weights)
    (folder / "samples").mkdir()
    (folder / "samples" / "0.npz").write_bytes(b"sample")
    model = ExportedModel(
        directory=folder,
        name="zoo",
        kind="factory",
        signature=Signature(inputs=(value,), outputs=(value,), symbols={}, output_structure={"tensor": 0}),
        engine_inputs=("x",),
        engine_outputs=("y",),
        exporter="torch.export",
        opset=20,
        attempts=(),
        parity=(),
        tolerances={"x": (1e-6, 1e-6)},
        sample_count=1,
        assumptions=(),
        notes=(),
        original_latency_ms=latency_ms,
        producer={},
    )
    model.write()
    return model


def entries(cache: Cache) -> list[str]:
    return sorted(path.name for path in (cache.root / "export").iterdir() if not path.name.startswith("."))


def test_a_factory_is_exported_every_time_and_leaves_one_entry_for_each_result(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    calls = count(1)

    def build(weights: bytes) -> ExportedModel:
        model, hit = export_cached(
            FACTORY, cache, SilentProgress(), export=lambda folder: exported(folder, float(next(calls)), weights)
        )
        assert not hit
        return model

    first, again, other = build(b"a"), build(b"a"), build(b"b")
    assert next(calls) == 4
    assert [m.original_latency_ms for m in (first, again, other)] == [1.0, 2.0, 3.0]  # each build's own
    assert first.directory == again.directory != other.directory
    assert entries(cache) == sorted({first.directory.name, other.directory.name})
    assert other.onnx.read_bytes() == b"b"
    assert (other.directory / "samples" / "0.npz").read_bytes() == b"sample"
    assert list((cache.root / "staging").iterdir()) == []


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")

    def fail(folder: Path) -> ExportedModel:
        (folder / "model.onnx").write_bytes(b"half")
        msg = "no such operator"
        raise ModelError(msg)

    with pytest.raises(ModelError, match="no such operator"):
        export_cached(FACTORY, cache, SilentProgress(), export=fail)
    assert not (cache.root / "export").exists()
    assert list((cache.root / "staging").iterdir()) == []


def test_an_export_with_data_is_anew_for_other_data_of_equal_names_sizes_and_times_alone(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    model = tmp_path / "net.onnx"
    model.write_bytes(b"net")

    def data(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.mkdir()
        (path / "0.npz").write_bytes(content)
        os.utime(path / "0.npz", ns=(0, 0))  # as archives that are the same each time have it
        return path

    def hit(path: Path) -> bool:
        request = ModelRequest(path=str(model), data=DataRequest(path=str(path)))
        return export_cached(request, cache, SilentProgress(), export=lambda folder: exported(folder, 1.0, b"w"))[1]

    one, other = data("one", b"cats"), data("other", b"dogs")
    assert not hit(one)
    assert hit(one)
    assert not hit(other)
    (one / "net.x86-64.edge").write_bytes(b"a bundle beside the data")
    (one / ".listing").write_bytes(b"hidden")
    assert hit(one)
    (one / "0.npz").write_bytes(b"mice")
    os.utime(one / "0.npz", ns=(0, 0))
    assert not hit(one)
    assert not hit(one / "0.npz")
