"""Which backends a bundle gets, and what each of them brings along: its engine, and its plugin where it is not built into the runner."""

from collections.abc import Sequence
from pathlib import Path

from edgebuild.backends.registry import find_backend
from edgebuild.cache import Cache
from edgebuild.errors import UsageError
from edgebuild.export.result import ExportedModel
from edgebuild.native.engine_layout import check_engine
from edgebuild.native.engines import EngineFiles, engine_pin, fetch_engine
from edgebuild.native.plugin import build_plugin
from edgebuild.report import Progress
from edgebuild.targets import BackendSpec, TargetSpec


def choose_backends(target: TargetSpec, names: Sequence[str]) -> list[BackendSpec]:
    """The target's backends but those on demand, or those of ``names`` in that order; all can be built for.

    Raises:
        UsageError: A backend is named twice, or is none of the target's.
        IncompatibleError: An engine is too new for the target's oldest system.
    """
    if len(set(names)) < len(names):
        msg = f"each backend may be named once, got {', '.join(names)}"
        raise UsageError(msg)
    usual = [spec for spec in target.runtime if not spec.on_demand] or list(target.runtime)
    specs = [target.backend(name) for name in names] if names else usual
    for spec in specs:  # before a long export
        engine = find_backend(spec.name).ENGINE
        if engine is not None:
            check_engine(engine_pin(engine, spec.version, target.soc.arch), target.os)
    return specs


def wanted_torchscript(target: TargetSpec, specs: Sequence[BackendSpec], *, named: bool) -> str:
    """What the export is asked for, one of ``TORCHSCRIPT_FORMS``. Backends that the user ``named`` are not added to."""
    forms = {find_backend(spec.name).FORM for spec in specs}
    if forms == {"torchscript"}:
        return "only"
    if "torchscript" in forms:
        return "also"
    return "never" if named or _stand_in(target) is None else "fallback"


def backends_for(target: TargetSpec, specs: Sequence[BackendSpec], exported: ExportedModel) -> list[BackendSpec]:
    """Those that can take what the export made: without an ONNX graph the one that loads TorchScript."""
    if exported.opset is not None:
        return list(specs)
    able = [spec for spec in specs if find_backend(spec.name).FORM == "torchscript"]
    stand_in = _stand_in(target)
    assert able or stand_in is not None  # or the export would have failed
    return able or [spec for spec in (stand_in,) if spec is not None]


def _stand_in(target: TargetSpec) -> BackendSpec | None:
    """The target's backend for models that can't be expressed in ONNX."""
    return next((spec for spec in target.runtime if spec.name == "libtorch"), None)


def fetch_engines(
    target: TargetSpec, specs: Sequence[BackendSpec], cache: Cache, progress: Progress
) -> dict[str, EngineFiles]:
    """Engine libraries by backend name."""
    return {
        spec.name: fetch_engine(engine_pin(engine, spec.version, target.soc.arch), cache, progress)
        for spec in specs
        if (engine := find_backend(spec.name).ENGINE) is not None
    }


def build_plugins(
    target: TargetSpec, specs: Sequence[BackendSpec], cache: Cache, progress: Progress
) -> dict[str, Path]:
    """Plugins by backend name; a backend without one is built into the runner."""
    return {
        spec.name: build_plugin(target, spec, cache, progress)
        for spec in specs
        if find_backend(spec.name).FORM == "torchscript"
    }
