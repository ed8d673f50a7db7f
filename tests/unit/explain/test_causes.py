"""The order of reasons: what is put before what."""

import numpy as np
import pytest
from explain_tools import U8S8, Array, statistics

from edgebuild.explain.causes import Cause, Part, value_cause, weight_cause
from edgebuild.explain.findings import Clues, Repair, findings
from edgebuild.explain.growth import Growth
from edgebuild.explain.shift import Shift
from edgebuild.explain.values import QuantizedValue, WeightNoise, value_noise

RNG = np.random.default_rng(11)


def part(name: str, noise: float, *, cause: Cause = "rounding", local: float = 1e-3) -> Part:
    return Part(kind="value", name=name, layers=(f"layer of {name}",), noise=noise, local=local, cause=cause, detail="")


def causes(*parts: Part, clues: Clues) -> list[tuple[str, str]]:
    return [(finding.cause, finding.where) for finding in findings(parts, clues)]


def test_parts_come_by_their_noise() -> None:
    parts = [part(name, noise, cause="clipping") for name, noise in (("a", 0.001), ("b", 0.007), ("c", -0.0001))]
    found = findings(parts, Clues(total=0.008))
    assert [finding.where for finding in found] == ["b", "a", "c"]
    assert [finding.share for finding in found] == pytest.approx([7 / 8, 1 / 8, -1 / 80])
    assert found[0].layers == ("layer of b",)


def test_mere_rounding_is_one_reason_in_the_place_of_its_largest_part() -> None:
    parts = [part(name, noise) for name, noise in (("a", 0.003), ("b", 0.002), ("c", 0.001))]
    found = findings([*parts, part("d", 0.004, cause="clipping")], Clues(total=0.01))
    assert [(finding.cause, finding.where) for finding in found] == [("clipping", "d"), ("rounding", "a")]
    assert found[1].share == pytest.approx(0.6)
    assert "a 30%, b 20%, c 10%" in found[1].detail


def test_what_was_repaired_is_named_where_nothing_else_stands_out() -> None:
    repair = Repair(where="norm", layers=("q", "k"), ratio=1000.0, how="smoothing")
    quiet = findings([part("a", 0.01)], Clues(total=0.01, repairs=[repair]))
    assert (quiet[0].cause, quiet[0].layers, quiet[0].repaired) == ("channel range ratio", ("q", "k"), True)
    loud = findings([part("a", 0.01, cause="clipping")], Clues(total=0.01, repairs=[repair]))
    assert [finding.repaired for finding in loud] == [False, True]


def test_other_data_come_before_everything() -> None:
    shift = Shift(input="x", kind="scale", text="'x' is larger", strength=8.0)
    clues = Clues(total=0.1, on_calibration=0.001, shift=shift, saturation={"l": (5.0, 0.5)})
    assert causes(part("a", 0.1, cause="clipping"), clues=clues)[0] == ("calibration data", "input 'x'")


def test_values_beyond_what_calibration_saw_are_one_reason_together() -> None:
    parts = [part(name, 0.03, cause="calibration data") for name in "abc"] + [part("d", 0.01)]
    found = findings(parts, Clues(total=0.1, on_calibration=0.01))
    assert [finding.cause for finding in found] == ["calibration data", "rounding"]
    assert found[0].share == pytest.approx(0.9)
    assert found[0].layers == ("layer of a", "layer of b", "layer of c")


def test_more_noise_on_held_out_data_alone_proves_nothing() -> None:
    assert causes(part("a", 0.1), clues=Clues(total=0.1, on_calibration=0.001)) == [("rounding", "a")]


def test_saturation_comes_first_if_it_is_more_than_all_that_shows() -> None:
    small, large = Clues(total=0.01, saturation={"l": (0.001, 0.1)}), Clues(total=0.01, saturation={"l": (0.5, 0.1)})
    assert causes(part("a", 0.01), clues=small) == [("rounding", "a"), ("saturation", "l")]
    assert causes(part("a", 0.01), clues=large) == [("saturation", "l"), ("rounding", "a")]
    assert findings([part("a", 0.01)], large)[0].share is None


def test_an_operator_that_makes_small_noise_large_comes_before_the_layers() -> None:
    growth = Growth(node="exp", operator="Exp", value="e", before=1e-3, after=1e-1)
    clues = Clues(total=0.1, growths=[growth], near={"exp": ("head",)})
    found = findings([part("a", 0.1, local=1e-3)], clues)
    assert (found[0].cause, found[0].layers) == ("sensitive operator", ("head",))
    assert "Exp makes 100 times" in found[0].detail
    # But not if a layer's own noise is as large without it.
    assert findings([part("a", 0.1, local=0.2)], clues)[0].where == "a"


def test_an_operator_off_the_main_path_comes_behind_the_layers() -> None:
    growth = Growth(node="gelu", operator="Gelu", value="g", before=1e-2, after=1e-1, share=0.1)
    found = findings([part("a", 0.005, local=1e-4)], Clues(total=0.005, growths=[growth]))
    assert [finding.where for finding in found] == ["a", "Gelu 'gelu'"]
    assert found[1].share == pytest.approx(0.09)


def test_an_operator_whose_noise_does_not_matter_in_the_end_is_not_named() -> None:
    growth = Growth(node="exp", operator="Exp", value="e", before=1e-6, after=1e-5)
    assert causes(part("a", 0.1), clues=Clues(total=0.1, growths=[growth])) == [("rounding", "a")]


def cause_of(array: Array, extent: tuple[float, float] | None, calibration: Array | None = None) -> str:
    value = QuantizedValue(name="v", extent=extent, makers=("m",), readers=("r",), axis=1)
    stats = statistics(array)
    noise = value_noise(stats, extent, U8S8, None)
    return value_cause(value, noise, stats, None if calibration is None else statistics(calibration))[0]


def normal(*sizes: float) -> Array:
    return RNG.normal(0, 1, (6, len(sizes), 12, 12)) * np.array(sizes)[None, :, None, None]


def test_a_value_within_its_range_has_nothing_but_rounding() -> None:
    array = normal(1, 1, 1, 2)
    assert cause_of(array, (float(array.min()), float(array.max()))) == "rounding"
    assert cause_of(array, None) == "rounding"


def test_a_range_below_what_calibration_saw_clips() -> None:
    array = normal(1, 1, 1, 1)
    assert cause_of(array, (-1.0, 1.0), normal(1, 1, 1, 1)) == "clipping"
    assert cause_of(array, (-1.0, 1.0)) == "clipping"


def test_values_beyond_all_that_calibration_saw_are_its_fault() -> None:
    array = normal(5, 5, 5, 5)
    seen = normal(1, 1, 1, 1)
    assert cause_of(array, (float(seen.min()), float(seen.max())), seen) == "calibration data"


def test_a_range_far_too_wide_is_the_datas_fault_or_its_own() -> None:
    array = normal(1, 1, 1, 1)
    assert cause_of(array, (-300.0, 300.0), normal(80, 80, 80, 80)) == "calibration data"
    assert cause_of(array, (-300.0, 300.0), normal(1, 1, 1, 1)) == "wide range"


def test_one_large_channel_is_a_ratio_and_one_large_element_an_outlier() -> None:
    unequal = normal(1, 1, 200, 1, 1)
    assert cause_of(unequal, (float(unequal.min()), float(unequal.max()))) == "channel range ratio"
    assert cause_of(unequal, (-100.0, 100.0)) == "channel range ratio"
    spiky = normal(1, 1, 1, 1)
    spiky[0, :, 0, 0] = 60
    assert cause_of(spiky, (float(spiky.min()), float(spiky.max()))) == "outliers"
    assert cause_of(spiky, (-20.0, 20.0)) == "outliers"


def test_weights_of_unequal_input_channels_are_called_so() -> None:
    def cause(noise: float, **fields: float) -> str:
        given = {"bits_lost": 0.0, "channel_ratio": 1.0, "peak": 3.0, "input_ratio": 1.0, **fields}
        return weight_cause(WeightNoise(noise=noise, **given))[0]

    assert cause(0.1, input_ratio=100.0) == "channel range ratio"
    assert cause(1e-5, input_ratio=100.0) == "rounding"
    assert cause(0.1) == "rounding"
    assert cause(0.1, channel_ratio=40.0) == "channel range ratio"
    assert cause(0.1, peak=40.0) == "outliers"
    assert cause(1e-5, bits_lost=2.0, peak=40.0) == "saturation"
