"""nn.TransformerEncoder with a padding mask, which computes on nested tensors in eval mode, written with dense ones.

PyTorch packs each row's unmasked places into a nested tensor if the mask hides a suffix of every row, runs the layers on it,
and pads the result with zeros; other masks go through the layers as masks, and what comes out at hidden places is left there.
A dense run with the mask gives the same at the places that are seen; the zeros are put in afterwards, under the same condition.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from edgebuild.export.rewrites.lowered import transformer_encoder_layer


@dataclass(frozen=True, eq=False)
class Nested:
    """A nested tensor as a dense one.

    Args:
        dense: ``(N, L, E)``; what it holds at places that ``seen`` hides means nothing.
        seen: ``(N, L)`` booleans.
        kept: ``(N, L)`` booleans: the places that padding leaves alone.
    """

    dense: torch.Tensor
    seen: torch.Tensor
    kept: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        """That of the elements."""
        return self.dense.dtype

    @property
    def device(self) -> torch.device:
        """That of the elements."""
        return self.dense.device

    def dim(self) -> int:
        """Axes, with the ragged one."""
        return len(self.dense.shape)


def left_aligned(seen: torch.Tensor) -> torch.Tensor:
    """Whether every row of ``(N, L)`` booleans is true up to some place and false from there on, as a 0-d tensor."""
    return torch.logical_not(torch.logical_and(seen[:, 1:], torch.logical_not(seen[:, :-1])).any())


def from_mask(values: torch.Tensor, seen: torch.Tensor, *, checked: bool) -> Nested:
    """``aten::_nested_tensor_from_mask`` of ``(N, L, E)``.

    Args:
        values: The dense tensor.
        seen: Which places of each row are packed.
        checked: Whether the model asks if the mask is left-aligned and takes its other way if not. Then both ways are in
            the result; else, as in a trace, each row's first places are taken, as many as the mask has true ones.
    """
    seen = seen.to(torch.bool)
    if checked:
        return Nested(dense=values, seen=seen, kept=torch.logical_or(seen, torch.logical_not(left_aligned(seen))))
    first = torch.arange(values.shape[1]).unsqueeze(0) < seen.sum(dim=1, keepdim=True)
    return Nested(dense=values, seen=first, kept=first)


def to_padded(nested: Nested, padding: float, size: Any = None) -> torch.Tensor:
    """``aten::to_padded_tensor``, to the size that the dense tensor had."""
    if size is None:
        message = "to_padded_tensor without a size: the longest row decides the output's shape"
        raise NotImplementedError(message)
    return torch.where(nested.kept.unsqueeze(-1), nested.dense, padding)


def encoder_layer(src: Any, *arguments: Any) -> Any:
    """``aten::_transformer_encoder_layer_fwd`` on a dense or a nested tensor."""
    if not isinstance(src, Nested):
        return transformer_encoder_layer(src, *arguments)
    # The last two, a mask and its kind, are None beside a nested tensor.
    operands = [src.dense, *arguments[:17], torch.logical_not(src.seen), 1]
    return replace(src, dense=transformer_encoder_layer(*operands))


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Within it, modules of torch.nn compute attention with plain operators, and encoders as this file's head says.

    For tracing: the fused kernels are no operators of ONNX, and ``nn.TransformerEncoder`` decides by the mask's values.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    original = torch.nn.TransformerEncoder.forward

    def forward(
        self: Any, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
    ) -> Any:
        packs = (
            fastpath
            and getattr(self, "use_nested_tensor", False)
            and not self.layers[0].training
            and src.dim() == 3
            and mask is None
            and src_key_padding_mask is not None
        )
        if not packs:
            return original(self, src, mask, src_key_padding_mask, is_causal)
        layers = copy.copy(self)  # the final norm comes after the zeros
        layers.__dict__["_modules"] = {**self._modules, "norm": None}
        dense = original(layers, src, mask, src_key_padding_mask, is_causal)
        hidden = src_key_padding_mask
        seen = torch.logical_not(hidden) if hidden.dtype == torch.bool else hidden == 0
        nested = from_mask(dense, seen, checked=getattr(self, "mask_check", True))
        padded = to_padded(nested, 0.0, src.shape)
        return padded if self.norm is None else self.norm(padded)

    torch.backends.mha.set_fastpath_enabled(False)
    torch.nn.TransformerEncoder.forward = forward
    try:
        yield
    finally:
        torch.nn.TransformerEncoder.forward = original
        torch.backends.mha.set_fastpath_enabled(fastpath)
