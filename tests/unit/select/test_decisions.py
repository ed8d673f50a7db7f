"""Decisions files: written, read again, and refused with a reason where they do not fit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgebuild.cache import Cache
from edgebuild.errors import UsageError
from edgebuild.quantize.plan import Plan
from edgebuild.select.decisions import (
    Decisions,
    check_variants,
    decide,
    decided_plans,
    plans_to_json,
    read_decisions,
    reordered,
    why_other,
)

KNOWN = ("", "-7bit")
PLAN = Plan(modes={"a": "static"}, ranges={"x": (-1.0, 1.0)})
QUANTIZATION = {"onnxruntime": {"plan": {"modes": {"a": "static"}}, "suffixes": ["", "-7bit"], "reason": ""}}


def written(path: Path, **change: Any) -> Path:
    decisions = Decisions(target="board", memory_bytes={"b": 32 * 2**20, "a": 2**24}, quantization=QUANTIZATION)
    path.write_text(json.dumps({**decisions.to_json(), **change}), encoding="utf-8")
    return path


def test_decisions_come_back_as_they_were(tmp_path: Path) -> None:
    found = read_decisions(written(tmp_path / "d.json"), "board")
    assert found.memory_bytes == {"a": 2**24, "b": 32 * 2**20}
    assert found.quantization == QUANTIZATION
    assert json.loads(found.text()) == found.to_json()


def test_builds_without_int8_write_no_quantisation(tmp_path: Path) -> None:
    plain = Decisions(target="board", memory_bytes={"a": 1})
    assert "quantization" not in plain.to_json()
    path = tmp_path / "d.json"
    path.write_text(plain.text(), encoding="utf-8")
    assert read_decisions(path, "board") == plain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "edgebuild.decisions/2"}, "expected an object with schema"),
        ({"target": "toaster"}, "for target 'toaster', this build is for 'board'"),
        ({"memory_bytes": {"a": 0}}, "whole number above 0"),
        ({"memory_bytes": {"a": 1.5}}, "whole number above 0"),
        ({"memory_bytes": [1]}, "whole number above 0"),
        ({"quantization": []}, "expected quantization as an object for each backend"),
        ({"quantization": {"onnxruntime": None}}, "expected quantization as an object for each backend"),
        ({"quantization": None}, "expected quantization as an object for each backend"),
    ],
)
def test_what_is_no_decisions_file_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read_decisions(written(tmp_path / "d.json", **change), "board")
    assert str(tmp_path / "d.json") in caught.value.message


def test_files_that_are_missing_or_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        read_decisions(tmp_path / "none.json", "board")
    (tmp_path / "d.json").write_text("[", encoding="utf-8")
    with pytest.raises(UsageError, match="not JSON"):
        read_decisions(tmp_path / "d.json", "board")


def test_variants_that_the_bundle_has_not_are_named(tmp_path: Path) -> None:
    decisions = read_decisions(written(tmp_path / "d.json"), "board")
    check_variants(decisions, tmp_path, ["a", "b"])
    # A variant for another CPU was not measured here, and has no entry.
    check_variants(decisions, tmp_path, ["a", "b", "int8-for-other-cpus"])
    with pytest.raises(UsageError, match="expected memory_bytes for a, got a, b"):
        check_variants(decisions, tmp_path, ["a"])
    with pytest.raises(UsageError, match="expected order for a, b, got b, c"):
        check_variants(replace(decisions, order=("b", "c")), tmp_path, ["a", "b"])


def test_an_order_is_written_only_where_engines_were_measured_and_read_back(tmp_path: Path) -> None:
    plain = Decisions(target="board", memory_bytes={"a": 1})
    assert "order" not in plain.to_json()
    ordered = replace(plain, order=("b", "a"))
    path = tmp_path / "d.json"
    path.write_text(ordered.text(), encoding="utf-8")
    assert read_decisions(path, "board") == ordered
    for wrong in ({"a": 1}, ["a", "a"], [1, 2], [["a"]], "ab"):
        path.write_text(json.dumps({**plain.to_json(), "order": wrong}), encoding="utf-8")
        with pytest.raises(UsageError, match="expected order as a list"):
            read_decisions(path, "board")


@pytest.mark.parametrize(
    ("names", "order", "expected"),
    [
        ("abc", "", "abc"),
        ("abc", "cba", "cba"),
        ("abc", "ca", "cba"),  # b was not measured, and keeps its place
        ("abcd", "dcb", "adcb"),
        ("ab", "zba", "ba"),
    ],
)
def test_variants_that_were_measured_change_places_among_themselves(names: str, order: str, expected: str) -> None:
    assert reordered(list(names), list(order)) == list(expected)


def test_what_was_measured_is_rounded_up_and_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    peaks = {"a": 16 * 2**20, "b": 16 * 2**20 + 1, "c": 1}
    found, cached = decide("board", ["key", 1], cache, lambda: (peaks, ["c", "a"]))
    assert not cached
    assert found.memory_bytes == {"a": 16 * 2**20, "b": 32 * 2**20, "c": 16 * 2**20}
    assert found.order == ("c", "a")

    def never() -> Any:
        raise AssertionError

    again, cached = decide("board", ["key", 1], cache, never)
    assert cached
    assert again == found
    with pytest.raises(AssertionError):
        decide("board", ["key", 2], cache, never)
    with pytest.raises(AssertionError):
        decide("other", ["key", 1], cache, never)


def test_a_replay_that_gives_another_bundle_says_so_and_what_differs(tmp_path: Path) -> None:
    made = Decisions(target="board", memory_bytes={"a": 1}, bundle_id="a" * 64, samples_sha256="1" * 64)
    path = tmp_path / "d.json"
    path.write_text(made.text(), encoding="utf-8")
    replayed = read_decisions(path, "board")
    assert replayed == made
    assert why_other(replayed, made) == ""
    samples = why_other(replayed, Decisions(target="board", bundle_id="b" * 64, samples_sha256="2" * 64))
    assert (
        "bbbbbbbbbbbbbbbb, theirs is aaaaaaaaaaaaaaaa; its sample inputs are others: give the same --calib, --sample"
        in samples
    )
    other = why_other(replayed, Decisions(target="board", bundle_id="b" * 64, samples_sha256="1" * 64))
    assert "something else than the samples differs" in other
    assert why_other(Decisions(target="board"), made) == ""  # written by an earlier version


def test_plans_come_back_by_their_schemes_and_what_is_shared_is_written_once() -> None:
    other = replace(PLAN, modes={"c": "dynamic"})
    for plans in ({}, {"": PLAN}, {"": PLAN, "-7bit": PLAN}, {"": PLAN, "-7bit": other}, {"-7bit": other}):
        data = json.loads(json.dumps(plans_to_json(plans)))
        assert decided_plans({**data, "manifest": {"judged": True}}, KNOWN) == plans
        assert ("plans" in data) == (len({id(plan) for plan in plans.values()}) > 1)


@pytest.mark.parametrize(
    "decided",
    [
        {},
        {"plan": None},
        {"plan": None, "suffixes": [1]},
        {"plan": None, "suffixes": None},
        {"plan": None, "suffixes": ""},
        {"plan": None, "suffixes": ["-9bit"]},
        {"plan": None, "suffixes": [], "manifest": {}},
        {"plan": {**PLAN.to_json(), "smoothing": {"alpha": 0.5, "absmax": {"x": [float("nan")]}}}, "suffixes": [""]},
        {"plan": {}, "suffixes": [""]},
        {"plan": PLAN.to_json(), "suffixes": [""], "plans": {"-7bit": PLAN.to_json()}},
        {"plan": PLAN.to_json(), "suffixes": [""], "plans": [PLAN.to_json()]},
        {"plan": PLAN.to_json(), "suffixes": ["-7bit"], "plans": {"-7bit": {}}},
        {"plan": "static", "suffixes": [""]},
        {"plan": {**PLAN.to_json(), "ranges": {"x": [0, float("inf")]}}, "suffixes": [""]},
    ],
)
def test_decisions_that_can_not_be_read_are_the_users_to_mend(decided: Any) -> None:
    with pytest.raises(UsageError, match="--decisions: the quantisation in it can't be read"):
        decided_plans(decided, KNOWN)
