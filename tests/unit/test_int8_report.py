"""What a search for INT8 came to, in words."""

from typing import Any

from edgebuild import int8_report


def output(**changes: Any) -> dict[str, Any]:
    values = {"output": "y", "sqnr_db": 30.25, "agreement": 0.9921875, "decisions": 256, "near_ties": 0}
    return {**values, **changes}


def trial(name: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": name,
        "fits": False,
        "violations": [],
        "score": None,
        "speed": None,
        "reverted": [],
    }
    return {**values, **changes}


def score(*outputs: dict[str, Any], value: float | None = None) -> dict[str, Any]:
    return {"outputs": list(outputs), "value": value, "float_value": None if value is None else value + 0.01}


def speed(ratio: float, low: float, high: float) -> dict[str, Any]:
    return {"ratio": ratio, "low": low, "high": high}


JUDGED = {"judged": True}


def found(chosen: str | None, *trials: dict[str, Any], manifest: Any = JUDGED, reason: str = "") -> dict[str, Any]:
    return {"reason": reason, "manifest": manifest, "search": {"chosen": chosen, "trials": list(trials)}}


def test_what_ships_is_told_with_accuracy_and_speed() -> None:
    first = trial("a", fits=True, score=score(output(sqnr_db=20.0)), speed=speed(9, 9, 9))
    last = trial(
        "a", fits=True, score=score(output(), output(sqnr_db=None, agreement=None)), speed=speed(2.1, 2.0, 2.2)
    )
    text = int8_report.verdict(found("a", first, trial("b", speed=speed(3, 2, 4)), last))
    assert text == "a; 30.2 dB, 99.2% of 256 decisions as float; 2.10 times the speed of float (2.00 to 2.20: faster)"


def test_a_tie_is_no_difference_and_reverted_layers_and_random_data_are_said() -> None:
    one = trial("a", fits=True, score=score(output()), speed=speed(0.98, 0.9, 1.1), reverted=["x", "y"])
    text = int8_report.verdict(found("a", one, manifest={"judged": False}, reason="not for CPUs that need vnni"))
    assert "0.98 times the speed of float (0.90 to 1.10: no difference beyond noise)" in text
    assert "; 2 layers left in float; calibrated on random data, so its accuracy is NOT known; not for CPUs" in text


def test_why_nothing_ships_comes_with_the_figures_of_what_came_nearest() -> None:
    slow = trial("fits", fits=True, score=score(output()), speed=speed(0.8, 0.7, 0.9))
    text = int8_report.verdict(found(None, slow, manifest=None, reason="fits fits the budget but is slower than float"))
    assert text.startswith("does NOT ship: fits fits the budget but is slower than float. Nearest: fits: 30.2 dB, ")
    assert "0.80 times the speed of float (0.70 to 0.90: SLOWER)" in text
    noisy = trial("near", score=score(output(sqnr_db=11.0, agreement=0.5)))
    noisier = trial("far", score=score(output(sqnr_db=3.0, agreement=0.9)))
    assert "Nearest: near: 11.0 dB, 50.0% of" in int8_report.verdict(found(None, noisier, noisy, manifest=None))
    timed = [trial("slow", speed=speed(0.5, 0.4, 0.6)), trial("less slow", speed=speed(0.7, 0.6, 0.8))]
    assert "Nearest: less slow: 0.70 times" in int8_report.verdict(found(None, *timed, manifest=None))
    assert int8_report.verdict(found(None, trial("dead"), manifest=None, reason="r")) == "does NOT ship: r"
    nothing = {"reason": "no scheme", "manifest": None, "search": None}
    assert int8_report.verdict(nothing) == "does NOT ship: no scheme"


def test_a_users_own_score_and_a_replay_are_told() -> None:
    one = trial("a", fits=True, score=score(output(decisions=0), value=0.93))
    assert "score 0.93 against 0.94 of float, 30.2 dB" in int8_report.verdict(found("a", one))
    replayed = {"reason": "", "manifest": JUDGED, "search": None}
    assert int8_report.verdict(replayed) == "replayed from decisions, not judged again"


def test_advice_on_speed_tells_what_was_faster_and_that_nothing_was() -> None:
    ships = trial("a", fits=True, score=score(output()), speed=speed(1.5, 1.4, 1.6), reverted=["x"])
    faster = trial("b", score=score(output()), speed=speed(2.5, 2.4, 2.6))
    text = int8_report.advice_on_speed(found("a", faster, ships))
    assert text.startswith("b ran 2.50 times as fast as float, what ships, with 1 layer in float 1.50 times")
    tie = trial("a", fits=True, score=score(output()), speed=speed(1.0, 0.9, 1.1))
    assert "no form of it is faster than float beyond noise" in int8_report.advice_on_speed(found("a", tie))
    assert int8_report.advice_on_speed(found("a", trial("a", speed=speed(3, 2.9, 3.1)))) == ""
    assert int8_report.advice_on_speed(found("a", trial("a"))) == ""
    assert int8_report.advice_on_speed(found(None, faster)) == ""


def test_few_decisions_and_noisy_goldens_are_doubts() -> None:
    few = trial("a", fits=True, score=score(output(agreement=1.0, decisions=8)))
    search = {"chosen": "a", "trials": [few], "held_out": {"samples": 8}}
    (told,) = int8_report.doubts(search, [None, 42.0])
    assert "judged by 8 decisions on 8 held-out samples: one of them is 12%" in told
    assert not list(int8_report.doubts({**search, "calibration": {"random": True}}, []))  # nothing was judged
    (told,) = int8_report.doubts(None, [0.96, 30.0])
    assert "on the goldens INT8 is only 1 dB from float" in told
    assert "with calibration data in files" in told
    (told,) = int8_report.doubts(None, [0.96, 30.0], real=True)
    assert told.endswith("so `verify` finds gross errors alone")


def test_figures_of_equal_samples_are_a_doubt() -> None:
    many = trial("a", fits=True, score=score(output(agreement=1.0, decisions=60)))
    held = {"samples": 60, "batches": 60, "distinct": 3}
    (told,) = int8_report.doubts({"chosen": "a", "trials": [many], "held_out": held}, [])
    assert "only 3 of the 60 held-out batches differ" in told
    assert not list(int8_report.doubts({"chosen": "a", "trials": [many], "held_out": {**held, "distinct": 59}}, []))


def test_many_decisions_and_a_score_of_the_users_own_leave_no_doubt() -> None:
    many = trial("a", fits=True, score=score(output(decisions=50)))
    assert not list(int8_report.doubts({"chosen": "a", "trials": [many], "held_out": {"samples": 50}}, [10.0]))
    own = trial("a", fits=True, score=score(output(decisions=8), value=0.9))
    assert not list(int8_report.doubts({"chosen": "a", "trials": [own], "held_out": {"samples": 8}}, []))
    value = trial("a", fits=True, score=score(output(decisions=0, agreement=None)))
    assert not list(int8_report.doubts({"chosen": "a", "trials": [value], "held_out": {"samples": 8}}, []))
