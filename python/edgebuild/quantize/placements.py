"""Placements: the ways in which a graph's layers can go to integers, before any accuracy is looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgebuild.quantize.insert import Forms
from edgebuild.quantize.layers import Layer, find_layers
from edgebuild.quantize.plan import Mode
from edgebuild.quantize.region import ARITHMETIC, MOVING

_LEAN = MOVING | {"Add", "Concat"}


_NEGLIGIBLE = 2000
"""A layer with less than this part of all multiplications stays float."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Modes for the layers, and the operators that may join the integer region between static ones.

    Args:
        name: In words, e.g. "static convolutions, dynamic products"; with "lean" where fewer operators join the region.
    """

    name: str
    modes: dict[str, Mode]
    operators: frozenset[str]


def placements(model: ir.Model, forms: Forms) -> tuple[Placement, ...]:
    """All that make sense for a graph, without doubles; none if there is nothing to quantise.

    Which is fastest depends on the CPU and on sizes, so they are measured where that is possible. The order is that of
    experience: static ranges cost nothing at run time; dynamic ones follow each input, which transformers need.
    """
    layers = worthwhile(find_layers(model.graph))
    kinds = {layer.kind for layer in layers}
    products: Sequence[Mode] = ("static", "dynamic") if forms.fused_products else ("static",)
    found: dict[tuple[object, ...], Placement] = {}
    for product in products if "matmul" in kinds else products[:1]:
        for suffix, operators in (("", MOVING | ARITHMETIC), (", lean", _LEAN)):
            for convolutions in (True, False) if "conv" in kinds and "matmul" in kinds else (True,):
                modes = _modes(layers, product, convolutions=convolutions, recurrent=forms.recurrent)
                joining = _present(model, operators) if "static" in modes.values() else frozenset[str]()
                name = _name(modes, layers) + (suffix if "static" in modes.values() else "")
                if modes:
                    found.setdefault(
                        (tuple(modes.items()), joining), Placement(name=name, modes=modes, operators=joining)
                    )
    return tuple(found.values())


def worthwhile(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Without the layers that are a negligible part of the work: what Q/DQ around them costs is more than they could gain.

    Measured on EfficientNet-B0: leaving the products of squeeze-and-excite in float is 1.1 times as fast, and more accurate.
    """
    work = {layer.name: layer.multiplications() for layer in layers}
    total = sum(count for count in work.values() if count is not None)
    return tuple(layer for layer in layers if (count := work[layer.name]) is None or count * _NEGLIGIBLE >= total)


def _modes(layers: Sequence[Layer], product: Mode, *, convolutions: bool, recurrent: bool) -> dict[str, Mode]:
    modes: dict[str, Mode] = {}
    for layer in layers:
        if layer.kind == "conv" and convolutions:
            modes[layer.name] = "static"
        elif layer.kind == "matmul":
            modes[layer.name] = product
        elif layer.kind == "recurrent" and recurrent:
            modes[layer.name] = "dynamic"
    return modes


def _name(modes: dict[str, Mode], layers: Sequence[Layer]) -> str:
    """E.g. "static convolutions, dynamic products"; a kind that stays float is not named."""
    words = {"conv": "convolutions", "matmul": "products", "recurrent": "LSTM"}
    parts = dict.fromkeys(f"{modes[layer.name]} {words[layer.kind]}" for layer in layers if layer.name in modes)
    return ", ".join(parts)


def _present(model: ir.Model, operators: frozenset[str]) -> frozenset[str]:
    return operators & {node.op_type for node in model.graph}
