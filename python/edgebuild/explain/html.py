"""The explanation as one page: opens offline, needs no script and no font, reads on light and dark ground."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from edgebuild.explain import svg
from edgebuild.explain.causes import ADVICE
from edgebuild.explain.explain import BackendExplanation, Explanation
from edgebuild.explain.findings import Finding
from edgebuild.explain.passes import PassExplanation
from edgebuild.explain.plan_section import plan_section
from edgebuild.explain.result import Analysis, ValueExplanation

_HISTOGRAMS = 60
_FINDINGS = 8
_BARS = 80

_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1d2733; --soft: #5b6875; --line: #d9dfe5; --card: #f5f7f9;
  --blue: #2f6fb3; --orange: #c8641b; --red: #bb2f3a; --green: #2c8a57; --purple: #7a4fb5; --teal: #1b8a99; --grey: #8a96a3; --pink: #b03a86; }
@media (prefers-color-scheme: dark) { :root { --ground: #14191f; --ink: #e4e9ee; --soft: #9aa7b4; --line: #323c47;
  --card: #1d242c; --blue: #6aa7e8; --orange: #ee9a58; --red: #ef7680; --green: #63c48f; --purple: #b394ea; --teal: #5cc3d1;
  --grey: #8a96a3; --pink: #e88ac3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 940px; padding: 24px 32px 64px; background: var(--ground); color: var(--ink);
  font: 14px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 24px; margin: 8px 0 0; } h2 { font-size: 18px; margin: 36px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 14px; margin: 0 0 4px; } p { margin: 6px 0; } .soft { color: var(--soft); }
code, .name { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 12px; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: 8px 0; } th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { max-width: 100%; height: auto; display: block; } svg text { font: 11px ui-monospace, "DejaVu Sans Mono", monospace; fill: var(--ink); }
svg .tick, svg .value { fill: var(--soft); } svg .axis { stroke: var(--soft); fill: none; }
svg .bar { fill: var(--blue); } svg .float { fill: var(--grey); } svg .whisker { stroke: var(--ink); fill: none; }
svg .mark { stroke: var(--red); stroke-dasharray: 4 3; } svg .line { stroke: var(--blue); stroke-width: 1.6; fill: none; }
svg .held { fill: var(--blue); fill-opacity: .45; } svg .calib { stroke: var(--orange); stroke-width: 1.4; fill: none; }
svg .beyond { fill: var(--red); fill-opacity: .13; } svg .range { stroke: var(--red); stroke-width: 1.4; fill: none; }
.c-calibration-data { --c: var(--purple); } .c-clipping { --c: var(--red); } .c-wide-range { --c: var(--teal); }
.c-channel-range-ratio { --c: var(--orange); } .c-outliers { --c: var(--pink); } .c-saturation { --c: var(--red); }
.c-sensitive-operator { --c: var(--green); } .c-rounding { --c: var(--blue); }
svg [class*="c-"] { fill: var(--c); } .dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; background: var(--c); margin-right: 6px; }
.card { background: var(--card); border-left: 4px solid var(--c, var(--line)); border-radius: 4px; padding: 10px 14px; margin: 8px 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); gap: 12px; }
.legend span { margin-right: 16px; white-space: nowrap; } .key { display: inline-block; width: 14px; height: 10px; margin-right: 5px; }
"""


def page(found: Explanation) -> str:
    """The whole page as text."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(found.name)} for {escape(found.target)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(found.name)} for {escape(found.target)}</h1>",
        f'<p class="soft">bundle <code>{escape(found.bundle.name)}</code>, id <code>{escape(found.bundle_id)}</code></p>',
        *_variants(found),
    ]
    for backend in found.backends:
        title = "" if len(found.backends) == 1 else f" for {backend.backend}"
        parts += _int8(backend, title)
        parts += _passes(backend, title)
    for plan in found.plans:
        parts += plan_section(plan)
    return "".join([*parts, "</body></html>\n"])


def _variants(found: Explanation) -> Iterator[str]:
    rows = []
    if found.original_ms is not None:
        rows.append(
            svg.Bar(
                label="original in PyTorch", value=found.original_ms, text=f"{found.original_ms:.3g} ms", css="float"
            )
        )
    missing = []
    for variant in found.variants:
        latency = variant["latency_ms"]
        if latency is None:
            missing.append(variant["name"])
            continue
        text = f"{latency:.3g} ms"
        if variant["speed_up"] is not None:
            text += f", {variant['speed_up']:.1f}x"
        css = "plain" if variant["precision"] == "int8" else "float"
        rows.append(svg.Bar(label=variant["name"], value=latency, text=text, css=css))
    yield "<h2>Latency</h2>"
    if rows:
        yield svg.bars(rows, name="latency of the variants")
    if missing:
        yield f'<p class="soft">not measured: {escape(", ".join(missing))}</p>'


def _int8(backend: BackendExplanation, title: str) -> Iterator[str]:
    analysis = backend.analysis
    if analysis is None and not backend.trials:
        yield f"<h2>INT8{escape(title)}</h2><p>none: {escape(backend.reason or 'it was not asked for')}</p>"
        return
    if analysis is not None:
        yield from _why(analysis, title)
    yield f"<h2>What was tried{escape(title)}</h2>"
    if backend.reason:
        yield f"<p>{escape(backend.reason)}</p>"
    yield from _trials(backend)
    if analysis is not None:
        yield from _layers(analysis)
        yield from _through(analysis)
        yield from _values(analysis)


def _why(analysis: Analysis, title: str) -> Iterator[str]:
    which = "what ships" if analysis.shipped else "what came nearest; float ships"
    if any(layer.reverted for layer in analysis.layers):
        which += ", as if no layer were left in float"
    yield f"<h2>Why INT8 loses{escape(title)}</h2><p>{escape(analysis.candidate)} ({which})</p>"
    yield (
        f"<p>Signal to noise of output <code>{escape(analysis.output)}</code> is <b>{decibels(analysis.total)}</b> with all "
        f"{len(analysis.layers)} layers quantised, on {analysis.batches} held-out batches. The layers' contributions add up to "
        f"{analysis.sum / analysis.total if analysis.total > 0 else 1.0:.1%} of that noise.</p>"
    )
    for number, finding in enumerate(analysis.findings[:_FINDINGS], 1):
        yield _card(number, finding)
    rest = len(analysis.findings) - _FINDINGS
    if rest > 0:
        yield f'<p class="soft">and {rest} smaller ones</p>'


def _card(number: int, finding: Finding) -> str:
    share = "does not show on this machine" if finding.share is None else f"{finding.share:.0%} of the noise"
    share = "repaired" if finding.repaired else share
    layers = f'<p class="soft name">layers: {escape(", ".join(finding.layers[:6]))}</p>' if finding.layers else ""
    return (
        f'<div class="card {_css(finding.cause)}"><h3>{number}. {escape(finding.cause)}, {share}</h3>'
        f'<p class="name">{escape(finding.where)}</p><p>{escape(finding.detail)}</p>{layers}<p>→ {escape(finding.advice)}</p></div>'
    )


def _trials(backend: BackendExplanation) -> Iterator[str]:
    last = {trial["name"]: trial for trial in backend.trials}
    timed = [
        svg.Bar(
            label=name,
            value=trial["speed"]["ratio"],
            low=trial["speed"]["low"],
            high=trial["speed"]["high"],
            text=f"{trial['speed']['ratio']:.2f}x",
            css="plain" if trial["fits"] else "float",
        )
        for name, trial in last.items()
        if trial.get("speed") is not None
    ]
    if timed:
        yield '<p class="soft">Speed over float, with 95 % intervals; the line is float. Gray: outside the budget, or only timed.</p>'
        yield svg.bars(timed, name="speed of the candidates over float", mark=1.0, label=64)
    yield '<table><tr><th>candidate</th><th class="number">signal to noise</th><th>verdict</th></tr>'
    for name, trial in last.items():
        score = trial.get("score")
        noise = [o["sqnr_db"] for o in score["outputs"] if o["sqnr_db"] is not None] if score else []
        verdict = "fits" if trial["fits"] else "; ".join(trial["violations"]) or "only timed"
        signal = f"{min(noise):.1f} dB" if noise else ""
        yield f'<tr><td>{escape(name)}</td><td class="number">{signal}</td><td>{escape(verdict)}</td></tr>'
    yield "</table>"


def _layers(analysis: Analysis) -> Iterator[str]:
    yield "<h2>Error by layer</h2>"
    yield (
        '<p class="soft">What the noise grows by when a layer is quantised: mean of the order of execution and the order against it '
        "(the whisker's ends). In the order of execution; below 0 a layer's noise cancels some of another's.</p>"
    )
    yield _legend(sorted({layer.cause for layer in analysis.layers}))
    shown = list(analysis.layers)
    if len(shown) > _BARS:
        kept = {layer.name for layer in sorted(shown, key=lambda layer: -abs(layer.noise))[:_BARS]}
        shown = [layer for layer in shown if layer.name in kept]
        yield f'<p class="soft">the {_BARS} largest of {len(analysis.layers)}</p>'
    total = analysis.total or 1.0
    yield svg.bars(
        [
            svg.Bar(
                label=layer.name,
                value=layer.share,
                low=layer.share - layer.spread / total,
                high=layer.share + layer.spread / total,
                text=f"{layer.share:.1%}{', float' if layer.reverted else ''}",
                css=_css(layer.cause),
                title=f"{layer.operator}, {layer.mode}: {layer.cause}: {layer.detail}",
            )
            for layer in shown
        ],
        name="share of the noise by layer",
    )
    reverted = [layer.name for layer in analysis.layers if layer.reverted]
    if reverted:
        yield f"<p>Left in float for the sake of accuracy: <code>{escape(', '.join(reverted))}</code></p>"


def _through(analysis: Analysis) -> Iterator[str]:
    noise = [value for value in analysis.noise_by_value.values() if value > 0]
    if len(noise) < 2:
        return
    yield "<h2>Error through the graph</h2>"
    yield '<p class="soft">Signal to noise in dB of each value that both graphs compute, from the input to the output.</p>'
    names = [name for name, value in analysis.noise_by_value.items() if value > 0]
    yield svg.line(
        [-10 * math.log10(value) for value in noise],
        name="signal to noise of values in the order of execution",
        low_text=names[0],
        high_text=names[-1],
    )


def _values(analysis: Analysis) -> Iterator[str]:
    if not analysis.values:
        return
    yield "<h2>Values and the ranges of their integers</h2>"
    yield (
        '<p class="legend soft"><span><span class="key" style="background:var(--blue);opacity:.5"></span>held-out data</span>'
        '<span><span class="key" style="background:var(--orange);height:3px"></span>calibration data</span>'
        '<span><span class="key" style="background:var(--red);opacity:.3"></span>beyond the range: clipped</span>'
        "<span>heights are logarithmic</span></p>"
    )
    ordered = sorted(analysis.values, key=lambda value: -value.share)
    yield f'<div class="grid">{"".join(_histogram(value) for value in ordered[:_HISTOGRAMS])}</div>'
    if len(ordered) > _HISTOGRAMS:
        yield f'<p class="soft">and {len(ordered) - _HISTOGRAMS} with less noise</p>'


def _histogram(value: ValueExplanation) -> str:
    extent = value.extent
    covers = "range of each run" if extent is None else f"range {extent[0]:.3g} to {extent[1]:.3g}"
    plot = svg.histogram(value.held_out, value.calibration, extent, name=f"distribution of {value.name}")
    return (
        f'<div class="card {_css(value.cause)}"><h3 class="name">{escape(value.name)}</h3>{plot}'
        f'<p class="soft">{value.share:.1%} of the noise, {covers}; {escape(value.cause)}: {escape(value.detail)}</p></div>'
    )


def _passes(backend: BackendExplanation, title: str) -> Iterator[str]:
    yield f"<h2>Graph passes{escape(title)}</h2><p>{backend.nodes[0]} nodes before, {backend.nodes[1]} after</p>"
    if not backend.passes:
        yield "<p>None fired: the graph is as it was exported.</p>"
        return
    yield '<table><tr><th>pass</th><th class="number">fired</th><th class="number">nodes</th></tr>'
    for entry in backend.passes:
        yield (
            f'<tr><td class="name">{escape(entry.name)}</td><td class="number">{entry.rewrites}</td>'
            f'<td class="number">{-entry.nodes_removed:+d}</td></tr>'
        )
    yield "</table>"
    yield from _gains(backend.passes)


def _gains(passes: Sequence[PassExplanation]) -> Iterator[str]:
    rows = [
        svg.Bar(
            label=entry.name,
            value=entry.gain.ratio,
            low=entry.gain.low,
            high=entry.gain.high,
            text=f"{entry.gain.ratio:.3f}",
            css="plain" if entry.gain.faster else "float",
        )
        for entry in passes
        if entry.gain is not None
    ]
    if rows:
        yield '<p class="soft">Time without a pass over time with it, with 95 % intervals. Gray: no gain beyond noise.</p>'
        yield svg.bars(rows, name="gain of each pass", mark=1.0)
    for entry in passes:
        if entry.note:
            yield f'<p class="soft"><code>{escape(entry.name)}</code>: {escape(entry.note)}</p>'


def _legend(causes: Sequence[str]) -> str:
    spans = "".join(f'<span class="{_css(cause)}"><span class="dot"></span>{escape(cause)}</span>' for cause in causes)
    return f'<p class="legend">{spans}</p>'


def _css(cause: str) -> str:
    assert cause in ADVICE, cause
    return f"c-{cause.replace(' ', '-')}"


def decibels(noise: float) -> str:
    """Signal to noise, from noise over signal."""
    return f"{-10 * math.log10(noise):.1f} dB" if noise > 0 else "without noise"
