"""``edgebuild explain``: what a build did and why: graph passes, INT8 candidates, and where the error comes from."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebuild.cli import output
from edgebuild.cli.bundle_argument import open_bundle
from edgebuild.cli.options import common
from edgebuild.cli.predicted_plan import plan_lines
from edgebuild.errors import UsageError
from edgebuild.int8_report import advice_on_speed

if TYPE_CHECKING:
    from edgebuild.explain.explain import BackendExplanation, Explanation
    from edgebuild.explain.findings import Finding
    from edgebuild.explain.passes import PassExplanation
    from edgebuild.explain.result import Analysis

_FINDINGS = 5
_SMALLEST = 0.02
"""Share of the noise below which a reason is shown with -v only, but for the first."""

_LAYERS = 12
_BAR = 10


@click.command(name="explain")
@click.argument("bundle", metavar="BUNDLE", type=click.Path())
@click.option("--measure", is_flag=True, help="Measure what each graph pass gains in time.")
@click.option("--no-layers", is_flag=True, help="Don't measure what each layer adds to the error.")
@click.option("--calib", metavar="DATA", help="The calibration data again, where the build kept none.")
@click.option("--data", metavar="DATA", help="Data as in use, to judge on instead of what the build held out.")
@click.option("--preprocess", metavar="SPEC", help="How images become inputs, if the bundle does not say.")
@click.option("--report", metavar="FILE", type=click.Path(path_type=Path), help="The build's report, if not beside it.")
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write one self-contained page too.")
@common
def command(
    bundle: str,
    measure: bool,
    no_layers: bool,
    calib: str | None,
    data: str | None,
    preprocess: str | None,
    report: Path | None,
    html: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Show what a build did, and why INT8 loses accuracy."""
    if html is not None and (html.is_dir() or not html.absolute().parent.is_dir()):
        what = "is a folder" if html.is_dir() else f"can't be written: there is no folder {html.parent}"
        msg = f"--html {html} {what}, expected the name of a file to write"
        raise UsageError(msg, hint="for example --html report.html")
    if data is not None and no_layers:
        msg = "--data is given with --no-layers, which judges nothing"
        raise UsageError(msg, hint="leave one of them out")
    opened = open_bundle(bundle)

    from edgebuild.cli.progress import show_progress

    with show_progress(silent=as_json, verbose=verbose) as progress:
        from edgebuild.explain.explain import explain

        last = ""

        def advance(text: str, done: int, total: int) -> None:
            nonlocal last
            if text != last:
                progress.stage("explain", text)
                last = text
            if total:
                progress.advance(done, total, "graphs")

        found = explain(
            opened,
            report=report,
            measure=measure,
            layers=not no_layers,
            calib=calib,
            data=data,
            preprocess=preprocess,
            progress=advance,
        )
        if html is not None:
            from edgebuild.bundle.atomic import atomic_file
            from edgebuild.explain.html import page

            with atomic_file(html.absolute()) as stream:
                stream.write(page(found).encode())
    if as_json:
        output.print_json({**found.to_json(), "exit_code": 0})
        return
    for line in text_of(found, verbose=verbose):
        output.echo(line)
    if html is not None:
        output.echo()
        output.echo(f"the same with plots: {html}")


def text_of(found: "Explanation", *, verbose: bool = False) -> list[str]:
    """The explanation as lines for a terminal."""
    lines = [output.heading(f"{found.name} for {found.target}"), *_variants(found)]
    for backend in found.backends:
        title = "" if len(found.backends) == 1 else f" for {backend.backend}"
        lines += ["", output.heading(f"Graph passes{title}: {backend.nodes[0]} nodes before, {backend.nodes[1]} after")]
        lines += _passes(backend.passes)
        lines += _int8(backend, title, verbose=verbose)
    for plan in found.plans:
        lines += ["", *plan_lines(plan, verbose=verbose)]
    return lines


def _variants(found: "Explanation") -> list[str]:
    rows = []
    for variant in found.variants:
        latency, speed_up = variant["latency_ms"], variant["speed_up"]
        rows.append(
            [
                variant["name"],
                output.size_text(variant["size_bytes"]),
                "-" if latency is None else output.milliseconds(latency),
                "-" if speed_up is None else f"{speed_up:.1f}x the original",
            ]
        )
    return output.table(("variant", "model", "latency", "speed"), rows, right=(1, 2))


def _passes(passes: "Sequence[PassExplanation]") -> list[str]:
    if not passes:
        return ["  none fired: the graph is as it was exported"]
    measured = any(entry.gain is not None or entry.note for entry in passes)
    rows = []
    for entry in passes:
        row = [entry.name, str(entry.rewrites), f"{-entry.nodes_removed:+d}" if entry.nodes_removed else "0"]
        if measured:
            row.append(_gain(entry))
        rows.append(row)
    header = ["pass", "fired", "nodes", *(["time without it over time with it (95 % interval)"] if measured else [])]
    return output.table(header, rows, right=(1, 2))


def _gain(entry: "PassExplanation") -> str:
    if entry.gain is None:
        return entry.note
    gain = entry.gain
    verdict = "gains" if gain.faster else "costs" if gain.slower else "no difference beyond noise"
    return f"{gain.ratio:.3f} ({gain.low:.3f} to {gain.high:.3f}): {verdict}"


def _int8(backend: "BackendExplanation", title: str, *, verbose: bool) -> list[str]:
    analysis = backend.analysis
    if analysis is None and not backend.trials:
        text = backend.reason or "was not asked for (--int8 --calib DATA)"
        return ["", output.heading(f"INT8{title}"), *output.wrap(f"none: {text}", "  ", "  ", output.width())]
    lines = ["", output.heading(f"INT8{title}: what was tried"), *_trials(backend, verbose=verbose)]
    if backend.reason:
        lines += output.wrap(backend.reason, "  ", "  ", output.width())
    if analysis is None:
        return lines
    chosen = analysis.candidate if analysis.shipped else None
    advice = advice_on_speed({"search": {"chosen": chosen, "trials": backend.trials}})
    if advice:
        lines += output.wrap(f"speed: {advice}", "  ", "  ", output.width())
    which = "what ships" if analysis.shipped else "what came nearest"
    if any(layer.reverted for layer in analysis.layers):
        which += ", as if no layer were left in float"
    lines += [
        "",
        output.heading(
            f"{'Where its error comes from' if analysis.shipped else 'Why it loses'}: {analysis.candidate} ({which})"
        ),
    ]
    lines += output.wrap(total_text(analysis), "  ", "  ", output.width())
    shown = [f for i, f in enumerate(analysis.findings) if i == 0 or f.share is None or f.share >= _SMALLEST][
        :_FINDINGS
    ]
    for number, finding in enumerate(analysis.findings if verbose else shown, 1):
        lines += output.wrap(
            f"{finding.cause}, {share_text(finding)}: {finding.where}{_by(finding.where, finding.layers)}: {finding.detail}",
            f"  {number}. ",
            "     ",
            output.width(),
        )
        lines += output.wrap(finding.advice, "     -> ", "        ", output.width())
    lines += ["", output.heading("Layers by what they add to the noise"), *_layers(analysis, verbose=verbose)]
    reverted = [layer.name for layer in analysis.layers if layer.reverted]
    if reverted:
        lines += output.wrap(
            f"left in float for the sake of accuracy: {', '.join(reverted)}", "  ", "  ", output.width()
        )
    return lines


def total_text(analysis: "Analysis") -> str:
    """What was measured in all, and how the layers add up to it."""
    text = (
        f"signal to noise of output '{analysis.output}' {decibels(analysis.total)} with all {len(analysis.layers)} layers "
        f"quantised, on {analysis.batches} held-out batches; the layers' contributions add up to "
        f"{analysis.sum / analysis.total if analysis.total > 0 else 1.0:.1%} of the noise"
    )
    if analysis.on_calibration is not None:
        text += f"; on calibration data {decibels(analysis.on_calibration)}"
    return text


def share_text(finding: "Finding") -> str:
    """How much of the noise a finding explains."""
    if finding.repaired:
        return "repaired"
    return "not seen here" if finding.share is None else f"{finding.share:.0%} of the noise"


def decibels(noise: float) -> str:
    """Signal to noise, from noise over signal."""
    return f"{-10 * math.log10(noise):.1f} dB" if noise > 0 else "without noise"


def _by(where: str, layers: Sequence[str]) -> str:
    others = [layer for layer in layers if layer not in where]
    if not others:
        return ""
    more = f" and {len(others) - 2} more" if len(others) > 2 else ""
    return f" (layer{'s' if len(others) > 1 else ''} {', '.join(others[:2])}{more})"


def _trials(backend: "BackendExplanation", *, verbose: bool) -> list[str]:
    last = {trial["name"]: trial for trial in backend.trials}  # the last word on each counts
    rows = []
    for name, trial in last.items():
        speed = trial.get("speed")
        score = trial.get("score")
        worst = (
            min((o["sqnr_db"] for o in score["outputs"] if o["sqnr_db"] is not None), default=None) if score else None
        )
        verdict = "fits" if trial["fits"] else "; ".join(trial["violations"]) or "only timed"
        rows.append(
            [
                "-" if speed is None else f"{speed['ratio']:.2f}x",
                "-" if worst is None else f"{worst:.1f} dB",
                f"{name}: {verdict}" if verbose or trial["fits"] or score is None else f"{name}: {_short(verdict)}",
            ]
        )
    return output.table(("speed", "signal", "candidate"), rows, right=(0, 1))


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


def _layers(analysis: "Analysis", *, verbose: bool) -> list[str]:
    ordered = sorted(analysis.layers, key=lambda layer: -layer.noise)
    shown = ordered if verbose else ordered[:_LAYERS]
    top = max((layer.share for layer in shown), default=0.0)
    columns = output.width()
    longest = 24 if columns is not None and columns < 100 else 48
    rows = []
    for layer in shown:
        bar = "#" * round(_BAR * max(layer.share, 0.0) / top) if top > 0 else ""
        rows.append(
            [
                shorten(layer.name, longest),
                layer.operator,
                layer.mode,
                f"{layer.share:.1%}",
                bar.ljust(_BAR),
                f"{layer.cause}: {layer.detail}" if verbose else layer.cause,
            ]
        )
    lines = output.table(("layer", "operator", "mode", "share", "", "mainly"), rows, right=(3,))
    if len(ordered) > len(shown):
        rest = sum(layer.share for layer in ordered[len(shown) :])
        lines.append(f"  and {len(ordered) - len(shown)} more with {rest:.1%} (-v shows all)")
    return lines


def shorten(name: str, longest: int) -> str:
    """A name of at most ``longest`` characters: its ends, which tell layers apart."""
    if len(name) <= longest:
        return name
    front = (longest - 1) // 3
    return f"{name[:front]}…{name[len(name) - (longest - 1 - front) :]}"
