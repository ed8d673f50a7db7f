"""ONNX Runtime: loads ONNX, or its own format where that starts faster."""

import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from edgebuild.backends.candidate import Candidate, LoweredVariant
from edgebuild.errors import InternalError

NAME = "onnxruntime"
ENGINE: str | None = "onnxruntime"
FORM = "onnx"
LOWERING = "4"
OPTIONS: dict[str, tuple[str, ...]] = {
    "intra_op_threads": (),
    "inter_op_threads": (),
    "graph_optimization": ("disable", "basic", "extended", "all"),
    "memory_arena": ("0", "1"),
    "memory_pattern": ("0", "1"),
    "execution_mode": ("sequential", "parallel"),
    "allow_spinning": ("0", "1"),
}
"""What cpp/backends/onnxruntime/session.cpp takes; a test holds the two together."""

NUMBERS: dict[str, int] = {}

_ORT_FORMAT_LIMIT = 256 * 2**20
"""Bytes of weights above which a quantised model stays ONNX: the flatbuffer has to fit into 2 GiB, with room to spare."""


def lower(candidate: Candidate, options: dict[str, str], folder: Path) -> tuple[LoweredVariant, ...]:
    """Writes the model that the runtime loads.

    A float model stays ONNX: the fast convolution layouts are chosen when the graph is optimised on the board, and a model
    saved after optimising keeps out of that. One without float convolutions gains nothing there and is saved in ORT format at
    the extended level, which is portable across CPUs: measured on MobileNetV2, it starts in two thirds of the time. Only the version that wrote such a file is sure to
    have the kernels that its optimiser chose, so for another one the model stays ONNX.
    """
    data = candidate.graph.with_name(candidate.graph.name + ".data")
    stem = f"{NAME}-{candidate.precision}{candidate.suffix}"
    small = not data.exists() and candidate.graph.stat().st_size < _ORT_FORMAT_LIMIT
    same = candidate.engine_version == metadata.version(NAME)
    if candidate.precision == "int8" and same and small and not _has_float_convolution(candidate.graph):
        model = f"{stem}.ort"
        _save_ort_format(candidate.graph, folder / model)
        names: tuple[str, ...] = ()
    else:
        # The model names its weights by their file name, so both keep it.
        model = f"{stem}.onnx"
        shutil.copyfile(candidate.graph, folder / model)
        names = (data.name,) if data.exists() else ()
        if data.exists():
            shutil.copyfile(data, folder / data.name)
    variant = LoweredVariant(
        name=stem,
        backend=NAME,
        precision=candidate.precision,
        model=model,
        data=names,
        inputs=candidate.inputs,
        outputs=candidate.outputs,
        options={"graph_optimization": "all", "memory_arena": "1", **options},
    )
    return (variant,)


def _has_float_convolution(graph: Path) -> bool:
    """Whether a convolution computes on float weights, and so wants the layouts that are chosen on the board."""
    from edgebuild.graph.io import load_model
    from edgebuild.graph.values import constant_tensor, is_op

    model = load_model(graph)
    return any(
        is_op(node, "Conv", "ConvTranspose") and constant_tensor(node.inputs[1]) is not None for node in model.graph
    )


def _save_ort_format(graph: Path, path: Path) -> None:
    from edgebuild.backends.ort_format import save_ort_format

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".ort.") as scratch:
        source, saved = Path(scratch, "model.onnx"), Path(scratch, "model.ort")
        shutil.copyfile(graph, source)
        problem = save_ort_format(source, saved)
        if problem is not None:
            msg = f"ONNX Runtime could not save {graph.name} in its own format: {problem}"
            raise InternalError(msg)
        saved.replace(path)
