"""Packing: what the stages made becomes one bundle, first in the cache, and at its place only once it is proved."""

import filecmp
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebuild.backends.candidate import LoweredVariant
from edgebuild.backends.lowering import LoweredModel
from edgebuild.bundle.atomic import atomic_file, from_os_error, moved_file
from edgebuild.bundle.manifest import (
    KEEPS_STATE,
    Engine,
    ExternalLibrary,
    Loader,
    Requirements,
    Target,
    Tolerance,
    Variant,
)
from edgebuild.bundle.paths import to_segment
from edgebuild.bundle.reader import Bundle, GoldenArrays
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.cache import Cache, file_sha256
from edgebuild.errors import GateError, InternalError, UsageError
from edgebuild.export.result import ExportedModel
from edgebuild.graph.stage import OptimizedGraph
from edgebuild.native.elf_check import NativeFile, check_native_files
from edgebuild.native.engine_layout import EngineLayout, engine_layout
from edgebuild.native.engines import EngineFiles
from edgebuild.native.runner import runner_licences
from edgebuild.select.decisions import Decisions, reordered
from edgebuild.targets import BackendSpec, OperatingSystem, TargetSpec

_USTAR_AT = 257
"""Where a tar archive says that it is one."""

GOLDEN_BUDGET_BYTES = 32 * 2**20
"""Goldens beyond the first are left out of the bundle once they would exceed this."""


@dataclass(frozen=True, kw_only=True)
class PluginFiles:
    """A backend that is no part of the runner: its library, and licences of what is compiled into it beside our own, by file name."""

    library: Path
    licences: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class PackedParts:
    """What goes into a bundle: the results of the stages before.

    ``measured`` says whether the variants' speed is measured on this machine before the bundle is published; ``quantization`` is
    the manifest's summary of how quantised variants were calibrated, by backend; ``preprocessing`` its key of that name; ``graphs`` are
    by backend, of those that load ONNX; ``plugins`` are the backends, by name, that are no part of the runner.
    """

    exported: ExportedModel
    target: TargetSpec
    graphs: Mapping[str, OptimizedGraph]
    lowered: tuple[tuple[BackendSpec, LoweredModel], ...]
    engines: Mapping[str, EngineFiles]
    runner: Path
    thin: bool
    measured: bool
    decisions: Decisions
    quantization: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] | None = None
    plugins: Mapping[str, PluginFiles] = field(default_factory=dict)

    @property
    def variants(self) -> tuple[tuple[BackendSpec, LoweredVariant], ...]:
        """All variants with their backends, in the order in which a runner tries them."""
        made = {variant.name: (spec, variant) for spec, model in self.lowered for variant in model.variants}
        return tuple(made[name] for name in reordered(list(made), self.decisions.order))

    @property
    def rivals(self) -> tuple[str, ...]:
        """Names of the variants that are to be measured beside each other; empty: no two forms of one precision compete.

        Of one engine's precisions quantisation has settled the order.
        """
        forms = {(spec.name, Path(variant.model).suffix, variant.precision) for spec, variant in self.variants}
        if len(forms) == len({precision for *_, precision in forms}):
            return ()
        return tuple(variant.name for _, variant in self.variants if variant.measured_here)

    @property
    def outside_engines(self) -> list[Path]:
        """Libraries that a thin bundle finds outside itself."""
        return [files.library for files in self.engines.values()] if self.thin else []

    @property
    def variant_names(self) -> tuple[str, ...]:
        """Names of all variants, in that order."""
        return tuple(variant.name for _, variant in self.variants)


@contextmanager
def staged_bundle(parts: PackedParts, cache: Cache) -> Iterator[Bundle]:
    """Writes the bundle into a staging folder of the cache and opens it; the folder is gone when the block ends.

    Raises:
        ResourceError: The disk is full.
    """
    folder = cache.staging_folder()
    try:
        yield _write(parts, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(parts: PackedParts, folder: Path) -> Bundle:
    exported, target = parts.exported, parts.target
    name = to_segment(exported.name)
    return write_bundle(
        folder / f"{name}.{target.name}.edge",
        name=name,
        target=Target(
            name=target.name, arch=target.soc.arch, triple=target.toolchain.triple, loader=_loader(_layouts(parts))
        ),
        signature=exported.signature,
        variants=[_variant(variant, spec, parts) for spec, variant in parts.variants],
        files=_files(parts),
        goldens=read_goldens(exported),
        producer=exported.producer,
        quantization=parts.quantization or None,
        preprocessing=parts.preprocessing,
        required_features=(KEEPS_STATE,) if exported.keeps_state else (),
    )


def _check_replaceable(output: Path) -> None:
    """Raises UsageError where what lies there is not what a build writes: devices, pipes, files of somebody's data."""
    if not output.is_file():
        msg = f"-o {output} is no plain file, and a bundle would take its place"
        raise UsageError(msg, hint="choose another -o")
    try:
        with output.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise from_os_error(error, f"what lies at -o {output} can't be read") from error
    if head and head[_USTAR_AT : _USTAR_AT + 5] != b"ustar":
        msg = f"-o {output} exists and is no bundle, so it is not replaced"
        raise UsageError(msg, hint="remove it, or choose another -o")


def check_output(output: Path | None, *, keep: Sequence[str]) -> None:
    """Finds out before a long build whether its bundle could be written.

    Args:
        output: The bundle's path; None: some name in the current folder.
        keep: Files that the build reads and must not replace.

    Raises:
        UsageError: The folder is missing or not writable, or ``output`` is a folder, one of ``keep``, or something else than a bundle.
        ResourceError: There is no space in it.
    """
    if output is not None and output.is_dir():
        msg = f"-o {output} is a folder, expected the name of a file to write"
        raise UsageError(msg, hint=f"for example -o {output / 'model.edge'}")
    folder = Path.cwd() if output is None else output.parent
    if not folder.is_dir():
        msg = f"the folder of the output does not exist: {folder}"
        raise UsageError(msg, hint="make it, or choose another -o")
    try:  # only the attempt tells: a file system may be read-only, or refuse even the root
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        what = f"the folder of the output can't be written: {folder}"
        problem = from_os_error(error, what)
        raise type(problem)(problem.message, hint=problem.hint or "choose another -o") from error
    for name in keep:
        if output is not None and output.exists() and Path(name).exists() and output.samefile(name):
            msg = f"-o {output} would replace the file that the bundle is made from"
            raise UsageError(msg, hint="choose another -o")
    if output is not None and output.exists():
        _check_replaceable(output)


def check_size(staged: Bundle, target: TargetSpec, most_bytes: int | None) -> None:
    """Holds a bundle to the size that its user and its target allow.

    Raises:
        GateError: The archive is larger; names its largest parts.
    """
    limits = [(most_bytes, "--max-size")]
    if target.limits.size_mib is not None:
        limits.append((target.limits.size_mib * 2**20, f"[limits] size_mib of {target.name}"))
    size = staged.path.stat().st_size
    for limit, source in limits:
        if limit is not None and size > limit:
            files = sorted(staged.manifest.files.items(), key=lambda item: -item[1].size)[:2]
            largest = ", ".join(f"{path} {entry.size / 2**20:.1f} MiB" for path, entry in files)
            msg = f"the bundle has {size / 2**20:.1f} MiB, {source} allows {limit / 2**20:.1f} MiB; largest: {largest}"
            raise GateError(msg, hint="--thin leaves the engine out, --int8 makes the model smaller")


def publish(staged: Bundle, output: Path, beside: Mapping[str, str] | None = None) -> Bundle:
    """Moves a staged bundle to its place, with the texts that lie beside it. Gives the bundle there.

    All of them are written in full, and durable, before the first is moved to its place; the bundle is the last. So whatever stops this
    leaves the old bundle or the new one, and beside a new one always its own texts. On the cache's own file system the bundle is
    renamed; only across file systems its bytes are copied.

    Args:
        staged: The bundle in the cache; it is moved away from there.
        output: Its place, a file; what lies there is replaced.
        beside: Texts by kind: ``model.x86-64.edge`` gets ``model.x86-64.KIND.json``.

    Raises:
        UsageError: ``output`` can't be written.
        ResourceError: The disk is full.
    """
    if not output.parent.is_dir():
        msg = f"the folder of the output does not exist: {output.parent}"
        raise UsageError(msg, hint="make it, or choose another -o")
    output = output.absolute()
    with ExitStack() as stack:  # what is entered last is moved first
        stack.enter_context(moved_file(staged.path, output))
        for kind, text in (beside or {}).items():
            stem = output.name.removesuffix(".edge")
            stack.enter_context(atomic_file(output.with_name(f"{stem}.{kind}.json"))).write(text.encode())
    return Bundle.open(output)


def read_goldens(exported: ExportedModel) -> list[GoldenArrays]:
    """The export's samples as goldens: the first always, the others while they fit into the budget."""
    import numpy as np

    goldens: list[GoldenArrays] = []
    total = 0
    for index in range(exported.sample_count):
        path = exported.directory / "samples" / f"{index}.npz"
        total += path.stat().st_size
        if goldens and total > GOLDEN_BUDGET_BYTES:
            break
        with np.load(path, allow_pickle=False) as arrays:
            goldens.append(
                GoldenArrays(
                    inputs={s.name: arrays[f"in.{i}"] for i, s in enumerate(exported.signature.inputs)},
                    outputs={s.name: arrays[f"out.{i}"] for i, s in enumerate(exported.signature.outputs)},
                )
            )
    return goldens


def _variant(variant: LoweredVariant, spec: BackendSpec, parts: PackedParts) -> Variant:
    engine = parts.engines.get(variant.backend)
    return Variant(
        name=variant.name,
        backend=variant.backend,
        precision=variant.precision,
        model=f"model/{variant.model}",
        data=tuple(f"model/{name}" for name in variant.data),
        inputs=variant.inputs,
        outputs=variant.outputs,
        engine=None if engine is None else _engine(engine, parts.target.os, spec, thin=parts.thin),
        plugin=f"lib/{parts.plugins[variant.backend].library.name}" if variant.backend in parts.plugins else None,
        options=dict(variant.options),
        requires=Requirements(
            cpu_features=tuple(sorted({*parts.target.soc.features, *variant.cpu_features})),
            glibc=_newest(_newest(parts.target.os.glibc, engine.pin.glibc if engine else None), variant.glibc or None),
            memory_bytes=parts.decisions.memory_bytes.get(variant.name),
        ),
        speed="measured" if parts.measured and variant.measured_here else "unproved",
        tolerances={
            name: Tolerance(atol=atol, rtol=rtol)
            for name, (atol, rtol) in (variant.tolerances or parts.exported.tolerances).items()
        },
    )


def _newest(glibc: str, other: str | None) -> str:
    """The younger of two versions such as "2.28"."""
    return max(glibc, other or glibc, key=lambda version: tuple(int(part) for part in version.split(".")))


def _engine(files: EngineFiles, os: OperatingSystem, spec: BackendSpec, *, thin: bool) -> Engine:
    def place(path: Path) -> str | ExternalLibrary:
        if not thin:
            return f"lib/{path.name}"
        return ExternalLibrary(file=path.name, size=path.stat().st_size, sha256=file_sha256(path))

    return Engine(
        name=files.pin.engine,
        version=spec.version,
        library=place(files.library),
        needed=tuple(place(path) for path in engine_layout(files, os).needed),
    )


def _layouts(parts: PackedParts) -> list[EngineLayout]:
    return [engine_layout(engine, parts.target.os) for engine in parts.engines.values()]


def _loader(layouts: Sequence[EngineLayout]) -> Loader | None:
    """The C library that the bundle brings, also a thin one: the runner can't start an engine without it."""
    for layout in layouts:
        if layout.system:
            program, *libraries = (f"lib/{path.name}" for path in layout.system)
            return Loader(program=program, libraries=tuple(libraries), glibc=layout.glibc)
    return None


def _files(parts: PackedParts) -> list[BundleFile]:
    files = [BundleFile(path="bin/edgerun", source=parts.runner, executable=True)]
    models: dict[str, Path] = {}
    for _, model in parts.lowered:
        for variant in model.variants:
            for name in (variant.model, *variant.data):
                source = models.setdefault(f"model/{name}", model.path(name))
                if source != model.path(name) and not filecmp.cmp(source, model.path(name), shallow=False):
                    msg = f"model/{name}: two backends give different files of this name"
                    raise InternalError(msg)
    files += [BundleFile(path=path, source=source) for path, source in models.items()]
    licences = dict(runner_licences())
    libraries: dict[str, BundleFile] = {}
    for engine, layout in zip(parts.engines.values(), _layouts(parts), strict=True):
        bundled = [] if parts.thin else [engine.library, *layout.needed]
        for path in (*bundled, *layout.system):
            program = path in layout.system[:1]
            libraries[path.name] = BundleFile(path=f"lib/{path.name}", source=path, executable=program)
        if bundled or layout.system:
            licences.update(engine.licences)
    for plugin in parts.plugins.values():  # also in a thin bundle: it is of this runner, and small
        libraries[plugin.library.name] = BundleFile(path=f"lib/{plugin.library.name}", source=plugin.library)
        licences.update(plugin.licences)
    files += libraries.values()
    _check_native(files, parts)
    files += [BundleFile(path=f"licenses/{name}", source=source) for name, source in sorted(licences.items())]
    return files


def _check_native(files: Sequence[BundleFile], parts: PackedParts) -> None:
    """Holds programs and libraries to the target, also those that a thin bundle leaves out."""
    native = [
        NativeFile(path=file.path, source=file.source)
        for file in files
        if file.path.startswith(("bin/", "lib/")) and isinstance(file.source, Path)
    ]
    if parts.thin:
        native += [
            NativeFile(path=f"lib/{path.name}", source=path)
            for engine, layout in zip(parts.engines.values(), _layouts(parts), strict=True)
            for path in (engine.library, *layout.needed)
        ]
    check_native_files(native, parts.target)
