"""The export stage inside the process that holds the model: ModelSource in, a folder with an ExportedModel out."""

import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebuild.errors import EdgebuildError, GateError, ModelError
from edgebuild.export import parity as parity_module
from edgebuild.export.arrays import Array, dtype_name, raw_bits, to_numpy, to_torch
from edgebuild.export.chain import Judged, run_chain
from edgebuild.export.finish import finish
from edgebuild.export.flat import flat_module
from edgebuild.export.judge import compare_with_original
from edgebuild.export.outputs import output_names, output_specs
from edgebuild.export.parity import EngineModel
from edgebuild.export.program import PROGRAM_FILE, write_program
from edgebuild.export.result import NO_GRAPH, Attempt, ExportedModel
from edgebuild.export.script_stage import JudgedScript, make_script
from edgebuild.export.sequence import find_sequence
from edgebuild.export.tolerance import output_depths
from edgebuild.export.write import write_onnx
from edgebuild.model.probe import CHANGES_STATE, State
from edgebuild.model.request import ModelRequest
from edgebuild.model.signature import DTYPES, Signature, Structure
from edgebuild.model.source import Inputs, ModelKind, ModelSource

Progress = Callable[[str], None]


def export_source(source: ModelSource, request: ModelRequest, directory: Path, progress: Progress) -> ExportedModel:
    """Exports a loaded model, proves parity, and writes everything into ``directory`` (``exported.json`` last).

    Raises:
        ModelError: No exporter can do it; or the model's outputs are no tensors.
        GateError: The exported model does not compute what the original does, or the original draws random numbers.
    """
    directory.mkdir(parents=True, exist_ok=True)
    progress("running the original")
    state = State(source.module)
    outputs, structure = source.reference(source.samples[0])
    if not outputs:
        message = f"model {source.name} returns no tensor"
        raise ModelError(message, hint="return a tensor, or a tuple, list or dict of tensors, from forward")

    def reference(sample: Inputs) -> list[Array]:
        return [to_numpy(value) for value in source.reference(sample)[0]]

    names = list(source.output_names)
    if len(names) != len(outputs):
        names = output_names(structure, len(outputs))
    onnx_model: ir.Model | None = None
    if source.kind is ModelKind.ONNX:
        from edgebuild.export.exporters.onnx_file import read_onnx

        assert source.onnx_path is not None
        onnx_model = read_onnx(Path(source.onnx_path))
        names = [str(value.name) for value in onnx_model.graph.outputs]
        if not all(isinstance(value, np.ndarray) for value in outputs):
            message = f"model {source.name} has an output that is a sequence, a map or absent"
            raise ModelError(message, hint="only tensors can be outputs; add a node that stacks or unpacks it")
    if source.kind is not ModelKind.ONNX:
        parity_module.check_repeatable(_unseeded(source), source.samples[0], names)
    expected = [reference(sample) for sample in source.samples]
    _check_structure(source, structure)
    _check_dtypes(names, expected[0])

    steps = None if request.torchscript == "never" or onnx_model is not None else find_sequence(source, expected, state)
    judge = _Judge(source, request, directory, names, expected, reference, progress)
    graph: _Graph | None = None
    refused: EdgebuildError | None = None
    attempts: list[Attempt] = []
    if steps is not None:
        refused = ModelError(f"forward changes {', '.join(steps.attributes)}, and later outputs depend on it")
        source, expected = replace(source, samples=steps.samples), list(steps.expected)
    elif request.torchscript != "only":
        try:
            graph = _make_graph(source, request, directory, onnx_model, judge, progress, state, attempts)
        except (ModelError, GateError) as error:
            if request.torchscript == "never" or onnx_model is not None:
                raise
            refused = error
    script: JudgedScript | None = None
    if request.torchscript in ("only", "also") or refused is not None:
        progress("TorchScript for LibTorch")
        state.restore()
        try:
            script = make_script(source, request, directory, names, expected, None if steps is not None else reference)
        except (ModelError, GateError) as error:
            if refused is None:
                raise
            msg = f"{refused.message}; nor as TorchScript through LibTorch: {error.message}"
            raise type(refused)(msg, hint=refused.hint) from error
    if script is not None and steps is None and not script.keeps_state:
        progress("torch.export for LibTorch")
        state.restore()
        why = write_program(source, directory / PROGRAM_FILE)
        script = replace(script, form=replace(script.form, no_program=why))
    notes = [note for note in source.notes if steps is None or not note.startswith(CHANGES_STATE)]
    keeps_state = script is not None and graph is None and (steps is not None or script.keeps_state)
    if keeps_state:
        notes.append(
            "the model keeps state: a Runner has one, its runs wait for each other, and reset() puts it back to what the file "
            f"holds; the goldens are {len(source.samples)} steps in a row"
        )
    if graph is None:
        (directory / "model.onnx").unlink(missing_ok=True)
        (directory / "model.onnx.data").unlink(missing_ok=True)
    if refused is not None:
        notes.append(f"{NO_GRAPH}: {refused.message.partition('; tried ')[0]}")
    _write_samples(directory, source, expected)
    result = ExportedModel(
        directory=directory,
        name=source.name,
        kind=source.kind.value,
        signature=Signature(
            inputs=source.inputs,
            outputs=output_specs(
                names,
                source.inputs,
                source.symbols,
                source.samples,
                expected,
                None if graph is None else graph.judged.model,
                sized_by_data=script is not None and script.sized_by_data,
            ),
            symbols=source.symbols,
            output_structure=structure,
        ),
        **_taken(graph, script, attempts),
        sample_count=len(source.samples),
        assumptions=source.assumptions,
        notes=(*notes, *(graph.judged.notes if graph else ()), *(script.notes if script else ())),
        original_latency_ms=_latency_ms(source) if request.time_original else None,
        producer=producer_versions(),
        script=None if script is None else script.form,
        keeps_state=keeps_state,
    )
    result.write()
    return result


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """An ONNX graph that was taken, and how it came about."""

    judged: Judged
    exporter: str
    opset: int


def _make_graph(
    source: ModelSource,
    request: ModelRequest,
    directory: Path,
    onnx_model: ir.Model | None,
    judge: "_Judge",
    progress: Progress,
    state: State,
    attempts: list[Attempt],
) -> _Graph:
    if onnx_model is not None:
        from edgebuild.export.exporters.onnx_file import take_over

        judged = take_over(onnx_model, judge)
        attempts.append(Attempt(exporter="onnx", error=None))
        return _Graph(judged=judged, exporter="onnx", opset=int(judged.model.opset_imports[""]))
    with tempfile.TemporaryDirectory(dir=directory, prefix=".scratch-") as scratch:
        exporter, opset, judged, _ = run_chain(
            source,
            request.opset_max,
            Path(scratch),
            judge,
            lambda name: progress(f"exporting with {name}"),
            reset=state.restore,
            attempts=attempts,
        )
    return _Graph(judged=judged, exporter=exporter, opset=opset)


def _taken(graph: _Graph | None, script: JudgedScript | None, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """What an ExportedModel says of the form that it is judged by: the graph, else the TorchScript form."""
    if graph is not None:
        return {
            "engine_inputs": graph.judged.engine_inputs,
            "engine_outputs": graph.judged.engine_outputs,
            "exporter": graph.exporter,
            "opset": graph.opset,
            "attempts": tuple(attempts),
            "parity": graph.judged.parity,
            "tolerances": graph.judged.tolerances,
        }
    assert script is not None
    return {
        "engine_inputs": script.form.inputs,
        "engine_outputs": script.form.outputs,
        "exporter": script.form.origin,
        "opset": None,
        "attempts": tuple(attempts),
        "parity": script.form.parity,
        "tolerances": script.form.tolerances,
    }


def _unseeded(source: ModelSource) -> Callable[[Inputs], list[Array]]:
    """Runs the module itself: ``source.reference`` may set the seed before each run, which hides random operators.

    Every run starts from the saved state: what ``forward`` changes is no randomness.
    """
    module = flat_module(source)
    state = State(module)

    def run(sample: Inputs) -> list[Array]:
        state.restore()
        return [to_numpy(value) for value in module(*(to_torch(sample[spec.name]) for spec in source.inputs))]

    return run


class _Judge:
    """Finishes a graph, writes it and compares it; called for each exporter's graph until one holds."""

    def __init__(
        self,
        source: ModelSource,
        request: ModelRequest,
        directory: Path,
        names: Sequence[str],
        expected: Sequence[Sequence[Array]],
        reference: Callable[[Inputs], list[Array]],
        progress: Progress,
    ) -> None:
        self._source = source
        self._request = request
        self._directory = directory
        self._names = names
        self._expected = expected
        self._reference = reference
        self._progress = progress

    def __call__(self, model: ir.Model, *, rename: bool = True) -> Judged:
        source = self._source
        if rename:
            engine_inputs, engine_outputs = finish(model, source.inputs, self._names)
        else:
            engine_inputs = tuple(spec.name for spec in source.inputs)
            engine_outputs = tuple(str(value.name) for value in model.graph.outputs)
            for value, array in zip(model.graph.outputs, self._expected[0], strict=True):
                if value.shape is None:  # an ONNX file may leave it open, the standard's checker doesn't like that
                    value.shape = ir.Shape([None] * array.ndim)
        self._progress("writing the graph")
        path = self._directory / "model.onnx"
        path.with_name("model.onnx.data").unlink(missing_ok=True)
        write_onnx(model, path)
        self._progress("checking parity")
        engine = EngineModel(path, engine_inputs, engine_outputs)
        return self._compare(model, engine, engine_inputs, engine_outputs)

    def _compare(
        self,
        model: ir.Model,
        engine: EngineModel,
        engine_inputs: tuple[str | None, ...],
        engine_outputs: tuple[str, ...],
    ) -> Judged:
        dtypes = {out: dtype_name(array) for out, array in zip(engine_outputs, self._expected[0], strict=True)}
        depths = output_depths(model, dtypes)
        relative = {name: depths[out].relative for name, out in zip(self._names, engine_outputs, strict=True)}
        results, tolerances, notes = compare_with_original(
            self._source, self._request, self._names, self._expected, self._reference, engine.run, relative
        )
        return Judged(
            engine_inputs=engine_inputs,
            engine_outputs=engine_outputs,
            model=model,
            parity=results,
            tolerances=tolerances,
            notes=notes,
        )


def _check_structure(source: ModelSource, structure: Structure) -> None:
    """A number beside the tensors becomes a constant of the bundle, so it must not depend on the input."""
    for number, sample in enumerate(source.samples[1:], 1):
        other = source.reference(sample)[1]
        if other != structure:
            message = (
                f"what model {source.name} returns beside its tensors depends on the input: {_shown(structure)} on sample 0, "
                f"{_shown(other)} on sample {number}"
            )
            raise ModelError(message, hint="return such numbers as tensors, and always the same keys and lengths")


def _shown(structure: Structure) -> str:
    text = json.dumps(structure)
    return text if len(text) <= 200 else text[:199] + "…"


def _check_dtypes(names: Sequence[str], outputs: Sequence[Array]) -> None:
    for name, array in zip(names, outputs, strict=True):
        if dtype_name(array) not in DTYPES:
            message = f"output {name} has dtype {array.dtype}, which no bundle can hold"
            raise ModelError(message, hint="convert it in forward to a standard dtype")


def _latency_ms(source: ModelSource) -> float | None:
    """Median milliseconds of the original in PyTorch on sample 0, as its users run it: inference mode, JIT warmed up.

    Up to a second of runs, three to a hundred, with the thread count of this process (the worker's is one). Comes last: a
    module that keeps state is changed by it. None for an ONNX model, which has no PyTorch original.
    """
    if source.kind is ModelKind.ONNX:
        return None
    import torch

    module = flat_module(source)
    tensors = [to_torch(np.asarray(source.samples[0][spec.name])) for spec in source.inputs]
    times: list[float] = []
    with torch.inference_mode():
        deadline = time.perf_counter() + 1.0
        for _ in range(3):  # the profiling executor optimises in its second and third run
            module(*tensors)
            if time.perf_counter() > deadline:
                break
        deadline = time.perf_counter() + 1.0
        while len(times) < 3 or (len(times) < 100 and time.perf_counter() < deadline):
            start = time.perf_counter()
            module(*tensors)
            times.append((time.perf_counter() - start) * 1e3)
            if times[-1] > 2000.0:
                break
    return float(np.median(times))


def _write_samples(directory: Path, source: ModelSource, expected: Sequence[Sequence[Array]]) -> None:
    folder = directory / "samples"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, (sample, outputs) in enumerate(zip(source.samples, expected, strict=True)):
        arrays: dict[str, Array] = {
            f"in.{index}": raw_bits(np.asarray(sample[spec.name])) for index, spec in enumerate(source.inputs)
        }
        arrays.update({f"out.{index}": raw_bits(array) for index, array in enumerate(outputs)})
        np.savez(folder / f"{number}.npz", allow_pickle=False, **arrays)


def producer_versions() -> Mapping[str, str]:
    """Versions of everything that shapes the exported bytes or the reference."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


__all__ = ["GateError", "export_source", "producer_versions"]
