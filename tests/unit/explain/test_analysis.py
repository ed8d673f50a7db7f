"""A whole explanation of a small net: what adds up, what is named first, and what is kept."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from explain_tools import Array, evidence_for, open_session, samples, three_convolutions

from edgebuild.cache import Cache
from edgebuild.errors import CalibrationError
from edgebuild.explain.analysis import analyse
from edgebuild.explain.result import Analysis
from edgebuild.quantize.candidate import write_candidate
from edgebuild.quantize.insert import forms_of
from edgebuild.select.evidence import Evidence


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return three_convolutions(tmp_path / "graph.onnx")


def explained(graph: Path, evidence: Evidence, cache: Cache) -> Analysis:
    return analyse(graph, evidence, open_session, cache)


def run(path: Path, batch: Mapping[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(batch))[0], np.float64)


def scaled(graph: Path, channel: int, factor: float) -> None:
    """One channel between conv2 and conv3 grows and its reader's weights shrink: the same function."""
    model = onnx.load(graph)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    arrays["w1"][channel] *= factor
    arrays["b1"][channel] *= factor
    arrays["w2"][:, channel] /= factor
    del model.graph.initializer[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.save(model, graph)


def test_contributions_add_up_to_what_the_whole_candidate_loses(graph: Path, cache: Cache, tmp_path: Path) -> None:
    evidence = evidence_for(graph)
    found = explained(graph, evidence, cache)
    candidate = tmp_path / "candidate.onnx"
    write_candidate(graph, evidence.plan, evidence.scheme, forms_of(()), candidate)
    pairs = [(run(graph, batch), run(candidate, batch)) for batch in evidence.held_out[: found.batches]]
    noise = sum(float(np.sum((a - b) ** 2)) for a, b in pairs) / sum(float(np.sum(a**2)) for a, _ in pairs)
    assert found.total == pytest.approx(noise, rel=1e-3)
    assert found.sum == pytest.approx(noise, rel=1e-3)
    assert sum(layer.noise for layer in found.layers) == pytest.approx(noise, rel=0.01)
    assert [layer.name for layer in found.layers] == ["conv1", "conv2", "conv3"]
    assert sum(value.share for value in found.values) <= 1.5


def test_a_sound_net_blames_nothing_but_rounding(graph: Path, cache: Cache) -> None:
    found = explained(graph, evidence_for(graph), cache)
    assert found.total < 1e-3
    assert found.findings[0].cause in ("rounding", "clipping")  # some held-out values lie beyond
    assert all(finding.cause not in ("calibration data", "saturation") for finding in found.findings)


def test_a_clipped_value_comes_first_with_the_layers_around_it(graph: Path, cache: Cache) -> None:
    sound = evidence_for(graph)
    low, high = sound.plan.ranges["b"]
    found = explained(graph, evidence_for(graph, ranges={"b": (low, high / 12)}), cache)
    first = found.findings[0]
    assert (first.cause, first.where) == ("clipping", "b")
    assert set(first.layers) == {"conv2", "conv3"}
    assert first.share is not None
    assert 0.8 < first.share < 1.2


def test_an_unequal_channel_comes_first(graph: Path, cache: Cache) -> None:
    scaled(graph, 3, 1000.0)
    found = explained(graph, evidence_for(graph), cache)
    assert (found.findings[0].cause, found.findings[0].where) == ("channel range ratio", "b")


def test_calibration_data_of_another_scale_come_first(graph: Path, cache: Cache) -> None:
    evidence = evidence_for(graph)
    loud = [{"x": batch["x"] * np.float32(20)} for batch in samples(8, 2)]
    found = explained(graph, replace(evidence, held_out=loud), cache)
    assert found.findings[0].cause == "calibration data"
    assert "held-out values are" in found.findings[0].detail
    assert found.on_calibration is not None
    assert found.on_calibration < found.total / 10


def test_weights_that_saturate_are_named_though_this_machine_computes_them_exactly(graph: Path, cache: Cache) -> None:
    model = onnx.load(graph)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    arrays["w0"] = np.abs(np.sign(arrays["w0"])) * np.float32(0.05)
    del model.graph.initializer[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.save(model, graph)
    without_vnni = replace(evidence_for(graph).scheme, cpu_features=("avx2",))
    found = explained(graph, replace(evidence_for(graph), scheme=without_vnni), cache)
    named = [finding for finding in found.findings if finding.cause == "saturation"]
    assert named[0].where == "conv1"
    assert all(finding.share is None for finding in named)
    other = explained(graph, evidence_for(graph), cache)
    assert all(finding.cause != "saturation" for finding in other.findings)


def test_reverted_layers_are_judged_as_if_they_were_quantised_and_said_to_be_float(graph: Path, cache: Cache) -> None:
    found = explained(graph, replace(evidence_for(graph), reverted=("conv2",)), cache)
    assert [(layer.mode, layer.reverted) for layer in found.layers] == [
        ("static", False),
        ("float", True),
        ("static", False),
    ]
    assert found.layers[1].noise > 0


def test_without_held_out_data_the_error_says_what_to_give(graph: Path, cache: Cache) -> None:
    with pytest.raises(CalibrationError, match="no held-out data") as error:
        explained(graph, replace(evidence_for(graph), held_out=()), cache)
    assert "--data" in str(error.value.hint)


def test_a_second_explanation_is_the_same_and_measures_no_layer(
    graph: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = explained(graph, evidence_for(graph), cache)
    monkeypatch.setattr("edgebuild.explain.analysis.attribute", None)
    second = explained(graph, evidence_for(graph), cache)
    assert second.layers == first.layers
    assert second.findings == first.findings


def test_nothing_stays_in_the_staging_folder(graph: Path, cache: Cache) -> None:
    explained(graph, evidence_for(graph), cache)
    assert list((cache.root / "staging").glob(".build.*")) == []


def test_evidence_survives_the_way_to_disk_and_back(graph: Path, tmp_path: Path) -> None:
    evidence = evidence_for(graph)
    evidence.write(tmp_path)
    back = Evidence.read(tmp_path)
    assert back is not None
    assert (back.plan, back.scheme, back.outputs) == (evidence.plan, evidence.scheme, evidence.outputs)
    for kept, given in ((back.held_out, evidence.held_out), (back.calibration, evidence.calibration)):
        assert len(kept) == len(given)
        assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(kept, given, strict=True))
    assert Evidence.read(tmp_path / "nowhere") is None
