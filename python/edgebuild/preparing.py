"""prepare(): makes on this machine what a bundle's variants need before they can run, such as TensorRT's plans."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PreparedVariant:
    """What came of one variant.

    Args:
        variant: Its name.
        result: "made" now, "ready" since before, "failed", or "nothing to make": it runs as it is.
        seconds: That it took.
        reason: Why it failed; None: it did not.
    """

    variant: str
    result: Literal["made", "ready", "failed", "nothing to make"]
    seconds: float
    reason: str | None = None


def prepare(
    bundle: str | os.PathLike[str],
    *,
    backend: str | None = None,
    variant: str | None = None,
    every: bool = False,
    anew: bool = False,
    options: Mapping[str, object] | None = None,
    state_dir: str | os.PathLike[str] | None = None,
) -> tuple[PreparedVariant, ...]:
    """Does what ``edgerun prepare`` does, by the runner in the bundle: variants in their order until one is ready.

    What was made passes the bundle's goldens before a ``Runner`` with the same ``options`` and ``state_dir`` uses it.

    Args:
        bundle: A bundle, as a folder or as an ``.edge`` archive.
        backend: Only variants of this backend.
        variant: Only this variant.
        every: All of them, also behind one that is ready.
        anew: Make it anew, whatever is there.
        options: Engine options that override the variants', e.g. ``{"workspace_mib": 512}``.
        state_dir: Where it is kept; by default ``$XDG_STATE_HOME/edgebuild/<id>``.

    Returns:
        Those that were looked at, in the bundle's order.

    Raises:
        BundleError: The bundle is damaged, or has no runner.
        IncompatibleError: Nothing can be prepared here: the bundle is for another machine, or a library or a device is missing.
        GateError: What was made does not give the goldens.
        ResourceError: There is no space or memory for it.
        UsageError: No variant matches.
    """
    from edgebuild.bundle.reader import Bundle
    from edgebuild.devices.local import query_edgerun

    words = [f"{flag}={value}" for flag, value in (("--backend", backend), ("--variant", variant)) if value is not None]
    words += [f"--option={name}={value}" for name, value in (options or {}).items()]
    words += ["--all"] * every + ["--anew"] * anew
    if state_dir is not None:
        words.append(f"--state-dir={os.fspath(state_dir)}")
    answer = query_edgerun(Bundle.open(bundle), ["prepare", *words])
    return tuple(
        PreparedVariant(
            variant=entry["variant"],
            result=entry["result"],
            seconds=entry["seconds"],
            reason=entry.get("reason"),
        )
        for entry in answer["variants"]
    )
