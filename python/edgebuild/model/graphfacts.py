"""Reads a TorchScript graph: what the layers that an input reaches ask of it. Nothing is executed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgebuild.model import layers
from edgebuild.model.demand import Carry, Demand, same
from edgebuild.model.operators import BINARY
from edgebuild.model.values import dtype_name

_MISSING = object()
_KEEPS_SHAPE = frozenset(
    {"aten::contiguous", "aten::_weight_norm", "aten::clone", "aten::neg", "aten::to", "aten::sign"}
)
_VIEWS = frozenset(
    f"aten::{name}"
    for name in ("transpose", "permute", "slice", "select", "unsqueeze", "squeeze", "view", "reshape", "flatten")
)
_SCALES = frozenset({"aten::mul", "aten::div", "aten::add", "aten::sub"})
_MAX_STEPS = 20_000
_MAX_DEPTH = 60


@dataclass(kw_only=True)
class Facts:
    """What the graph says about one tensor input.

    Args:
        demands: In the order in which the layers are reached.
        recorded: Dtype and shape that the tracer recorded, if the file kept them.
        peers: Inputs that meet this one in an elementwise operator: same shape, most likely.
        used: Whether anything uses it.
    """

    demands: list[Demand] = field(default_factory=list)
    recorded: tuple[str | None, tuple[int, ...] | None] = (None, None)
    peers: list[str] = field(default_factory=list)
    used: bool = False


class GraphReader:
    """Reads the inlined graph of a ScriptModule's ``forward``."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.graph = module.forward.inlined_graph
        inputs = list(self.graph.inputs())
        self.root = inputs[0]
        names = [a.name for a in module.forward.schema.arguments[1:]]
        self.parameters = dict(zip(names, inputs[1:], strict=False))
        self._reach: dict[str, list[str]] = {}
        self._constants: dict[str, Any] = {}
        self.leaving: dict[str, list[Any]] = {}
        """Value inside a block -> values outside that it becomes."""
        self._index_blocks(self.graph)

    def _index_blocks(self, block: Any) -> None:
        for node in block.nodes():
            for inner in node.blocks():
                outputs = list(node.outputs())
                results = list(inner.outputs())[1 if node.kind() == "prim::Loop" else 0 :]
                for result, output in zip(results, outputs, strict=False):
                    self.leaving.setdefault(result.debugName(), []).append(output)
                self._index_blocks(inner)

    def facts(self, paths: Sequence[str]) -> dict[str, Facts]:
        """Facts for each flat input name (``x``, ``state.0``, ``batch.image``)."""
        found = {path: Facts() for path in paths}
        for path in paths:
            head, _, rest = path.partition(".")
            value = self.parameters.get(path, self.parameters.get(head))
            if value is None:
                continue
            facts = found[path]
            facts.recorded = _recorded(value)
            rest = "" if path in self.parameters else rest
            _Walk(self, facts, path).run(value, tuple(rest.split(".")) if rest else ())
        for path, facts in found.items():
            facts.peers = [p for p in dict.fromkeys(facts.peers) if p != path]
        return found

    def items(self, path: str) -> list[str]:
        """Names of the items of a list or dict argument, as the graph takes it apart."""
        value = self.parameters.get(path)
        if value is None:
            return []
        keys: list[str] = []
        for node, index in _uses(value):
            kind = node.kind()
            if kind in ("prim::ListUnpack", "prim::TupleUnpack"):
                keys += [str(i) for i in range(node.outputsSize())]
            elif kind == "aten::__getitem__" and index == 0:
                key = self.constant(list(node.inputs())[1])
                if isinstance(key, int | str) and not isinstance(key, bool):
                    keys.append(str(max(key, 0)) if isinstance(key, int) else key)
            elif kind in ("aten::lstm", "aten::lstm_cell") and index == 1:
                keys += ["0", "1"]
        return list(dict.fromkeys(keys))

    def constant(self, value: Any) -> Any:
        """The Python value of a constant or an attribute, ``_MISSING`` if it is computed."""
        name = value.debugName()
        if name not in self._constants:
            self._constants[name] = _MISSING
            self._constants[name] = self._evaluate(value)
        return self._constants[name]

    def known(self, value: Any) -> bool:
        return self.constant(value) is not _MISSING

    def _evaluate(self, value: Any) -> Any:
        node = value.node()
        kind = node.kind()
        if kind == "prim::Constant":
            try:
                return value.toIValue()
            except RuntimeError:
                return _MISSING
        if kind == "prim::GetAttr":
            owner = next(iter(node.inputs()))
            parent = self.module if owner.debugName() == self.root.debugName() else self.constant(owner)
            return _MISSING if parent is _MISSING else getattr(parent, node.s("name"), _MISSING)
        inputs = list(node.inputs())
        if kind in ("prim::ListConstruct", "prim::TupleConstruct"):
            items = [self.constant(item) for item in inputs]
            return _MISSING if any(item is _MISSING for item in items) else items
        if kind in ("aten::t", "aten::transpose", "aten::detach", "aten::numpy_T") and self.known(inputs[0]):
            base = self.constant(inputs[0])
            if getattr(base, "ndim", 0) == 2:
                return base.detach() if kind == "aten::detach" else base.t()
        if kind in _VIEWS and all(self.known(item) for item in inputs):
            return _view(kind, [self.constant(item) for item in inputs])
        if kind == "prim::unchecked_cast" or kind in _KEEPS_SHAPE:
            return self.constant(inputs[0])
        if (
            kind in _SCALES
        ):  # a weight that is computed from weights (weight norm, spectral norm): only its shape matters
            parts = [self.constant(item) for item in inputs[:2]]
            if all(part is not _MISSING for part in parts):
                return max(parts, key=lambda part: getattr(part, "ndim", 0))
        return _MISSING

    def label(self, value: Any) -> str:
        """A name for a weight: its attribute path, such as ``conv1.weight``."""
        parts: list[str] = []
        node = value.node()
        passing = {"prim::GetAttr", "aten::t", "aten::detach", *_VIEWS, *_KEEPS_SHAPE, *_SCALES}
        while node.kind() in passing:
            if node.kind() == "prim::GetAttr":
                parts.append(node.s("name"))
            upper = next(iter(node.inputs()))
            if upper.debugName() == self.root.debugName():
                break
            node = upper.node()
        return ".".join(reversed(parts)) or "a constant weight"


def _view(kind: str, inputs: list[Any]) -> Any:
    """A view of a weight; nothing is computed."""
    import torch

    try:
        with torch.no_grad():
            return getattr(torch.ops.aten, kind.removeprefix("aten::"))(*inputs)
    except (RuntimeError, TypeError, IndexError):
        return _MISSING


class _Walk:
    """From one input forward to the layers, carrying how axes move."""

    def __init__(self, reader: GraphReader, facts: Facts, path: str) -> None:
        self.reader = reader
        self.facts = facts
        self.path = path
        self.seen: set[tuple[str, tuple[str, ...]]] = set()
        self.steps = 0

    def run(self, value: Any, inside: tuple[str, ...]) -> None:
        """Breadth first, so that nearer layers come first; ``inside``: which item of a container is meant."""
        queue: list[tuple[Any, tuple[str, ...], tuple[Carry, ...]]] = [(value, inside, ())]
        while queue and self.steps < _MAX_STEPS:
            value, inside, chain = queue.pop(min(range(len(queue)), key=lambda i: len(queue[i][2])))
            mark = (value.debugName(), inside)
            if mark in self.seen or len(chain) > _MAX_DEPTH:
                continue
            self.seen.add(mark)
            if not inside:
                self.reader._reach.setdefault(value.debugName(), []).append(self.path)
            queue += [(outer, inside, chain) for outer in self.reader.leaving.get(value.debugName(), ())]
            for node, index in _uses(value):
                self.steps += 1
                self.facts.used = True
                queue += self._step(node, index, inside, chain)

    def _step(
        self, node: Any, index: int, inside: tuple[str, ...], chain: tuple[Carry, ...]
    ) -> Iterator[tuple[Any, tuple[str, ...], tuple[Carry, ...]]]:
        kind = node.kind()
        inputs = list(node.inputs())
        outputs = list(node.outputs())
        if kind in ("prim::If", "prim::Loop"):
            yield from self._control(node, index, inside, chain)
        elif kind in ("prim::TupleConstruct", "prim::ListConstruct"):
            yield outputs[0], (str(index), *inside), chain
        elif kind == "prim::DictConstruct":
            key = self.reader.constant(inputs[index - 1]) if index % 2 else _MISSING
            if isinstance(key, str):
                yield outputs[0], (key, *inside), chain
        elif kind in ("prim::TupleUnpack", "prim::ListUnpack") and inside and inside[0].isdigit():
            if int(inside[0]) < len(outputs):
                yield outputs[int(inside[0])], inside[1:], chain
        elif kind in ("aten::__getitem__", "prim::TupleIndex") and inside and index == 0:
            key = self.reader.constant(inputs[1])
            if str(key) == inside[0]:
                yield outputs[0], inside[1:], chain
        elif kind in ("prim::unchecked_cast", "prim::profile", "aten::__derive_index"):
            yield outputs[0], inside, chain
        else:
            use = layers.Use(reader=self.reader, node=node, kind=kind, inputs=inputs, index=index, inside=inside)
            for demand in layers.demands(use):
                self._record(demand, chain)
            self._peers(use)
            for position, carries in layers.carries(use):
                for output in outputs[position : position + 1]:
                    yield output, carries[1], chain if carries[0] is same else (*chain, carries[0])

    def _control(
        self, node: Any, index: int, inside: tuple[str, ...], chain: tuple[Carry, ...]
    ) -> Iterator[tuple[Any, tuple[str, ...], tuple[Carry, ...]]]:
        if node.kind() == "prim::Loop" and index >= 2:  # loop-carried: into the body, and out again
            body = next(iter(node.blocks()))
            yield list(body.inputs())[index - 1], inside, chain
            yield list(node.outputs())[index - 2], inside, chain

    def _record(self, demand: Demand, chain: tuple[Carry, ...]) -> None:
        current: Demand | None = demand
        for carry in reversed(chain):
            if current is None:
                return
            current = carry(current)
        if current is not None:
            self.facts.demands.append(current)

    def _peers(self, use: "layers.Use") -> None:
        if use.kind in BINARY:
            for other in use.inputs[:2]:
                self.facts.peers += self.reader._reach.get(other.debugName(), [])


def _uses(value: Any) -> Iterator[tuple[Any, int]]:
    for use in value.uses():
        yield use.user, use.offset


def _recorded(value: Any) -> tuple[str | None, tuple[int, ...] | None]:
    kind = value.type()
    if kind.kind() != "TensorType":
        return None, None
    dtype = kind.dtype()
    sizes = kind.sizes()
    return (
        None if dtype is None else dtype_name(dtype),
        tuple(sizes) if sizes is not None and all(isinstance(s, int) for s in sizes) else None,
    )
