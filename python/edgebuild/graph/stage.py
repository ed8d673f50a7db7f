"""The graph stage with its cache: from the exported model to the optimised float graph that everything later starts from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebuild.cache import Cache, content_key, file_sha256
from edgebuild.targets import BackendSpec
from edgebuild.targets.spec import lowest_opset

_STAGE = "4"


@dataclass(frozen=True, kw_only=True)
class OptimizedGraph:
    """An optimised graph in its cached folder.

    Args:
        folder: Holds ``graph.onnx``, and its weights in ``graph.onnx.data`` if they are large.
        precision: What most weights are stored in, by the manifest's names; "int8" if anything is quantised.
        passes: Rewrites by pass.
        steps: Of each pass "pass", "runs", "rewrites" and "nodes_removed" (below 0: added), in order of the first run.
        nodes: Before and after.
        notes: What the passes could not do.
    """

    folder: Path
    precision: str
    passes: Mapping[str, int]
    steps: tuple[Mapping[str, Any], ...]
    nodes: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.folder / "graph.onnx"


def optimize_export(onnx: Path, spec: BackendSpec, cache: Cache) -> tuple[OptimizedGraph, bool]:
    """Optimises an exported model for a backend, once.

    Returns:
        The graph, and whether it came from the cache.

    Raises:
        ModelError: The graph needs an opset that the backend lacks.
    """
    weights = onnx.with_name(onnx.name + ".data")
    key = content_key(
        ["graph", _STAGE, spec.name, spec.version, spec.opset_max, sorted(spec.fused_operators)],
        file_sha256(onnx),
        file_sha256(weights) if weights.exists() else None,
        stage_versions(),
    )
    folder, cached = cache.find_or_make("graph", key, lambda work: _optimize(onnx, spec, work))
    return _read(folder), cached


def stage_versions() -> dict[str, str]:
    """Versions of everything that decides what the graph stage writes; read from metadata, nothing is imported."""
    from importlib import metadata

    import edgebuild
    from edgebuild.fingerprint import source_digest

    versions = {name: metadata.version(name) for name in ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "numpy")}
    return {**versions, "edgebuild": edgebuild.__version__, "sources": source_digest("graph")}


def graph_sha256(graph: Path) -> list[str]:
    """Hashes of an ONNX file and of the weights beside it."""
    weights = graph.with_name(graph.name + ".data")
    return [file_sha256(path) for path in (graph, weights) if path.exists()]


def _optimize(onnx: Path, spec: BackendSpec, folder: Path) -> None:
    from edgebuild.export.write import EXTERNAL_FROM_BYTES, INLINE_BELOW, weight_bytes
    from edgebuild.graph.io import load_model, save_model
    from edgebuild.graph.optimize import optimize

    result = optimize(
        load_model(onnx),
        target_opset_max=lowest_opset([spec]),
        fused_operators=spec.fused_operators,
        backend_name=f"{spec.name} {spec.version}",
    )
    # Weights in a file of their own are mapped and streamed; in the message they are held several times over.
    threshold = INLINE_BELOW if weight_bytes(result.model) >= EXTERNAL_FROM_BYTES else EXTERNAL_FROM_BYTES
    save_model(result.model, folder / "graph.onnx", external_threshold=threshold)
    report = result.report.to_json(timings=False)
    data = {
        "precision": _precision(result.model),
        "passes": {entry["pass"]: entry["rewrites"] for entry in report["passes"]},
        "steps": report["passes"],
        "nodes": [report["nodes_before"], report["nodes_after"]],
        "notes": report["notes"],
    }
    (folder / "graph.json").write_text(json.dumps(data, indent=2), encoding="utf-8")


def _precision(model: "object") -> str:
    import onnx_ir as ir

    assert isinstance(model, ir.Model)
    quantised = ("QuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "DequantizeLinear")
    if any(node.op_type in quantised or node.op_type.startswith("QLinear") for node in model.graph):
        return "int8"
    sizes: dict[str, int] = {}
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype.is_floating_point():
            name = value.const_value.dtype.name
            sizes[name] = sizes.get(name, 0) + value.const_value.size
    names = {"FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16", "DOUBLE": "float64"}
    return names.get(max(sizes, key=lambda n: sizes[n]), "mixed") if sizes else "float32"


def _read(folder: Path) -> OptimizedGraph:
    data = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    return OptimizedGraph(
        folder=folder,
        precision=data["precision"],
        passes=data["passes"],
        steps=tuple(data["steps"]),
        nodes=(data["nodes"][0], data["nodes"][1]),
        notes=tuple(data["notes"]),
    )
