"""Contributions of layers to the noise: what adds up, in which order, and how often it is measured."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.explain.attribution import NOISE_LIMIT, attribute

NAMES = tuple("abcdef")


def test_each_layer_of_an_additive_error_gets_its_own_part() -> None:
    parts = dict(zip(NAMES, (0.5, 0.0, 0.25, 2.0, 0.125, 1.0), strict=True))
    found = attribute(lambda layers: sum(parts[name] for name in layers), NAMES)
    assert {entry.layer: entry.mean for entry in found.contributions} == pytest.approx(parts)
    assert found.total == pytest.approx(sum(parts.values()))
    assert [entry.layer for entry in found.contributions] == list(NAMES)


def test_what_two_layers_do_together_is_divided_between_them() -> None:
    found = attribute(lambda layers: 1.0 if {"b", "e"} <= layers else 0.0, NAMES)
    means = {entry.layer: entry.mean for entry in found.contributions}
    assert means == {"a": 0, "b": 0.5, "c": 0, "d": 0, "e": 0.5, "f": 0}
    assert [entry.forward for entry in found.contributions] == [0, 0, 0, 0, 1, 0]
    assert [entry.backward for entry in found.contributions] == [0, 1, 0, 0, 0, 0]


@given(st.lists(st.floats(0, 1e3), min_size=64, max_size=64))
def test_contributions_add_up_to_the_total_whatever_the_error_is(table: list[float]) -> None:
    def noise(layers: frozenset[str]) -> float:
        return table[sum(2**index for index, name in enumerate(NAMES) if name in layers)]

    found = attribute(noise, NAMES)
    assert found.sum == pytest.approx(table[63], abs=1e-9 * (1 + max(table)))
    assert found.total == table[63]
    assert found.floor == table[0]


def test_the_total_is_measured_apart_from_what_adds_up_to_it() -> None:
    asked: list[frozenset[str]] = []

    def noise(layers: frozenset[str]) -> float:
        asked.append(layers)
        return float(len(asked) == 13)  # the last one

    found = attribute(noise, NAMES)
    assert asked.count(frozenset(NAMES)) == 2
    assert len(asked) == 2 * len(NAMES) + 1  # every prefix, every suffix, none, and all once more
    assert found.total == 1.0
    assert found.sum == 0.0


def test_a_graph_that_gives_nonsense_counts_as_wrong_and_sums_stay_finite() -> None:
    found = attribute(lambda layers: (math.nan if len(layers) < 3 else math.inf) if "c" in layers else 0.0, "abcd")
    assert {entry.layer: entry.mean for entry in found.contributions} == {"a": 0, "b": 0, "c": NOISE_LIMIT, "d": 0}
    assert found.total == NOISE_LIMIT


def test_without_layers_there_is_the_floor_alone() -> None:
    found = attribute(lambda layers: 0.25, ())
    assert (found.contributions, found.total, found.sum) == ((), 0.25, 0.25)


def test_progress_counts_graphs_up_to_what_was_said() -> None:
    seen: list[tuple[int, int]] = []
    attribute(lambda layers: 0.0, NAMES, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(index, 12) for index in range(1, 13)]
