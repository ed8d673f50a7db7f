"""Models with what stock exporters miss: loops over time, odd adaptive pooling, fused transformer layers."""

import numpy as np
import torch
import torch.nn.functional as F
from export_case import Arrays, case, floats
from torch import Tensor, nn


class ScanLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        h = torch.zeros(x.size(0), 8)
        steps: list[Tensor] = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            steps.append(self.out(h))
        return torch.stack(steps, 1), h


case("scan_loop", floats(2, 6, 4))(ScanLoop)
case("scan_loop_dynamic_batch", floats(-1, 6, 4), dynamic=[(0, 0, "batch")])(ScanLoop)
case("scan_loop_dynamic_time", floats(2, -1, 4), "s", dynamic=[(0, 1, "time")])(ScanLoop)


class AdaptivePools(nn.Module):
    def forward(self, x):
        return (
            F.adaptive_avg_pool2d(x, (3, 5)),
            F.adaptive_max_pool2d(x, (4, 3)),
            F.adaptive_avg_pool1d(x.flatten(1, 2), 6),
            F.adaptive_avg_pool2d(x, 1),
        )


case("adaptive_pools", floats(2, 3, 17, 19))(AdaptivePools)
case("adaptive_pools_dynamic_batch", floats(-1, 3, 17, 19), dynamic=[(0, 0, "batch")])(AdaptivePools)


@case("adaptive_max_indices", floats(2, 3, 11, 13))
class AdaptiveMaxIndices(nn.Module):
    def forward(self, x):
        return F.adaptive_max_pool2d(x, (4, 5), return_indices=True)


def encoder(norm_first: bool = False, activation: str = "relu") -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first, activation=activation)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


case("transformer_encoder", floats(2, 7, 16), "te")(encoder)
case("transformer_encoder_gelu_norm_first", floats(2, 7, 16), "te")(lambda: encoder(True, "gelu"))
case("transformer_encoder_dynamic", floats(2, -1, 16), "te", dynamic=[(0, 1, "tokens")])(encoder)


class MaskedEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = encoder()

    def forward(self, x, mask):
        return self.encoder(x, src_key_padding_mask=mask)


def masked(rng: np.random.Generator, size: int) -> Arrays:
    mask = np.zeros((2, 7), dtype=bool)
    mask[0, 5:] = True
    return [rng.standard_normal((2, 7, 16)).astype(np.float32), mask]


case("transformer_encoder_masked", masked, "te")(MaskedEncoder)


class PaddedEncoder(nn.Module):
    """PyTorch's defaults: nested tensors inside, zeros at padded places outside."""

    def __init__(self, norm: bool = False):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16) if norm else None)
        if norm:
            nn.init.normal_(self.encoder.norm.bias)

    def forward(self, x, mask):
        return self.encoder(x, src_key_padding_mask=mask)


def padded(rng: np.random.Generator, size: int) -> Arrays:
    lengths = rng.integers(1, 8, 2)
    return [
        rng.standard_normal((2, 7, 16)).astype(np.float32),
        np.stack([np.arange(7) >= length for length in lengths]),
    ]


case("transformer_encoder_padded", padded)(PaddedEncoder)
case("transformer_encoder_padded_norm", padded)(lambda: PaddedEncoder(norm=True))


class CausalEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = encoder()
        self.register_buffer("mask", torch.triu(torch.full((7, 7), float("-inf")), 1))

    def forward(self, x):
        return self.encoder(x, mask=self.mask)


case("transformer_encoder_causal", floats(2, 7, 16), "te")(CausalEncoder)


@case("multihead_attention_weights", floats(2, 5, 16), "te")
class AttentionWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)


case("transformer_decoder", lambda r, n: [*floats(2, 5, 16)(r, n), *floats(2, 7, 16)(r, n)], "te")(
    lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), 1)
)
