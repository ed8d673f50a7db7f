"""Metrics and budgets, against numpy on everything at once."""

import json
import math
from typing import Any

import numpy as np
import pytest

from edgebuild.select.budget import Budget, Score, violations
from edgebuild.select.metrics import Kind, OutputScore, ScoreCounter, decision_axis, sqnr_db

Array = np.ndarray[Any, Any]


def counted(*pairs: tuple[Array, Array]) -> OutputScore:
    counter = ScoreCounter(["y"])
    for expected, got in pairs:
        counter.add({"y": expected, "unasked": expected}, {"y": got})
    (score,) = counter.scores()
    return score


def noisy(shape: tuple[int, ...], seed: int = 0, noise: float = 0.1, dtype: Any = np.float32) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    a = random.standard_normal(shape).astype(dtype)
    return a, (a + noise * random.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("shape", [(3, 10), (1, 4, 6), (2, 5, 3, 4), (7,), (), (2, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_scores_of_many_batches_are_those_of_all_values_together(shape: tuple[int, ...], dtype: Any) -> None:
    pairs = [noisy(shape, seed, noise=0.05 * (seed + 1), dtype=dtype) for seed in range(5)]
    score = counted(*pairs)
    a = np.concatenate([x.astype(np.float64).reshape(-1) for x, _ in pairs])
    b = np.concatenate([y.astype(np.float64).reshape(-1) for _, y in pairs])
    assert score.sqnr_db == pytest.approx(10 * np.log10(np.sum(a**2) / np.sum((a - b) ** 2)))
    assert score.max_abs_error == np.max(np.abs(a - b))
    cosines = []
    for x, y in pairs:
        for row, other in zip(*((x[None], y[None]) if x.ndim < 2 else (x, y)), strict=True):
            p, q = row.astype(np.float64).reshape(-1), other.astype(np.float64).reshape(-1)
            cosines.append(p @ q / np.sqrt(p @ p) / np.sqrt(q @ q))
    assert score.cosine == pytest.approx(np.mean(cosines))


@pytest.mark.parametrize(("shape", "axis"), [((50, 7), 1), ((4, 9, 5), 2), ((3, 6, 8, 9), 1)])
def test_decisions_are_compared_along_the_axis_of_the_classes_without_near_ties(
    shape: tuple[int, ...], axis: int
) -> None:
    a, b = noisy(shape, noise=0.5)
    score = counted((a, b))
    ordered = np.sort(a.astype(np.float64), axis=axis)
    margin = np.take(ordered, -1, axis) - np.take(ordered, -2, axis)
    clear = margin > 0.01 * np.std(a.astype(np.float64), axis=axis)
    agree = np.argmax(a, axis=axis) == np.argmax(b, axis=axis)
    assert score.decisions == np.count_nonzero(clear)
    assert score.near_ties == np.count_nonzero(~clear)
    assert score.agreement == pytest.approx(np.mean(agree[clear]))
    assert 0 < score.agreement < 1


def test_a_near_tie_is_no_decision() -> None:
    a = np.asarray([[1.0, 1.001, -3.0], [5.0, 1.0, 0.0]], np.float32)
    score = counted((a, a[:, [1, 0, 2]]))
    assert (score.decisions, score.near_ties, score.agreement) == (1, 1, 0.0)


def test_scores_that_are_all_equal_are_no_decisions() -> None:
    score = counted((np.zeros((4, 3), np.float32), np.zeros((4, 3), np.float32)))
    assert (score.decisions, score.near_ties, score.agreement) == (0, 4, None)
    assert score.cosine == 1
    assert score.sqnr_db == math.inf


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((5,), None),
        ((), None),
        ((2, 1), None),
        ((2, 2), 1),
        ((2, 3, 4), 2),
        ((2, 3, 4, 5), 1),
        ((2, 1, 4, 5), None),
        ((1, 2, 3, 4, 5), None),
        ((0, 5), None),
        ((1, 200_001), None),
    ],
)
def test_which_outputs_choose(shape: tuple[int, ...], axis: int | None) -> None:
    assert decision_axis(np.random.default_rng(0).standard_normal(shape)) == axis


def test_normalised_embeddings_do_not_choose_but_softmax_does() -> None:
    rows = np.random.default_rng(0).standard_normal((6, 32))
    assert decision_axis(rows / np.linalg.norm(rows, axis=1, keepdims=True)) is None
    assert decision_axis(np.exp(rows) / np.sum(np.exp(rows), axis=1, keepdims=True)) == 1


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integer_outputs_are_compared_element_by_element(dtype: Any) -> None:
    a = np.asarray([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    b = np.asarray([[0, 1, 1], [1, 1, 0]]).astype(dtype)
    score = counted((a, b), (a, a))
    assert score.agreement == pytest.approx(10 / 12)
    assert score.decisions == 12
    assert score.sqnr_db == math.inf


def test_equal_outputs_have_no_noise_and_json_without_infinity() -> None:
    a, _ = noisy((3, 4))
    score = counted((a, a))
    assert score.sqnr_db == math.inf
    assert score.agreement == 1
    assert score.cosine == pytest.approx(1)
    text = json.dumps(score.to_json(), allow_nan=False)
    assert json.loads(text)["sqnr_db"] is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_infinity_or_nan_where_float_has_none_is_all_noise(bad: float) -> None:
    a, b = noisy((3, 4))
    b[1, 2] = bad
    score = counted((a, b), noisy((3, 4), 5))
    assert score.sqnr_db == -math.inf
    assert score.max_abs_error == math.inf
    assert math.isfinite(score.cosine)
    json.dumps(score.to_json(), allow_nan=False)
    assert violations(Score(outputs=(score,)), Budget())


def test_infinities_and_nan_that_float_has_too_are_no_noise() -> None:
    a, b = noisy((3, 4))
    for index, value in enumerate((np.nan, np.inf, -np.inf)):
        a[index, 0] = b[index, 0] = value
    score = counted((a, b))
    finite = np.isfinite(a)
    x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
    assert score.sqnr_db == pytest.approx(10 * np.log10(np.sum(x**2) / np.sum((x - y) ** 2)))
    assert math.isfinite(score.cosine)
    assert 0.9 < score.cosine <= 1


def test_classes_masked_with_minus_infinity_are_never_chosen() -> None:
    a = np.asarray([[-5.0, -2.0, -np.inf], [-np.inf, -np.inf, -np.inf], [-np.inf, -7.0, -np.inf]], np.float32)
    score = counted((a, a + np.float32(0.25)))
    assert (score.decisions, score.near_ties, score.agreement) == (2, 1, 1.0)
    score = counted((a, a[:, [1, 0, 2]]))
    assert (score.decisions, score.near_ties, score.agreement) == (2, 1, 0.0)


def test_outputs_without_elements_are_equal() -> None:
    empty = np.zeros((0, 5), np.float32)
    score = counted((empty, empty))
    assert (score.sqnr_db, score.cosine, score.agreement) == (math.inf, 1.0, None)


def test_a_dead_output_has_neither_signal_nor_direction() -> None:
    a, _ = noisy((2, 3))
    score = counted((a, np.zeros_like(a)))
    assert score.sqnr_db == pytest.approx(0.0)
    assert score.cosine == 0
    score = counted((np.zeros_like(a), a))
    assert score.sqnr_db == -math.inf


@pytest.mark.parametrize(
    ("signal", "noise", "decibels"),
    [(1.0, 0.0, math.inf), (0.0, 0.0, math.inf), (0.0, 1.0, -math.inf), (100.0, 1.0, 20.0), (1.0, math.inf, -math.inf)],
)
def test_sqnr_at_its_ends(signal: float, noise: float, decibels: float) -> None:
    assert sqnr_db(signal, noise) == pytest.approx(decibels)


def output(
    sqnr: float = 40.0, agreement: float | None = None, name: str = "y", kind: Kind | None = None
) -> OutputScore:
    return OutputScore(
        output=name,
        sqnr_db=sqnr,
        cosine=1.0,
        max_abs_error=0.0,
        decisions=100 if agreement is not None else 0,
        agreement=agreement,
        near_ties=0,
        kind=kind or ("value" if agreement is None else "decision"),
    )


@pytest.mark.parametrize(
    ("sqnr", "agreement", "budget", "words"),
    [
        (20.0, None, Budget(), []),
        (19.99, None, Budget(), ["'y': signal to noise 19.990 dB, needed 20 dB"]),
        (12.0, 0.98, Budget(), []),
        (11.9, 1.0, Budget(), ["signal to noise 11.9 dB, needed 12 dB"]),
        (30.0, 0.979, Budget(), ["97.90% of 100 decisions agree with float, needed 98.00%"]),
        (5.0, 0.5, Budget(), ["50.00% of 100 decisions", "signal to noise 5.0 dB"]),
        (30.0, 1.0, Budget(min_sqnr_db=31), ["needed 31 dB"]),
        (5.0, 0.9, Budget(min_agreement=0.9, min_sqnr_db=5), []),
        (-math.inf, 0.0, Budget.unlimited(), []),
        (math.inf, 1.0, Budget(min_sqnr_db=90), []),
    ],
)
def test_outputs_are_held_to_decisions_or_signal_to_noise(
    sqnr: float, agreement: float | None, budget: Budget, words: list[str]
) -> None:
    found = violations(Score(outputs=(output(sqnr, agreement),)), budget)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("kind", "sqnr", "agreement", "budget", "words"),
    [
        ("choices", 20.0, 0.5, Budget(), []),
        ("choices", 19.9, 1.0, Budget(), ["needed 20 dB"]),
        ("choices", 40.0, 0.97, Budget(min_agreement=0.98), ["97.00% of 100 decisions"]),
        ("embedding", 33.5, None, Budget(), []),
        ("embedding", 33.4, None, Budget(), ["needed 33.5 dB"]),
        ("embedding", 33.48, None, Budget(), ["noise 33.480 dB, needed 33.5 dB"]),
        ("embedding", 24.0, None, Budget(min_sqnr_db=20), []),
    ],
)
def test_what_is_asked_of_an_output_hangs_on_its_kind(
    kind: Kind, sqnr: float, agreement: float | None, budget: Budget, words: list[str]
) -> None:
    found = violations(Score(outputs=(output(sqnr, agreement, kind=kind),)), budget)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((8, 10), "decision"), ((8, 5, 10), "choices"), ((2, 3, 4, 5), "choices"), ((8,), "value"), ((8, 1), "value")],
)
def test_the_kind_of_an_output_is_seen_from_its_shape(shape: tuple[int, ...], kind: str) -> None:
    values = np.random.default_rng(5).standard_normal(shape)
    counter = ScoreCounter(["y"])
    counter.add({"y": values}, {"y": values})
    assert counter.scores()[0].kind == kind


def test_rows_of_length_one_are_embeddings_unless_one_batch_says_otherwise() -> None:
    rows = np.random.default_rng(6).standard_normal((9, 16))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    counter = ScoreCounter(["y"])
    counter.add({"y": unit}, {"y": unit})
    assert counter.scores()[0].kind == "embedding"
    counter.add({"y": rows}, {"y": rows})
    assert counter.scores()[0].kind == "value"


def test_every_output_is_held_and_named() -> None:
    score = Score(outputs=(output(name="a"), output(3.0, name="b"), output(4.0, name="c")))
    assert [text.split("'")[1] for text in violations(score, Budget())] == ["b", "c"]
    assert score.sqnr_db == 3.0


def test_the_users_own_score_decides_alone() -> None:
    bad = (output(-10.0, 0.0),)
    assert violations(Score(outputs=bad, value=0.90, float_value=0.902), Budget()) == ()
    assert violations(Score(outputs=bad, value=0.95, float_value=0.90), Budget(max_drop=0.0)) == ()
    (text,) = violations(Score(outputs=bad, value=0.80, float_value=0.9), Budget())
    assert text == "score 0.8, float 0.9: dropped 0.1, allowed 0.005"


def test_limits_that_are_none_are_no_numbers_in_json() -> None:
    assert json.loads(json.dumps(Budget.unlimited().to_json(), allow_nan=False))["max_drop"] is None
    assert Budget(min_sqnr_db=25).to_json() == {"max_drop": 0.005, "min_agreement": None, "min_sqnr_db": 25}
