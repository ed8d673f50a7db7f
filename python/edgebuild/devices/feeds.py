"""A bundle's variant on arrays of ours, by the runner that the bundle carries: natively, or under an emulator."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebuild.bundle.reader import Bundle
from edgebuild.devices.child import Hear
from edgebuild.devices.emulator import Emulator
from edgebuild.devices.local import query_edgerun

Feed = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class FeedRun:
    """What came out.

    Args:
        outputs: By name, for each feed.
        inference_s: What one inference took, without the program's start and load; under an emulator its time, not the board's.
    """

    outputs: list[dict[str, npt.NDArray[Any]]]
    inference_s: float


def run_feeds(
    bundle: Bundle,
    variant: str,
    feeds: Sequence[Feed],
    *,
    emulator: Emulator | None = None,
    environment: Mapping[str, str] | None = None,
    limit_s: float | None = None,
    hear: Hear | None = None,
) -> FeedRun:
    """Outputs of a variant for each feed, as the board's program computes them.

    Feeds of the same shapes are run by one process, which loads the model once.

    Args:
        bundle: Opened bundle.
        variant: Its name.
        feeds: Inputs by name, as the signature says them; arrays only, no sequences.
        emulator: What runs the board's programs; None: this machine itself.
        environment: Variables on top of this process's.
        limit_s: Time limit of all of them together, in seconds; None: none.
        hear: Hears how many feeds are done.

    Raises:
        EdgebuildError: The bundle does not run.
    """
    results: list[dict[str, npt.NDArray[Any]]] = []
    seconds = 0.0
    for begin, end in _runs_of_equal_shapes(feeds):
        group = feeds[begin:end]
        with tempfile.TemporaryDirectory(prefix="edgebuild-feeds-") as name:
            given, told = Path(name) / "in.npz", Path(name) / "out.npz"
            arrays: dict[str, Any] = {key: np.stack([feed[key] for feed in group]) for key in group[0]}
            np.savez(given, **arrays)
            answer = query_edgerun(
                bundle,
                ["run", f"--variant={variant}", f"--inputs={given}", f"--outputs={told}", "--each"],
                environment=environment,
                emulator=emulator,
                limit_s=limit_s,
                hear=None if hear is None else partial(_of_all, hear, begin, len(feeds)),
            )
            seconds += float(answer.get("run_s", 0.0))
            with np.load(told, allow_pickle=False) as stacked:
                outputs = {key: stacked[key] for key in stacked.files}
        results += [{key: array[i] for key, array in outputs.items()} for i in range(len(group))]
    return FeedRun(outputs=results, inference_s=seconds / max(1, len(feeds)))


def _of_all(hear: Hear, before: int, total: int, done: int, _: int) -> None:
    hear(before + done, total)


def _runs_of_equal_shapes(feeds: Sequence[Feed]) -> list[tuple[int, int]]:
    """Begin and end of each row of feeds that can be stacked."""
    kinds = [{key: (array.shape, array.dtype) for key, array in feed.items()} for feed in feeds]
    ends = [i for i in range(1, len(feeds)) if kinds[i] != kinds[i - 1]] + [len(feeds)]
    return list(zip([0, *ends[:-1]], ends, strict=True)) if feeds else []
