"""INT8 variants judged again on the board's instruction set: decisions and noise on data that the search kept apart.

Kernels of another instruction set round elsewhere: with MobileNetV2 the outputs on ARM differ from those on x86-64 by 8 % of the
quantisation noise (measured under qemu). What counts is what becomes of decisions, not the largest difference of an element.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from edgebuild.bundle.reader import Bundle
from edgebuild.cache import Cache
from edgebuild.devices.child import Hear
from edgebuild.devices.feeds import run_feeds
from edgebuild.devices.place import Place
from edgebuild.errors import GateError
from edgebuild.options import QuantizeOptions
from edgebuild.quantize.running import GraphRunner
from edgebuild.select.budget import Budget, Score, violations
from edgebuild.select.evidence import Evidence
from edgebuild.select.metrics import OutputScore, ScoreCounter
from edgebuild.targets import BackendSpec, TargetSpec

if TYPE_CHECKING:
    from edgebuild.quantization import BackendQuantization

Arrays = Mapping[str, npt.NDArray[Any]]
OpenGraph = Callable[[Path], AbstractContextManager[GraphRunner]]

_TIME_S = 30.0
"""What running held-out data under an emulator may take, about; a part of the data serves where all would take longer."""

_WORSE_DB = 1.0
"""More noise than here: instruction sets that round elsewhere differ by a tenth of that."""

_DEVIATIONS = 2.0
"""Standard deviations that flipped decisions must be apart."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What one INT8 variant was judged by on the build machine.

    Args:
        folder: Of the cache's section "quantize": evidence and quantised graphs.
        float_graph: Whose outputs are right.
        graph: The variant's quantised graph.
        budget: What may be lost; None: it is only reported.
        open_graph: Opens a graph on the build machine.
    """

    folder: Path
    float_graph: Path
    graph: Path
    budget: Budget | None
    open_graph: OpenGraph

    @property
    def key(self) -> list[Any]:
        """What a result hangs on."""
        return [self.folder.name, self.graph.name, None if self.budget is None else self.budget.to_json()]

    def judge(
        self,
        bundle: Bundle,
        variant: str,
        place: Place,
        environment: Mapping[str, str],
        *,
        inference_s: float,
        limit_s: float | None,
        hear: Hear | None = None,
    ) -> list[dict[str, Any]]:
        """How each output decides on the board's instruction set and on the build machine's, against float.

        Args:
            bundle: The packed bundle.
            variant: Its name.
            place: Where it is run.
            environment: Variables on top of this process's.
            inference_s: What one inference takes there, in seconds: as much data is used as about half a minute allows.
            limit_s: Time limit of all, in seconds.
            hear: Hears how many inferences are done.

        Returns:
            For each output ``OutputScore`` as JSON, with "samples" and, as "here", the agreement of the build machine's kernels.

        Raises:
            GateError: On the board's instruction set the variant leaves the budget, though on this machine's it does not.
            EdgebuildError: The bundle does not run.
        """
        evidence = Evidence.read(self.folder)
        if evidence is None or not evidence.shipped or not evidence.held_out:
            return []
        names = list(evidence.outputs.values())
        there, here = ScoreCounter(names), ScoreCounter(names)
        most = max(1, int(_TIME_S / max(inference_s, 1e-6)))
        step = -(-len(evidence.held_out) // most)
        batches = evidence.held_out[::step]
        feeds = [{evidence.inputs[name]: array for name, array in batch.items()} for batch in batches]
        results = run_feeds(
            bundle, variant, feeds, environment=environment, emulator=place.emulator, limit_s=limit_s, hear=hear
        )
        with self.open_graph(self.float_graph) as exact, self.open_graph(self.graph) as quantized:
            for batch, result in zip(batches, results.outputs, strict=True):
                expected = _named(exact.run(batch), evidence.outputs)
                there.add(expected, result)
                here.add(expected, _named(quantized.run(batch), evidence.outputs))
        scores, own = there.scores(), here.scores()
        self._gate(variant, place, scores, own)
        return [
            {**score.to_json(), "samples": len(batches), "here": mine.agreement}
            for score, mine in zip(scores, own, strict=True)
        ]

    def _gate(self, variant: str, place: Place, scores: Sequence[OutputScore], own: Sequence[OutputScore]) -> None:
        if self.budget is None:
            return
        for score, mine in zip(scores, own, strict=True):
            noise = violations(Score(outputs=(replace(score, agreement=None),)), self.budget)
            flips = [words for words in violations(Score(outputs=(score,)), self.budget) if words not in noise]
            # The same samples on this machine tell a worse instruction set from a part of the data that is unlucky.
            found = [
                *(noise if score.sqnr_db < mine.sqnr_db - _WORSE_DB else ()),
                *(flips if _decides_worse(score, mine) else ()),
            ]
            if found:
                msg = f"variant {variant} leaves the accuracy budget on the board's instruction set ({place.emulator}): {found[0]}"
                raise GateError(msg, hint="leave --int8 out, or allow more: --min-agreement, --min-sqnr")


def _decides_worse(there: OutputScore, here: OutputScore) -> bool:
    """Whether more decisions of the same samples are flipped there than here, beyond chance."""
    if there.agreement is None or here.agreement is None:
        return False
    flips, own = (1 - there.agreement) * there.decisions, (1 - here.agreement) * here.decisions
    # As if no sample flipped in both: the difference of two counts has about the variance of their sum.
    return flips - own > _DEVIATIONS * math.sqrt(flips + own)


def judged_variants(
    target: TargetSpec,
    spec: BackendSpec,
    found: "BackendQuantization",
    float_graph: Path,
    options: QuantizeOptions,
    cache: Cache,
) -> dict[str, HeldOut]:
    """The INT8 variants of a backend with what they were judged by; none if nothing says how accurate they are.

    Args:
        target: The board.
        spec: The backend.
        found: What quantisation came to.
        float_graph: The graph that was quantised.
        options: What was asked for.
        cache: Where the search's results are kept.
    """
    from edgebuild.devices.scratch import open_graph
    from edgebuild.quantization import judging_engine, target_version

    folder = None if found.kept is None else cache.get("quantize", found.kept)
    if folder is None or found.manifest is None or not found.manifest["judged"]:
        return {}
    engine, version = judging_engine(target, spec, cache), target_version(target, spec)
    opener = partial(open_graph, engine=engine, version=version, cache=cache)
    entries = json.loads((folder / "quantized.json").read_text(encoding="utf-8"))["graphs"]
    return {
        variant.name: HeldOut(
            folder=folder,
            float_graph=float_graph,
            graph=folder / entry["graph"],
            # A score of the user's own is not computed again: its data may be large, and an emulator is slow.
            budget=options.budget if options.evaluate is None else None,
            open_graph=opener,
        )
        for entry, lowered in zip(entries, found.lowered, strict=True)
        for variant in lowered.variants
    }


def _named(results: Arrays, names: Mapping[str, str]) -> dict[str, npt.NDArray[Any]]:
    return {names[name]: array for name, array in results.items() if name in names}
