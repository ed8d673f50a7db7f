"""From the exported model to what each backend of the target loads: graph stage, then lowering, cached together."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgebuild.backends.candidate import Candidate, LoweredVariant
from edgebuild.backends.registry import find_backend
from edgebuild.cache import Cache, content_key, file_sha256
from edgebuild.export.result import ExportedModel
from edgebuild.targets import BackendSpec

_GRAPH_STAGE = "1"


@dataclass(frozen=True, kw_only=True)
class LoweredModel:
    """A backend's variants of one model, in a cached folder, and what the graph stage did on the way."""

    folder: Path
    variants: tuple[LoweredVariant, ...]
    passes: Mapping[str, int]
    nodes: tuple[int, int]
    notes: tuple[str, ...]

    def path(self, name: str) -> Path:
        """Of a file that a variant names."""
        return self.folder / name


def lower_model(
    exported: ExportedModel, spec: BackendSpec, options: Mapping[str, str], cache: Cache
) -> tuple[LoweredModel, bool]:
    """Optimises the exported graph for a backend and writes what the backend loads.

    Returns:
        The variants, and whether they came from the cache.

    Raises:
        ModelError: The graph needs an opset that the backend lacks.
        UsageError: There is no such backend.
    """
    backend = find_backend(spec.name)
    settings = {**spec.options, **options}
    weights = exported.directory / "model.onnx.data"
    key = content_key(
        ["lower", _GRAPH_STAGE, backend.LOWERING, spec.name, spec.version, spec.opset_max, settings],
        file_sha256(exported.onnx),
        file_sha256(weights) if weights.exists() else None,
        [list(exported.engine_inputs), list(exported.engine_outputs), dict(exported.tolerances)],
        [file_sha256(path) for path in sorted((exported.directory / "samples").glob("*.npz"))],
        stage_versions(),
    )
    folder, cached = cache.find_or_make("lower", key, lambda work: _lower(exported, spec, settings, work))
    return _read(folder), cached


def stage_versions() -> dict[str, str]:
    """Versions of everything that decides what the graph stage writes; read from metadata, nothing is imported."""
    from importlib import metadata

    import edgebuild
    from edgebuild.fingerprint import source_digest

    versions = {name: metadata.version(name) for name in ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "numpy")}
    return {**versions, "edgebuild": edgebuild.__version__, "sources": source_digest("graph", "backends")}


def _lower(exported: ExportedModel, spec: BackendSpec, settings: dict[str, str], folder: Path) -> None:
    from edgebuild.export.write import EXTERNAL_FROM_BYTES, weight_bytes
    from edgebuild.graph.io import load_model, save_model
    from edgebuild.graph.optimize import optimize

    backend = find_backend(spec.name)
    result = optimize(
        load_model(exported.onnx), target_opset_max=spec.opset_max, backend_name=f"{spec.name} {spec.version}"
    )
    work = folder / ".graph"
    work.mkdir()
    # Weights in a file of their own are mapped and streamed; in the message they are held several times over.
    threshold = 1024 if weight_bytes(result.model) >= EXTERNAL_FROM_BYTES else EXTERNAL_FROM_BYTES
    save_model(result.model, work / "graph.onnx", external_threshold=threshold)
    candidate = Candidate(
        graph=work / "graph.onnx",
        precision=_precision(result.model),
        inputs=exported.engine_inputs,
        outputs=exported.engine_outputs,
    )
    variant = backend.lower(candidate, settings, folder)
    if candidate.precision == "int8":
        from edgebuild.backends.rounding import widened_tolerances

        variant = replace(variant, tolerances=widened_tolerances(exported, candidate.graph))
    for path in work.iterdir():
        path.unlink()
    work.rmdir()
    report = result.report.to_json(timings=False)
    data = {
        "variants": [{**vars(variant), "options": dict(variant.options), "tolerances": variant.tolerances}],
        "passes": {entry["pass"]: entry["rewrites"] for entry in report["passes"]},
        "nodes": [report["nodes_before"], report["nodes_after"]],
        "notes": report["notes"],
    }
    (folder / "lowered.json").write_text(json.dumps(data, indent=2), encoding="utf-8")


def _precision(model: "object") -> str:
    """The precision by the name of the manifest: what most weights are stored in, int8 if anything is quantised."""
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


def _read(folder: Path) -> LoweredModel:
    data = json.loads((folder / "lowered.json").read_text(encoding="utf-8"))
    variants = tuple(
        LoweredVariant(**{**v, "data": tuple(v["data"]), "inputs": tuple(v["inputs"]), "outputs": tuple(v["outputs"])})
        for v in data["variants"]
    )
    return LoweredModel(
        folder=folder,
        variants=variants,
        passes=data["passes"],
        nodes=(data["nodes"][0], data["nodes"][1]),
        notes=tuple(data["notes"]),
    )
