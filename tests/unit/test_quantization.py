"""What --int8 adds to a build, apart from the search: what is read, refused and keyed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebuild.build import build
from edgebuild.errors import GateError, UsageError
from edgebuild.options import QuantizeOptions
from edgebuild.quantization import _nothing, _settle, find_evaluate, sample_of, target_version
from edgebuild.summary import _quantization_notes
from edgebuild.targets import load_target


def test_nothing_to_ship_is_an_error_only_where_int8_is_required() -> None:
    nothing = _nothing("the model is quantised already")
    assert _settle(nothing, QuantizeOptions(calib="random", required=False)) is nothing
    assert nothing.float_needed
    assert nothing.manifest is None
    with pytest.raises(GateError, match="no INT8 variant may ship: the model is quantised already") as caught:
        _settle(nothing, QuantizeOptions(calib="random", required=True))
    assert caught.value.exit_code == 6
    assert caught.value.hint == "leave --require out"  # nothing was tried: better data would not help
    tried = replace(nothing, report={"trials": [{"name": "static products"}]})
    with pytest.raises(GateError) as caught:
        _settle(tried, QuantizeOptions(calib="random", required=True))
    assert "more or better calibration data" in str(caught.value.hint)


def test_the_first_npz_of_a_calibration_folder_stands_for_its_sizes(tmp_path: Path) -> None:
    def found(calib: Any, preprocess: str | None = None) -> Path | None:
        return sample_of(QuantizeOptions(calib=calib, preprocess=preprocess))

    assert found(None) is None
    assert found([np.zeros(3)]) is None
    assert found("random") is None
    assert found(tmp_path) is None
    for name in ("b.npz", "a.npz", "0.npy", "0.txt"):
        (tmp_path / name).touch()
    assert found(tmp_path) == tmp_path / "a.npz"
    assert found(tmp_path, preprocess="imagenet") is None  # those are images
    assert found(str(tmp_path / "b.npz")) == tmp_path / "b.npz"
    assert found(tmp_path / "0.npy") == tmp_path / "0.npy"
    assert found(tmp_path / "0.txt") is None
    assert found(tmp_path / "missing.npz") is None


def test_graphs_are_judged_by_the_targets_own_engine_version() -> None:
    target = load_target("x86-64")
    (spec,) = (s for s in target.runtime if s.name == "onnxruntime")
    assert target_version(target, spec) == spec.version
    other = replace(spec, name="tensorrt", version="11.0")
    assert target_version(target, other) == spec.version


def test_a_users_score_is_found_by_name_and_no_two_builds_share_its_verdict(tmp_path: Path) -> None:
    source = tmp_path / "score_of_user.py"
    source.write_text("number = 3\ndef accuracy(predict):\n    return 0.5\n", encoding="utf-8")
    assert find_evaluate(None, ()) == (None, None)
    function, key = find_evaluate("score_of_user:accuracy", [str(tmp_path)])
    assert function is not None
    assert function(lambda inputs: inputs) == 0.5
    assert key != find_evaluate("score_of_user:accuracy", [str(tmp_path)])[1]

    def given(predict: Any) -> float:
        return 1.0

    assert find_evaluate(given, ())[0] is given
    with pytest.raises(UsageError, match="score_of_user"):
        find_evaluate("score_of_user:missing", [str(tmp_path)])


def test_data_that_a_replay_is_given_have_to_be_there_because_they_become_goldens(tmp_path: Path) -> None:
    import torch

    model, decisions = tmp_path / "net.pt", tmp_path / "decided.json"
    torch.jit.script(torch.nn.ReLU()).save(str(model))
    decisions.write_text(
        '{"schema": "edgebuild.decisions/1", "target": "x86-64", "memory_bytes": {}}', encoding="utf-8"
    )
    given = QuantizeOptions(calib=str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="missing: no such file or folder"):
        build(str(model), target="x86-64", output=tmp_path / "net.edge", decisions=decisions, quantize=given)


def test_a_note_on_int8_names_its_backend() -> None:
    doubtful = replace(_nothing(""), lowered=(None,), notes=("few decisions",))  # type: ignore[arg-type]
    notes = list(_quantization_notes({"onnxruntime": doubtful, "tensorrt": doubtful}))
    assert notes == ["onnxruntime: few decisions", "tensorrt: few decisions"]
