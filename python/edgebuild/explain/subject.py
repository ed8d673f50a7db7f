"""What is explained: a bundle with the report of its build and what the cache still holds of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgebuild.bundle.reader import Bundle
from edgebuild.cache import Cache
from edgebuild.errors import UsageError
from edgebuild.export.result import ExportedModel
from edgebuild.model.signature import Signature
from edgebuild.report import REPORT_SCHEMA
from edgebuild.select.evidence import Batch, Evidence, bounded

_AGAIN = "build it again: the report and what it needs are made anew, mostly from the cache"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundle, its report, and the cache.

    Args:
        bundle: The bundle.
        report: What the build wrote beside it.
        cache: Where stages left their results.
    """

    bundle: Bundle
    report: Mapping[str, Any]
    cache: Cache

    @property
    def backends(self) -> tuple[str, ...]:
        """That a graph was made for, in the target's order."""
        return tuple(self.report["graphs"])

    def exported(self) -> ExportedModel:
        """The exported model.

        Raises:
            UsageError: It is no longer in the cache.
        """
        return ExportedModel.read(self._entry("export", self.report["kept"]["export"], "the exported model"))

    def graph(self, backend: str) -> Path:
        """The optimised float graph of a backend.

        Raises:
            UsageError: It is no longer in the cache.
        """
        key = self.report["kept"]["graphs"][backend]
        return self._entry("graph", key, "the optimised graph") / "graph.onnx"

    def evidence(self, backend: str) -> Evidence | None:
        """What was tried for INT8; None: nothing was.

        Raises:
            UsageError: It is no longer in the cache.
        """
        key = self.report["kept"]["quantized"].get(backend)
        return None if key is None else Evidence.read(self._entry("quantize", key, "what INT8 was chosen from"))

    def _entry(self, section: str, key: str, what: str) -> Path:
        found = self.cache.get(section, key)
        if found is None:
            msg = f"{self.bundle.path}: {what} is no longer in the cache ({self.cache.root / section})"
            raise UsageError(msg, hint=_AGAIN)
        return found


def open_subject(bundle: Bundle, report: Path | None, cache: Cache) -> Subject:
    """Finds the report of a bundle.

    Args:
        bundle: The bundle.
        report: Where the report lies; None: beside the bundle, as the build left it.
        cache: Where stages left their results.

    Raises:
        UsageError: There is no report, it is none, or it is that of another bundle.
    """
    path = report or _beside(bundle)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{bundle.path}: the report of its build can't be read: {path}: {error.strerror}"
        raise UsageError(msg, hint=f"give it with --report, or {_AGAIN}") from error
    except ValueError as error:
        msg = f"{path}: not JSON: {error}"
        raise UsageError(msg, hint=_AGAIN) from error
    schema = data.get("schema") if isinstance(data, dict) else type(data).__name__
    if schema != REPORT_SCHEMA:
        msg = f"{path}: expected a report with schema {REPORT_SCHEMA!r}, got {schema!r}"
        raise UsageError(msg, hint="give the report.json that the build wrote beside the bundle")
    if data.get("bundle_id") != bundle.id:
        msg = f"{path} is the report of bundle {str(data.get('bundle_id'))[:12]}…, {bundle.path} is {bundle.id[:12]}…"
        raise UsageError(msg, hint=f"give the report of this bundle with --report, or {_AGAIN}")
    if not isinstance(data.get("graphs"), dict) or not isinstance(data.get("kept"), dict):
        msg = f"{path}: the report says nothing about graph passes: it is from an older version of edgebuild"
        raise UsageError(msg, hint=_AGAIN)
    if not data["graphs"]:
        msg = f"{bundle.path}: there is no ONNX graph to explain: LibTorch runs the model as TorchScript"
        raise UsageError(msg, hint="the report beside the bundle says why no graph could be made")
    return Subject(bundle=bundle, report=data, cache=cache)


def with_data(
    evidence: Evidence, signature: Signature, *, calib: Any, data: Any, preprocess: Any, cache: Cache
) -> Evidence:
    """The evidence with data that the user gives in place of what the build kept.

    Args:
        evidence: What was kept.
        signature: That the data fit.
        calib: Calibration data; None: what was kept. A quarter of it is held out, as the build does.
        data: Data as in use, none of it held out from anything; None: what was held out.
        preprocess: What makes images into inputs.
        cache: For data that can be read only once.

    Raises:
        UsageError: Nothing was kept, and nothing is given.
        CalibrationError: The data can't be used.
    """
    from edgebuild.data.calibration import CalibrationData, open_calibration
    from edgebuild.quantize.calibrate import named_batches

    def kept(part: CalibrationData) -> list[Batch]:
        return bounded(named_batches(part, evidence.inputs), len(part))

    for flag, source in (("--calib", calib), ("--data", data)):
        if isinstance(source, str) and source == "random":
            msg = f"{flag} random: random numbers say nothing about what the model meets in use"
            raise UsageError(msg, hint="give real data; a folder of that name is ./random")
    search_path = [str(Path.cwd())]
    if calib is not None:
        with open_calibration(calib, signature, preprocess=preprocess, search_path=search_path, cache=cache) as opened:
            used, held = opened.split()
            evidence = replace(evidence, calibration=kept(used), held_out=kept(held if held is not None else used))
    if data is not None:
        if isinstance(data, str) and ":" not in data and not Path(data).exists():
            msg = f"--data {data}: no such file or folder"
            raise UsageError(msg, hint="it takes what --calib of a build takes: a folder, a file or module:callable")
        with open_calibration(data, signature, preprocess=preprocess, search_path=search_path, cache=cache) as opened:
            evidence = replace(evidence, held_out=kept(opened))
    if not evidence.held_out:
        msg = "the build kept no data: it replayed decisions"
        raise UsageError(msg, hint="give data like that in use with --data, or the calibration data with --calib")
    return evidence


def _beside(bundle: Bundle) -> Path:
    return bundle.path.with_name(f"{bundle.path.name.removesuffix('.edge')}.report.json")
