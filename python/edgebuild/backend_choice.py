"""Which backends a build has, and what each brings into the bundle: an engine's libraries, or a plugin for the board's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgebuild.backends.registry import check_options, find_backend, options_of
from edgebuild.bundle.pack import PluginFiles
from edgebuild.cache import Cache
from edgebuild.errors import ToolError, UsageError
from edgebuild.export.result import ExportedModel
from edgebuild.model.signature import Signature
from edgebuild.native import plugin, tensorrt
from edgebuild.native.engine_layout import check_engine
from edgebuild.native.engines import EngineFiles, engine_pin, fetch_engine
from edgebuild.native.plugin import check_plugin
from edgebuild.native.tensorrt import Headers, find_headers, get_command, why_without_headers
from edgebuild.report import Progress
from edgebuild.targets import BackendSpec, TargetSpec

_TENSORRT = "tensorrt"
_LIBTORCH = "libtorch"


@dataclass(frozen=True, kw_only=True)
class ChosenBackends:
    """The backends of a build, in the order in which a runner tries their variants.

    Args:
        specs: The backends.
        options: Of the variants, by backend: the target's and those of the user that it knows.
        headers: TensorRT's, if it is among them.
        notes: What was left out, and what to do about it.
    """

    specs: tuple[BackendSpec, ...]
    options: Mapping[str, Mapping[str, str]]
    headers: Headers | None
    notes: tuple[str, ...]

    def without(self, name: str, note: str) -> "ChosenBackends":
        """The others."""
        return ChosenBackends(
            specs=tuple(spec for spec in self.specs if spec.name != name),
            options=self.options,
            headers=None if name == _TENSORRT else self.headers,
            notes=(*self.notes, note),
        )


def choose_backends(
    target: TargetSpec, names: Sequence[str], options: Mapping[str, str], cache: Cache
) -> ChosenBackends:
    """The target's backends but those on demand, or those of ``names`` in that order, before a long export.

    TensorRT is left out, and that is said, where the headers that its plugin is compiled against are not here.

    Raises:
        UsageError: A backend is named twice or is not the target's, or an option is wrong.
        ToolError: TensorRT was asked for by name, and its headers are not here; or LibTorch, and torch or a compiler is not.
        IncompatibleError: An engine is not for the target's system.
    """
    if len(set(names)) < len(names):
        msg = f"each backend may be named once, got {', '.join(names)}"
        raise UsageError(msg)
    usual = [spec for spec in target.runtime if not spec.on_demand] or list(target.runtime)
    specs = [target.backend(name) for name in names] if names else usual
    notes = []
    headers = find_headers(target, cache) if any(spec.name == _TENSORRT for spec in specs) else None
    if headers is None and any(spec.name == _TENSORRT for spec in specs):
        why = why_without_headers(target)
        if names or len(specs) == 1:
            raise ToolError(why, hint=f"`{get_command(target)}` gets them, or set TENSORRT_ROOT")
        notes.append(f"no TensorRT variant: {why}; `{get_command(target)}` gets them")
        specs = [spec for spec in specs if spec.name != _TENSORRT]
    among = [spec.name for spec in specs]
    settings = {spec.name: options_of(spec.name, options, among) for spec in specs}
    for spec in specs:
        check_options(spec.name, {**spec.options, **settings[spec.name]})
        engine = find_backend(spec.name).ENGINE
        if engine is not None:
            check_engine(engine_pin(engine, spec.version, target.soc.arch), target.os)
        if find_backend(spec.name).FORM == "torchscript":
            check_plugin(target, spec)
    if headers is not None and target.limits.workspace_mib is not None:
        settings[_TENSORRT].setdefault("workspace_mib", str(target.limits.workspace_mib))
    return ChosenBackends(specs=tuple(specs), options=settings, headers=headers, notes=tuple(notes))


def servable(chosen: ChosenBackends, signature: Signature) -> ChosenBackends:
    """The backends that can serve a model of this signature; what is left out is said.

    Raises:
        UsageError: None is left.
    """
    if chosen.headers is None:
        return chosen
    from edgebuild.backends.tensorrt import unsupported

    why = unsupported(signature)
    if why is None:
        return chosen
    left = chosen.without(_TENSORRT, f"no TensorRT variant: {why}")
    if not left.specs:
        msg = f"TensorRT can't serve this model: {why}"
        raise UsageError(msg, hint="leave --backend out: ONNX Runtime serves it")
    return left


def wanted_torchscript(target: TargetSpec, specs: Sequence[BackendSpec], *, named: bool) -> str:
    """What the export is asked for, one of ``TORCHSCRIPT_FORMS``. Backends that the user ``named`` are not added to."""
    forms = {find_backend(spec.name).FORM for spec in specs}
    if forms == {"torchscript"}:
        return "only"
    if "torchscript" in forms:
        return "also"
    return "never" if named or _stand_in(target) is None else "fallback"


def takers(
    chosen: ChosenBackends, target: TargetSpec, exported: ExportedModel, options: Mapping[str, str]
) -> ChosenBackends:
    """The backends that can take what the export made: without an ONNX graph the one that loads TorchScript.

    Args:
        chosen: Before the export.
        target: Whose backends they are.
        exported: What was made.
        options: Of the user, for every variant.

    Raises:
        UsageError: An option is none of LibTorch's, which takes the place of the others.
        ToolError: LibTorch's plugin can't be compiled: torch or a compiler is missing.
        IncompatibleError: The installed torch is another version than the target pins.
    """
    if exported.opset is not None:
        return chosen
    spec = _stand_in(target)
    assert spec is not None  # or the export would have failed
    settings = options_of(spec.name, options, [spec.name, *(other.name for other in chosen.specs)])
    check_options(spec.name, {**spec.options, **settings})
    check_plugin(target, spec)
    return ChosenBackends(specs=(spec,), options={spec.name: settings}, headers=None, notes=chosen.notes)


def _stand_in(target: TargetSpec) -> BackendSpec | None:
    """The target's backend for models that can't be expressed in ONNX."""
    return next((spec for spec in target.runtime if spec.name == _LIBTORCH), None)


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
    target: TargetSpec, chosen: ChosenBackends, cache: Cache, progress: Progress
) -> dict[str, PluginFiles]:
    """Compiled plugins by backend name.

    Raises:
        ToolError: The compiler failed.
    """
    plugins = {
        spec.name: PluginFiles(library=plugin.build_plugin(target, spec, cache, progress), licences={})
        for spec in chosen.specs
        if find_backend(spec.name).FORM == "torchscript"
    }
    if chosen.headers is not None:
        licence = chosen.headers.licence
        plugins[_TENSORRT] = PluginFiles(
            library=tensorrt.build_plugin(target, chosen.headers, cache, progress),
            licences={} if licence is None else {"tensorrt-headers.txt": licence},
        )
    return plugins
