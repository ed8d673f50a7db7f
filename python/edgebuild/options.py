"""BuildOptions: what the ``build`` command and ``edgebuild.build()`` take beside the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build and how.

    Args:
        target: Name, alias or path of a target file.
        output: Where the bundle goes; None: ``STEM.TARGET.edge`` in the current folder.
        backends: Only these, in this order; empty: the target's.
        thin: Leave the engine libraries out of the bundle.
        decisions: A ``decisions.json`` to replay; None: decide anew.
        deadline_s: Time limit of everything that runs the model, in seconds; None: none.
        measure: Whether to measure latency of variants that the build machine can run.
        variant_options: Options of every variant, e.g. ``{"intra_op_threads": "2"}``.
    """

    target: str
    output: Path | None = None
    backends: tuple[str, ...] = ()
    thin: bool = False
    decisions: Path | None = None
    deadline_s: float | None = None
    measure: bool = True
    variant_options: Mapping[str, str] = field(default_factory=dict)
