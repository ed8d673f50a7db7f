"""What a build keeps beside its quantised graphs so that they can be explained later: the candidate, and some of the data."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgebuild.data.calibration import CalibrationData
from edgebuild.quantize.calibrate import named_batches
from edgebuild.quantize.plan import Plan
from edgebuild.quantize.schemes import SchemeGroup
from edgebuild.select.trials import Outcome, Trial
from edgebuild.targets.spec import QuantizationScheme

Batch = Mapping[str, npt.NDArray[Any]]
_Kept = TypeVar("_Kept")

DATA_BUDGET = 16 * 2**20
"""Bytes of each of the two sets of data that are kept, evenly spread; at least one batch is."""

_ABOUT = "evidence.json"
_DATA = "evidence.npz"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What an explanation starts from.

    Args:
        candidate: Name of the trial that shipped, or of the nearest one that quantises more.
        plan: Its plan, with the layers that were left in float for the sake of accuracy still in it.
        reverted: Those layers.
        shipped: Whether a plan without them is in the bundle; False: float ships alone.
        scheme: Under which it was judged.
        fused_operators: Operators outside the standard that the backend has.
        inputs: The signature's name of each of the graph's inputs.
        outputs: And of its outputs.
        calibration: Some of the batches that ranges come from, by the graph's names.
        held_out: Some of those that it was judged by.
    """

    candidate: str
    plan: Plan
    reverted: tuple[str, ...]
    shipped: bool
    scheme: QuantizationScheme
    fused_operators: tuple[str, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    calibration: Sequence[Batch] = ()
    held_out: Sequence[Batch] = ()

    def write(self, folder: Path) -> None:
        """Writes two files into a folder."""
        about = {
            "candidate": self.candidate,
            "plan": self.plan.to_json(),
            "reverted": list(self.reverted),
            "shipped": self.shipped,
            "scheme": {**vars(self.scheme)},
            "fused_operators": list(self.fused_operators),
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "batches": [len(self.calibration), len(self.held_out)],
        }
        arrays = {
            f"{kind}.{index}.{at}": batch[name]
            for kind, batches in (("calibration", self.calibration), ("held_out", self.held_out))
            for index, batch in enumerate(batches)
            for at, name in enumerate(self.inputs)
        }
        (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        with (folder / _DATA).open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, folder: Path) -> "Evidence | None":
        """What ``write`` wrote; None: nothing lies there."""
        if not (folder / _ABOUT).is_file():
            return None
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        names = list(about["inputs"])
        with np.load(folder / _DATA, allow_pickle=False) as arrays:
            calibration, held_out = (
                [{name: arrays[f"{kind}.{index}.{at}"] for at, name in enumerate(names)} for index in range(count)]
                for kind, count in zip(("calibration", "held_out"), about["batches"], strict=True)
            )
        scheme = {**about["scheme"], "cpu_features": tuple(about["scheme"].get("cpu_features", ()))}
        return cls(
            candidate=about["candidate"],
            plan=Plan.from_json(about["plan"]),
            reverted=tuple(about["reverted"]),
            shipped=about["shipped"],
            scheme=QuantizationScheme(**scheme),
            fused_operators=tuple(about["fused_operators"]),
            inputs=about["inputs"],
            outputs=about["outputs"],
            calibration=calibration,
            held_out=held_out,
        )


def evidence_of(
    outcome: Outcome,
    group: SchemeGroup,
    fused_operators: Sequence[str],
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    used: CalibrationData,
    held: CalibrationData,
) -> Evidence | None:
    """Of a search: the chosen candidate, or the one that came nearest; None: nothing was tried."""
    trial = _explained(outcome)
    if trial is None:
        return None
    plan = _unreverted(trial, outcome.trials)
    kept = frozenset(outcome.chosen.plan.modes if outcome.chosen is not None else trial.plan.modes)
    return Evidence(
        candidate=trial.name,
        plan=plan,
        reverted=tuple(name for name in plan.modes if name not in kept),
        shipped=outcome.chosen is not None,
        scheme=scheme_of(group),
        fused_operators=tuple(fused_operators),
        inputs=inputs,
        outputs=outputs,
        calibration=bounded(named_batches(used, inputs), len(used)),
        held_out=bounded(named_batches(held, inputs), len(held)),
    )


def _explained(outcome: Outcome) -> Trial | None:
    """The chosen trial, or the best of those that quantise most, if it leaves layers in float that they do not.

    Why these layers stay float is then the question.
    """
    judged = [trial for trial in outcome.trials if trial.score is not None]
    if not judged:
        return outcome.chosen or next((trial for trial in outcome.trials if not trial.violations), None)

    def layers(trial: Trial) -> int:
        return len(set(trial.plan.modes) | set(trial.reverted))

    most = max(layers(trial) for trial in judged)
    if outcome.chosen is not None and layers(outcome.chosen) == most:
        return outcome.chosen
    full = [trial for trial in judged if len(trial.plan.modes) == most] or judged
    return max(full, key=lambda trial: trial.score.sqnr_db if trial.score is not None else 0.0)


def scheme_of(group: SchemeGroup) -> QuantizationScheme:
    """A group's scheme, for the CPUs that need most care: those without VNNI, if it is for some of them."""
    features = min(group.requires, key=lambda needed: any("vnni" in feature for feature in needed), default=())
    return replace(group.scheme, cpu_features=tuple(features))


def bounded(batches: Iterator[Batch], count: int, budget: int = DATA_BUDGET) -> list[Batch]:
    """As many batches as fit the budget, evenly spread over all ``count`` of them; at least one."""
    kept: list[Batch] = []
    step = 1
    for index, batch in enumerate(batches):
        if index == 0:
            size = sum(array.nbytes for array in batch.values())
            step = -(-count // max(1, min(count, budget // max(size, 1))))
        if index % step == 0:
            kept.append({name: np.array(array) for name, array in batch.items()})
    return kept


def _unreverted(trial: Trial, trials: Sequence[Trial]) -> Plan:
    """The trial's plan with its reverted layers quantised, as in the trial that it was made from."""
    for other in trials if trial.reverted else ():
        same = (other.placement, other.base, other.method) == (trial.placement, trial.base, trial.method)
        if same and not other.reverted and set(trial.reverted) <= set(other.plan.modes):
            back = frozenset(trial.reverted)
            return replace(
                trial.plan,
                modes={
                    name: mode if name in back else trial.plan.modes.get(name, mode)
                    for name, mode in other.plan.modes.items()
                },
                ranges={**other.plan.ranges, **trial.plan.ranges},
                means={**_only(other.plan.means, back), **trial.plan.means},
                roundings={**_only(other.plan.roundings, back), **trial.plan.roundings},
            )
    return trial.plan


def _only(by_layer: Mapping[str, _Kept], layers: frozenset[str]) -> dict[str, _Kept]:
    return {name: kept for name, kept in by_layer.items() if name in layers}
