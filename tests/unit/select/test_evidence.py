"""What an explanation starts from: the candidate that ships, with the layers back in that stayed float for accuracy."""

from dataclasses import replace

import numpy as np
from search_tools import LAYERS, SCHEME, scored

from edgebuild.quantize.plan import Mode, Plan, Smoothing
from edgebuild.quantize.schemes import SchemeGroup
from edgebuild.select.evidence import Evidence, evidence_of
from edgebuild.select.trials import Outcome, Trial

GROUP = SchemeGroup(scheme=SCHEME, requires=((),), suffix="")


class Data:
    """Stands for CalibrationData: one batch."""

    def __len__(self) -> int:
        return 1

    def batches(self):  # type: ignore[no-untyped-def]
        yield {"x": np.zeros((1, 16), np.float32)}


def smoothing(alpha: float) -> Smoothing:
    return Smoothing(alpha=0.5, absmax={"x": (1.0,) * 16}, alphas={"x": alpha})


def explained(chosen: Trial, *others: Trial, monkeypatch) -> Evidence:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("edgebuild.select.evidence.named_batches", lambda data, inputs: data.batches())
    outcome = Outcome(chosen=chosen, trials=(*others, chosen))
    found = evidence_of(outcome, GROUP, (), {"x": "x"}, {"y": "y"}, Data(), Data())  # type: ignore[arg-type]
    assert found is not None
    return found


def test_layers_left_float_come_back_in_their_first_form_and_the_others_keep_theirs(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    first: dict[str, Mode] = dict.fromkeys(LAYERS, "dynamic")
    start = Trial(
        name="p, smoothed",
        placement="p",
        base="smoothed",
        method=None,
        plan=Plan(modes=first, smoothing=smoothing(0.5), means=dict.fromkeys(LAYERS, (1.0,))),
        score=scored(18.0),
        violations=("too noisy",),
    )
    modes: dict[str, Mode] = {**first, "layer3": "blockwise"}
    del modes["layer9"]
    chosen = replace(
        start,
        name="p, forms by sensitivity",
        plan=Plan(modes=modes, smoothing=smoothing(0.75), roundings={"layer1": {"8": "AA=="}}),
        score=scored(25.0),
        violations=(),
        reverted=("layer9",),
    )
    found = explained(chosen, start, monkeypatch=monkeypatch)
    assert found.shipped
    assert found.reverted == ("layer9",)
    assert found.candidate == chosen.name
    assert found.plan.modes == {**first, "layer3": "blockwise"}
    assert list(found.plan.modes) == list(LAYERS)
    assert found.plan.smoothing == smoothing(0.75)
    assert found.plan.roundings == chosen.plan.roundings
    assert set(found.plan.means) == {"layer9"}
    found.write(tmp_path)
    again = Evidence.read(tmp_path)
    assert again is not None
    assert again.plan == found.plan
    assert again.reverted == ("layer9",)
