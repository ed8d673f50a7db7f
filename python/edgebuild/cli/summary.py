"""The closing summary of a build, as lines of text."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgebuild.cli import output
from edgebuild.int8_report import signal_text, verdict
from edgebuild.report import BuildReport, OutputCheck, VariantReport

_LABEL = 12


def summary(report: BuildReport, *, verbose: bool = False) -> list[str]:
    """Lines to print; they fit the terminal where stdout is one.

    Args:
        report: What the build did.
        verbose: Also every output's check and every stage's time.
    """
    lines = ["", f"{output.style('built', fg='green', bold=True)} {output.heading(_shown(report.bundle))}"]
    lines += _field("model", f"{report.model}: {report.kind}")
    lines += _field("target", report.target)
    lines += _signature(report)
    form = "no ONNX graph" if report.opset is None else f"ONNX opset {report.opset}"
    lines += _field("export", f"{report.exporter}, {form}")
    for exporter, error in report.attempts if verbose else ():
        lines += _field("", f"before, {exporter} failed: {error}")
    if report.nodes is not None:
        lines += _field("graph", _graph(report.nodes, report.passes))
    lines += _int8(report)
    lines += _field("parity", _checks(report.parity, "exported model against the original"))
    if verbose:
        lines += _check_table(report.parity)
    lines += _field("size", _sizes(report))
    lines += _field("time", _time(report, verbose=verbose))
    lines += _field("id", report.bundle_id if verbose else report.bundle_id[:16])
    for title, items in (("Assumed", report.assumptions), ("Notes", _notes(report))):
        if items:
            lines += ["", output.heading(title)]
            for item in items:
                lines += output.wrap(item, "  - ", "    ", output.width())
    lines += ["", output.heading("Variants, in the order in which a runner tries them"), *_variants(report)]
    if report.next_steps:
        lines += ["", output.heading("Next")]
        lines += [f"  {step}" for step in report.next_steps]
    return lines


def _field(name: str, text: str) -> list[str]:
    return output.wrap(text, f"  {name:<{_LABEL}}", " " * (_LABEL + 2), output.width())


def _signature(report: BuildReport) -> list[str]:
    signature = report.signature
    lines = _field("inputs", ", ".join(str(spec) for spec in signature.inputs) or "none")
    lines += _field("outputs", ", ".join(str(spec) for spec in signature.outputs))
    for number, (name, sizes) in enumerate(sorted(signature.symbols.items())):
        top = "or more" if sizes.maximum is None else f"to {sizes.maximum}"
        steps = "" if sizes.step == 1 else f" in steps of {sizes.step}"
        lines += _field("" if number else "symbols", f"{name} = {sizes.minimum} {top}{steps}, best {sizes.best}")
    return lines


def _int8(report: BuildReport) -> list[str]:
    lines: list[str] = []
    for name, found in report.quantization.items():
        text = verdict(found)
        lines += _field("int8", text if len(report.quantization) == 1 else f"{name}: {text}")
    return lines


def _graph(sizes: tuple[int, int], passes: Mapping[str, int]) -> str:
    before, after = sizes
    fired = [f"{name} {count}" for name, count in passes.items() if count]
    nodes = f"{before} -> {after} nodes" if before != after else f"{after} nodes, none to spare"
    return f"{nodes}; {', '.join(fired)}" if fired else nodes


def _checks(checks: Sequence[OutputCheck], what: str) -> str:
    if not checks:
        return "not checked"
    failed = sum(not check.passed for check in checks)
    verdict = "passed" if not failed else f"{failed} of {len(checks)} outputs FAILED"
    worst = max(checks, key=_badness)
    return f"{verdict}: {what}, worst {_error(worst)}"


def _badness(check: OutputCheck) -> tuple[bool, float]:
    """Failed first; then by the error in units of the tolerance, as far as the report knows it."""
    scale = check.atol or check.rtol or 1.0
    return not check.passed, check.max_abs_error / scale


def _error(check: OutputCheck) -> str:
    place = f"{check.output}[{','.join(map(str, check.index))}]"
    allowed = f"{check.atol:.1e} + {check.rtol:.1e} of the value"
    return f"{check.max_abs_error:.1e} at {place}, allowed {allowed}"


def _check_table(checks: Sequence[OutputCheck]) -> list[str]:
    rows = [
        (
            check.output,
            "passed" if check.passed else "FAILED",
            f"{check.max_abs_error:.2e}",
            f"[{','.join(map(str, check.index))}]",
            f"{check.atol:.1e}",
            f"{check.rtol:.1e}",
        )
        for check in checks
    ]
    return output.table(("output", "", "worst", "at", "atol", "rtol"), rows, indent=_LABEL + 2)


def _sizes(report: BuildReport) -> str:
    parts = [f"{name} {output.size_text(size)}" for name, size in report.sizes.items() if name != "archive"]
    total = report.sizes.get("archive")
    text = ", ".join(parts)
    return f"{output.size_text(total)}: {text}" if total is not None else text


def _time(report: BuildReport, *, verbose: bool) -> str:
    text = f"{sum(report.seconds.values()):.1f} s"
    stages = [(name, seconds) for name, seconds in report.seconds.items() if verbose or seconds >= 0.5]
    if len(stages) > 1:
        text += f": {', '.join(f'{name} {seconds:.1f}' for name, seconds in stages)}"
    if report.cached:
        text += f"; from the cache: {', '.join(report.cached)}"
    return text


def _variants(report: BuildReport) -> list[str]:
    rows: list[list[str]] = []
    original = report.original_latency_ms
    if original is not None:
        rows.append(["original in PyTorch", "", output.milliseconds(original), "1.0x", "", ""])
    for variant in report.variants:
        worst = max(variant.checks, key=_badness, default=None)
        passed = "" if worst is None else "ok" if worst.passed else "FAILED"
        error = "" if worst is None else f"{worst.max_abs_error:.1e}"
        rows.append(
            [
                variant.name,
                output.size_text(variant.size_bytes),
                "-" if variant.latency_ms is None else output.milliseconds(variant.latency_ms),
                "-" if variant.speed_up is None else f"{variant.speed_up:.1f}x",
                variant.proof or "UNPROVED",
                f"{_accuracy(variant) or error} {passed}".strip(),
            ]
        )
    header = ("variant", "model", "latency", "speed", "run", "accuracy")
    lines = output.table(header, rows, right=(1, 2, 3))
    if any(variant.checks or variant.accuracy for variant in report.variants):
        told = "accuracy: worst error on the goldens against the original"
        if any(variant.accuracy for variant in report.variants):
            told += "; of INT8 signal to noise and kept decisions against float, on data held out"
        lines += output.wrap(told, "  ", "    ", output.width())
    told_of: dict[str, list[str]] = {}
    for variant in report.variants:
        if variant.note:
            told_of.setdefault(variant.note, []).append(variant.name)
    for note, names in told_of.items():
        lines += output.wrap(f"{', '.join(names)}: {note}", "  ", "    ", output.width())
    return lines


def _accuracy(variant: VariantReport) -> str:
    """INT8 against float on what was held out; empty: not known, or no INT8."""
    if variant.accuracy is None:
        return ""
    kept = variant.accuracy["agreement"]
    return signal_text(variant.accuracy) + ("" if kept is None else f" {kept:.1%}".replace(".0%", "%"))


def _shown(bundle: Path) -> str:
    """The bundle's path as one would type it here."""
    try:
        return str(bundle.relative_to(Path.cwd()))
    except ValueError:
        return str(bundle)


def _notes(report: BuildReport) -> list[str]:
    verdicts = {f"no INT8 variant ships for {name}: {q['reason']}" for name, q in report.quantization.items()}
    verdicts |= {f"INT8 for {name}: {q['reason']}" for name, q in report.quantization.items()}
    notes = [note for note in report.notes if note not in verdicts]  # the line on INT8 says them, with figures
    unproved = [v.name for v in report.variants if v.speed == "unproved"]
    if len(report.variants) > 1 and unproved:
        notes.append(
            f"speed unproved: {', '.join(unproved)}: this machine's times say nothing about the CPUs that {'they are' if len(unproved) > 1 else 'it is'} "
            "for; `edgerun tune` on the board measures, and the fastest is tried first from then on"
        )
    float_alone = not any(variant.precision == "int8" for variant in report.variants)
    if report.opset is not None and not report.quantization and float_alone:
        notes.append("all variants are float; for INT8 add: --int8 --calib FOLDER (docs/quantization.md)")
    return notes
