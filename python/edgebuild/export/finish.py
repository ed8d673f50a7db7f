"""What every exporter's graph goes through: the signature's names, no trace of the build machine, no unused input."""

from collections.abc import Iterator, Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from edgebuild.model.signature import TensorType, ValueSpec

INPUT_PREFIX = "edgebuild_in_"
"""Exporters name the graph's inputs ``edgebuild_in_I`` by signature index, so that one that was dropped is noticed."""


def _graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    yield from graph.subgraphs()


def _all_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every named value of ``graph`` and its subgraphs, once."""
    for part in _graphs(graph):
        yield from part.inputs
        yield from part.initializers.values()
        for node in part:
            yield from node.outputs


def _claim(graph: ir.Graph, wanted: dict[ir.Value, str]) -> None:
    """Gives values the names they are wanted to have; any other value that has such a name gets a free one."""
    names = set(wanted.values())
    values = list(_all_values(graph))
    taken = {value.name for value in values if value.name} | names
    for value in values:
        if value in wanted or value.name not in names:
            continue
        number = 1
        while f"{value.name}_{number}" in taken:
            number += 1
        fresh = f"{value.name}_{number}"
        taken.add(fresh)
        _rename(value, fresh)
    for position, value in enumerate(wanted):  # two steps: wanted names may be each other's present ones
        _rename(value, f"edgebuild_tmp_{position}")
    for value, name in wanted.items():
        _rename(value, name)


def _rename(value: ir.Value, name: str) -> None:
    value.name = name  # an initializer's entry in its graph follows, and so does its tensor


def _separate_outputs(graph: ir.Graph) -> None:
    """Puts an Identity before an output that is an input, an initializer, or another output too."""
    seen: set[ir.Value] = set()
    for position, value in enumerate(list(graph.outputs)):
        if value in seen or value.producer() is None:
            node = ir.node("Identity", [value])
            copy = node.outputs[0]
            copy.name = f"edgebuild_copy_{position}"
            copy.type, copy.shape = value.type, value.shape
            graph.append(node)
            graph.outputs[position] = copy
        seen.add(graph.outputs[position])


def strip_traces(model: ir.Model) -> None:
    """Removes doc strings and metadata: exporters write stack traces with source paths into them."""
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.doc_string = None
    for graph in _graphs(model.graph):
        graph.metadata_props.clear()
    for value in _all_values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None
    model.graph.name = "main"
    model.producer_name, model.producer_version = "edgebuild", None
    model.domain, model.model_version = None, None


def finish(
    model: ir.Model, inputs: Sequence[ValueSpec], output_names: Sequence[str]
) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    """Makes an exporter's graph the one that is kept; changes ``model`` in place.

    Args:
        model: Its inputs are named ``edgebuild_in_I``, its outputs are in signature order.
        inputs: The signature's inputs; shapes and names are taken from here.
        output_names: The signature's outputs.

    Returns:
        The graph's name of each input (None: unused, and removed from the graph), and of each output.

    Raises:
        ValueError: The graph has another number of outputs, or an input that nobody knows.
    """
    graph = model.graph
    if len(graph.outputs) != len(output_names):
        message = f"the graph has {len(graph.outputs)} outputs, the model {len(output_names)}"
        raise ValueError(message)
    common.RemoveInitializersFromInputsPass()(model)
    common.RemoveUnusedNodesPass()(model)
    _separate_outputs(graph)
    for value in list(graph.initializers.values()):
        if value.name is not None and value.name.startswith("module."):
            stripped = value.name.removeprefix("module.").removeprefix("module.")
            if stripped not in graph.initializers:
                _rename(value, stripped)

    by_name: dict[str, ir.Value] = {str(value.name): value for value in graph.inputs}
    engine_inputs: list[str | None] = []
    wanted: dict[ir.Value, str] = {}
    kept: list[ir.Value] = []
    for index, spec in enumerate(inputs):
        key = f"{INPUT_PREFIX}{index}"
        given = by_name.pop(key) if key in by_name else None
        if given is None or (not given.uses() and not given.is_graph_output()):
            engine_inputs.append(None)
            continue
        kept.append(given)
        wanted[given] = spec.name
        engine_inputs.append(spec.name)
        if isinstance(spec.type, TensorType):
            given.shape = None if spec.type.shape is None else ir.Shape(spec.type.shape)
    if by_name:
        message = f"the graph has unknown inputs: {', '.join(sorted(by_name))}"
        raise ValueError(message)
    graph.inputs[:] = kept

    used = {name for name in engine_inputs if name is not None}
    engine_outputs: list[str] = []
    for value, name in zip(graph.outputs, output_names, strict=True):
        unique = name
        while unique in used:  # ONNX has one name space for both
            unique += "_out"
        used.add(unique)
        engine_outputs.append(unique)
        wanted[value] = unique
    _claim(graph, wanted)
    strip_traces(model)
    common.RemoveUnusedOpsetsPass()(model)
    return tuple(engine_inputs), tuple(engine_outputs)
