"""The closing summary of a build."""

from pathlib import Path

import pytest

from command_line import build_report, check, variant_report
from edgebuild.cli import output, summary


@pytest.mark.parametrize(("columns", "wide"), [(40, False), (60, False), (120, True), (None, True)])
def test_a_table_that_leaves_its_last_column_no_room_becomes_paragraphs(
    monkeypatch: pytest.MonkeyPatch, columns: int | None, wide: bool
) -> None:
    monkeypatch.setattr(output, "width", lambda: columns)
    row = ("onnxruntime-float32", "9.0 KiB", "onnxruntime 1.31.1, bundled", "-", "cx16 popcnt sse4_1 glibc 2.28")
    lines = output.table(("variant", "model", "engine", "speed", "needs"), [row, row], right=(1,))
    text = " ".join(" ".join(lines).split())
    assert columns is None or max(map(len, lines)) <= columns
    if wide:
        assert [line.split()[0] for line in lines] == ["variant", row[0], row[0]]
    else:
        told = f"{row[0]} model 9.0 KiB, engine onnxruntime 1.31.1, bundled, needs cx16 popcnt sse4_1 glibc 2.28"
        assert text == f"{told} {told}"  # a missing value is left out


@pytest.mark.parametrize("columns", [80, 120, 160])
def test_summary_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(output, "width", lambda: columns)
    report = build_report(
        bundle=Path("digits.x86-64.edge"),
        notes=("word " * 60,),
        variants=(
            variant_report(),
            variant_report(name="b", latency_ms=None, speed_up=None, proof=None, note="n " * 90),
        ),
    )
    lines = summary.summary(report, verbose=True)
    assert max(map(len, lines)) <= columns
    assert any("UNPROVED" in line for line in lines)


@pytest.mark.parametrize("columns", [80, 160])
def test_the_summary_gives_int8_with_its_accuracy_and_its_speed_over_float(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr(output, "width", lambda: columns)
    score = {"outputs": [{"sqnr_db": 33.04, "agreement": 1.0, "decisions": 200}], "value": None, "float_value": None}
    trial = {
        "name": "static",
        "fits": True,
        "score": score,
        "speed": {"ratio": 2.5, "low": 2.4, "high": 2.6},
        "reverted": [],
    }
    accuracy = {"sqnr_db": 33.04, "agreement": 1.0, "decisions": 200, "score": None, "float_score": None}
    report = build_report(
        quantization={
            "onnxruntime": {
                "reason": "",
                "manifest": {"judged": True},
                "search": {"chosen": "static", "trials": [trial]},
            }
        },
        variants=(
            variant_report(name="onnxruntime-int8", precision="int8", accuracy=accuracy),
            variant_report(name="onnxruntime-int8-7bit", precision="int8", speed="unproved"),
            variant_report(),
        ),
    )
    lines = summary.summary(report)
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    assert "int8 static; 33.0 dB, 100.0% of 200 decisions as float; 2.50 times the speed of float" in text
    assert any(line.strip().startswith("onnxruntime-int8 ") and line.endswith("33.0 dB 100% ok") for line in lines)
    assert "speed unproved: onnxruntime-int8-7bit:" in text
    assert "`edgerun tune` on the board" in text
    assert "all variants are float" not in text


def test_the_summary_says_with_figures_why_int8_does_not_ship() -> None:
    trial = {
        "name": "static",
        "fits": False,
        "score": None,
        "speed": {"ratio": 0.7, "low": 0.6, "high": 0.8},
        "reverted": [],
    }
    why = "every quantised form is slower than float here"
    found = {"reason": why, "manifest": None, "search": {"chosen": None, "trials": [trial]}}
    note = f"no INT8 variant ships for onnxruntime: {why}"
    text = "\n".join(summary.summary(build_report(quantization={"onnxruntime": found}, notes=(note,))))
    assert f"does NOT ship: {why}. Nearest: static: 0.70 times the speed of float (0.60 to 0.80: SLOWER)" in text
    assert text.count(why) == 1


def test_verbose_summary_says_what_other_exporters_failed_on() -> None:
    report = build_report(attempts=(("torch.export", "no kernel"), ("strict", "a guard")))
    assert "before, torch.export failed: no kernel" in "\n".join(summary.summary(report, verbose=True))
    assert "no kernel" not in "\n".join(summary.summary(report))


def test_summary_says_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(summary.summary(build_report(parity=(check(), check(output="z", passed=False)))))
    assert "1 of 2 outputs FAILED" in text
    assert "at z[0,3]" in text


def test_summary_of_a_bare_report_has_no_empty_parts() -> None:
    report = build_report(parity=(), passes={}, nodes=(5, 5), assumptions=(), notes=(), cached=(), next_steps=())
    text = "\n".join(summary.summary(report))
    assert "Assumed" not in text
    assert "Next" not in text
    assert "not checked" in text


def test_what_is_said_of_several_variants_alike_is_said_once() -> None:
    why = "not run here: TensorRT 10 can't be opened"
    variants = tuple(variant_report(name=f"tensorrt-{kind}", proof=None, checks=(), note=why) for kind in ("a", "b"))
    lines = summary.summary(build_report(variants=(*variants, variant_report(note="not measured"))))
    assert [line.strip() for line in lines if why in line] == [f"tensorrt-a, tensorrt-b: {why}"]
    assert any(line.strip() == "onnxruntime-float32: not measured" for line in lines)
