"""The page: complete, offline, well-formed, and its plots show what they say."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from explain_tools import evidence_for, open_session, statistics, three_convolutions

from edgebuild.cache import Cache
from edgebuild.explain import svg
from edgebuild.explain.analysis import analyse
from edgebuild.explain.explain import BackendExplanation, Explanation
from edgebuild.explain.html import page
from edgebuild.explain.passes import PassExplanation
from edgebuild.select.measure import Comparison

RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def explanation(tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    folder = tmp_path_factory.mktemp("page")
    graph = three_convolutions(folder / "g.onnx")
    gain = Comparison(base_ms=1.2, other_ms=1.0, ratio=1.2, low=1.1, high=1.3, rounds=9)
    passes = (
        PassExplanation(name="gelu <fusion>", runs=2, rewrites=3, nodes_removed=12, gain=gain),
        PassExplanation(name="names", runs=1, rewrites=1, nodes_removed=0, note="nothing runs without it: no"),
    )
    trial = {
        "name": "static <convolutions>",
        "fits": True,
        "violations": [],
        "score": {"outputs": [{"output": "y", "sqnr_db": 38.5}]},
        "speed": {"ratio": 2.0, "low": 1.9, "high": 2.1},
        "reverted": [],
    }
    return Explanation(
        bundle=folder / "m.x86-64.edge",
        bundle_id="ab" * 32,
        name="model & more",
        target="x86-64",
        original_ms=3.0,
        variants=[
            {"name": "v-int8", "precision": "int8", "latency_ms": 1.0, "speed_up": 3.0, "size_bytes": 10},
            {"name": "v-float", "precision": "float32", "latency_ms": None, "speed_up": None, "size_bytes": 20},
        ],
        backends=(
            BackendExplanation(
                backend="onnxruntime",
                nodes=(20, 8),
                passes=passes,
                trials=[trial],
                reason="because <why>",
                analysis=analyse(graph, evidence_for(graph), open_session, Cache(folder / "cache")),
            ),
        ),
    )


class Tags(HTMLParser):
    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_reaches_for_nothing(explanation: Explanation) -> None:
    text = page(explanation)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.links == []
    assert "script" not in tags.seen
    assert not re.search(r"https?://|@import|url\(|@font-face", text)
    assert "prefers-color-scheme: dark" in text
    for plot in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(plot)


def test_the_page_shows_layers_values_candidates_and_passes(explanation: Explanation) -> None:
    text = page(explanation)
    assert all(layer in text for layer in ("conv1", "conv2", "conv3"))
    assert text.count("distribution of ") == 4  # x, a, b and y carry integers
    for name in ("model &amp; more", "static &lt;convolutions&gt;", "because &lt;why&gt;", "gelu &lt;fusion&gt;"):
        assert name in text
    assert "<fusion>" not in text
    assert "20 nodes before, 8 after" in text


def test_every_shade_has_its_colour_in_either_scheme(explanation: Explanation) -> None:
    style = page(explanation).split("<style>")[1].split("</style>")[0]
    light, dark = (set(re.findall(r"(--\w+): #", part)) for part in style.split("@media")[:2])
    used = set(re.findall(r"var\((--\w+)", style))
    assert used - {"--c"} <= light
    assert light == dark | light
    assert dark >= {"--ground", "--ink", "--line", "--card"}


def test_a_histogram_holds_all_that_lies_in_its_window() -> None:
    array = RNG.normal(0, 1, 40_000)
    edges = np.linspace(-3, 3, 25)
    shares = svg._shares(statistics(array, None), edges)
    expected, _ = np.histogram(array.astype(np.float32), edges)
    assert shares == pytest.approx(expected / len(array), abs=2e-3)


def test_a_histogram_says_how_far_outliers_go_and_shades_what_is_clipped() -> None:
    array = RNG.normal(0, 1, 40_000)
    array[0] = 500
    plot = svg.histogram(statistics(array, None), None, (-1.0, 1.0), name="v")
    assert "to 500 →" in plot
    assert plot.count('class="beyond"') == 2
    whole = svg.histogram(statistics(np.clip(array, -1, 1), None), None, (-1.0, 1.0), name="v")
    assert "→" not in whole
    assert svg.histogram(statistics(np.zeros(5), None), None, None, name="zeros").count("<path") >= 2


def test_bars_lie_on_one_scale_also_below_zero() -> None:
    plot = svg.bars(
        [
            svg.Bar(label="a", value=2.0, text="2"),
            svg.Bar(label="b" * 90, value=-1.0, text="-1"),
            svg.Bar(label="c", value=0.0, text="0"),
        ],
        name="p",
    )
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', plot)]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)
    assert widths[2] == 1
    assert "…" in plot
    assert svg.bars([], name="nothing") == ""
    assert svg.line([1.0], name="one", low_text="a", high_text="b") == ""
