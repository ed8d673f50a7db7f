"""What a search for INT8 came to, in words: for the summary of a build and for ``edgebuild explain``.

Everything here reads the report's ``quantization`` (docs/json-output.md): by backend "reason", "search" (None: replayed) and
"manifest" (None: nothing ships).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

LEAST_TOLD_DB = -99.0
"""JSON has no infinity: noise without any signal."""

_FEW_DISTINCT = 0.9
"""Share of the held-out batches: if fewer differ from each other, it is said. A double here and there is not worth a word."""
_FEW_DECISIONS = 50
_WEAK_GOLDENS_DB = 10.0
"""Noise of a third of the signal: where a wrong kernel is hard to tell from INT8 itself."""


def chosen_trial(search: Json | None) -> Json | None:
    """The last word of a search on what it chose; None: it chose nothing, or there was no search."""
    if search is None or search.get("chosen") is None:
        return None
    trials: list[Json] = [trial for trial in search["trials"] if trial["name"] == search["chosen"]]
    return trials[-1] if trials else None


def nearest_trial(search: Json) -> Json | None:
    """Of a search that chose nothing, what came nearest: inside the budget, else the best signal, else the fastest; None: nothing ran."""
    last: dict[str, Json] = {trial["name"]: trial for trial in search["trials"]}
    judged = [trial for trial in last.values() if trial.get("score")]
    fits = [trial for trial in judged if trial["fits"]]
    if fits:
        return fits[-1]
    if judged:
        return max(judged, key=lambda trial: _signal(score_of(trial["score"])))
    timed = [trial for trial in last.values() if trial.get("speed")]
    return max(timed, key=lambda trial: float(trial["speed"]["ratio"]), default=None)


def score_of(score: Json) -> dict[str, Any]:
    """The worst output's signal to noise in dB, the worst agreement of decisions and their number, the user's own score."""
    outputs = score["outputs"]
    noise = [o["sqnr_db"] for o in outputs if o["sqnr_db"] is not None]
    deciding = [o for o in outputs if o["agreement"] is not None and o["decisions"]]
    return {
        "sqnr_db": min(noise, default=None),
        "agreement": min((o["agreement"] for o in deciding), default=None),
        "decisions": max((o["decisions"] for o in deciding), default=0),
        "score": score.get("value"),
        "float_score": score.get("float_value"),
    }


def accuracy_text(accuracy: Json) -> str:
    """For a sentence: "44.9 dB, 99.2 % of 1024 decisions as float"."""
    parts = []
    if accuracy["score"] is not None:
        parts.append(f"score {accuracy['score']:.4g} against {accuracy['float_score']:.4g} of float")
    parts.append(signal_text(accuracy))
    if accuracy["agreement"] is not None:
        parts.append(f"{accuracy['agreement']:.1%} of {accuracy['decisions']} decisions as float")
    return ", ".join(parts)


def signal_text(accuracy: Json) -> str:
    """Signal to noise of the worst output."""
    return "no noise" if accuracy["sqnr_db"] is None else f"{accuracy['sqnr_db']:.1f} dB"


def speed_text(speed: Json) -> str:
    """Speed over float, with what may be said about it."""
    verdict = "faster" if speed["low"] > 1 else "SLOWER" if speed["high"] < 1 else "no difference beyond noise"
    return f"{speed['ratio']:.2f} times the speed of float ({speed['low']:.2f} to {speed['high']:.2f}: {verdict})"


def figures(trial: Json) -> str:
    """What was found out about a candidate: its accuracy, its speed over float."""
    parts = [accuracy_text(score_of(trial["score"]))] if trial.get("score") else []
    if trial.get("speed"):
        parts.append(speed_text(trial["speed"]))
    return "; ".join(parts)


def verdict(found: Json) -> str:
    """What came of INT8 for a backend: what ships or why nothing does, with figures."""
    search, manifest = found["search"], found["manifest"]
    if manifest is not None:
        trial = chosen_trial(search)
        if trial is None:
            text = "replayed from decisions, not judged again"
        else:
            text = "; ".join(part for part in (trial["name"], figures(trial)) if part)
            if trial["reverted"]:
                text += f"; {_layers(len(trial['reverted']))} left in float"
        if not manifest["judged"]:
            text += "; calibrated on random data, so its accuracy is NOT known"
        return text + (f"; {found['reason']}" if found["reason"] else "")
    text = f"does NOT ship: {found['reason']}"
    nearest = None if search is None else nearest_trial(search)
    told = "" if nearest is None else figures(nearest)
    return f"{text}. Nearest: {nearest['name']}: {told}" if nearest is not None and told else text


def doubts(search: Json | None, goldens_db: Sequence[float | None], *, real: bool = False) -> Iterator[str]:
    """What makes the figures of INT8 say less than they seem to.

    Args:
        search: What was tried; None: it was replayed.
        goldens_db: Signal to noise of each quantised graph on the goldens; None: no noise.
        real: Whether they are of the user's data.
    """
    trial = chosen_trial(search)
    if search is not None and trial is not None and trial.get("score"):
        score = score_of(trial["score"])
        random = search.get("calibration", {}).get(
            "random", False
        )  # then nothing was judged, and that is said elsewhere
        if not random and score["score"] is None and 0 < score["decisions"] < _FEW_DECISIONS:
            samples = search["held_out"]["samples"]
            yield (
                f"INT8's accuracy was judged by {score['decisions']} decisions on {samples} held-out sample{'s' if samples != 1 else ''}: "
                f"one of them is {1 / score['decisions']:.0%}; a few hundred samples say more"
            )
    held = search["held_out"] if search is not None and trial is not None else {}
    if held.get("distinct", 0) < _FEW_DISTINCT * held.get("batches", 0):
        yield (
            f"only {held['distinct']} of the {held['batches']} held-out batches differ from each other, so INT8's figures "
            "say less than their number: give samples that differ"
        )
    worst = min((db for db in goldens_db if db is not None), default=math.inf)
    if worst < _WEAK_GOLDENS_DB:
        advice = "" if real else "; with calibration data in files, or --sample, the goldens are real inputs"
        yield f"on the goldens INT8 is only {worst:.0f} dB from float, so `verify` finds gross errors alone{advice}"


def advice_on_speed(found: Json) -> str:
    """Why what ships is not faster, or could be faster, and what to do about it; empty: it is fast, or its speed is not known."""
    search = found["search"]
    trial = chosen_trial(search)
    if search is None or trial is None or not trial.get("speed"):
        return ""
    ratio = float(trial["speed"]["ratio"])
    timed = {t["name"]: t for t in search["trials"] if t.get("speed")}
    fastest = max(timed.values(), key=lambda t: float(t["speed"]["ratio"]))
    best = float(fastest["speed"]["ratio"])
    if best > 1.1 * ratio and fastest["name"] != trial["name"]:
        left = f", with {_layers(len(trial['reverted']))} in float" if trial["reverted"] else ""
        return (
            f"{fastest['name']} ran {best:.2f} times as fast as float, what ships{left} {ratio:.2f} times: accuracy costs the rest. "
            "More calibration data, --effort best or a wider budget (--min-sqnr, --min-agreement, --max-drop) may win it back"
        )
    if trial["speed"]["low"] <= 1:
        return (
            "no form of it is faster than float beyond noise here: its layers are too small, or there is too much between them that "
            "stays in float, for integers to pay; `edgebuild bench BUNDLE --variant NAME --profile` shows where the time goes. A larger "
            "batch or wider layers gain; on the board, `edgerun tune` may find otherwise"
        )
    return ""


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"


def _signal(accuracy: Json) -> float:
    return float("inf") if accuracy["sqnr_db"] is None else float(accuracy["sqnr_db"])
