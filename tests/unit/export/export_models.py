"""Small models that users trace, script and export; each holds one thing that exporters are known to stumble on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Case:
    """A model and how to draw one input set. ``forms``: t traced, s scripted, e nn.Module. ``dynamic``: (input, axis) -> symbol."""

    name: str
    build: Callable[[], nn.Module]
    draw: Callable[[np.random.Generator, int], Arrays]
    forms: str = "tse"
    dynamic: tuple[tuple[int, int, str], ...] = ()


CASES: list[Case] = []


def floats(*shape: int) -> Callable[[np.random.Generator, int], Arrays]:
    """Draws one float32 input; -1 stands for the dynamic size."""
    return lambda rng, size: [rng.standard_normal([size if d < 0 else d for d in shape]).astype(np.float32)]


def case(name: str, draw: Callable[[np.random.Generator, int], Arrays], forms: str = "tse", dynamic=()):
    def register(build):
        CASES.append(Case(name, build, draw, forms, tuple(dynamic)))
        return build

    return register


def function(name: str, draw, forms: str = "tse", dynamic=()):
    """Registers a plain function of tensors as a model."""

    def register(body):
        class Body(nn.Module):
            def forward(self, *args):
                return body(*args)

        CASES.append(Case(name, Body, draw, forms.replace("s", ""), tuple(dynamic)))
        return body

    return register


# --- the three that stock exporters miss ------------------------------------------------------------------------------


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


# --- convolutional --------------------------------------------------------------------------------------------------


@case("cnn", floats(-1, 3, 16, 16), dynamic=[(0, 0, "batch")])
class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(8 * 64, 10)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


case("conv_same_padding", floats(1, 3, 15, 14))(lambda: nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)))
case("conv_transpose", floats(1, 3, 9, 9))(lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1))
case("conv3d_groups", floats(1, 4, 5, 6, 7))(lambda: nn.Conv3d(4, 8, 3, groups=2))
case("conv1d_reflect", floats(1, 3, 20))(lambda: nn.Conv1d(3, 4, 5, padding=2, padding_mode="reflect"))
case("norms", floats(2, 6, 8, 8))(
    lambda: nn.Sequential(nn.GroupNorm(3, 6), nn.InstanceNorm2d(6, affine=True), nn.SiLU())
)
case("rms_norm", floats(2, 5, 16))(lambda: nn.RMSNorm(16))
case("pixel_shuffle", floats(1, 8, 6, 6))(lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(3)))
case("upsample_bilinear", floats(1, 3, 7, 9))(lambda: nn.Upsample(scale_factor=2.0, mode="bilinear"))
case("upsample_bicubic", floats(1, 3, 7, 9))(lambda: nn.Upsample(size=(13, 20), mode="bicubic", align_corners=True))
case("upsample_nearest_exact", floats(1, 3, 7, 9))(lambda: nn.Upsample(size=(10, 12), mode="nearest-exact"))
case("unfold_fold", floats(1, 3, 8, 8))(lambda: nn.Sequential(nn.Unfold(3, padding=1), nn.Fold((8, 8), 3, padding=1)))
case("prelu_and_friends", floats(2, 4, 5))(
    lambda: nn.Sequential(
        nn.PReLU(4), nn.Hardswish(), nn.Mish(), nn.GELU("tanh"), nn.Softplus(), nn.CELU(), nn.Hardsigmoid()
    )
)


@case("upsample_antialias", floats(1, 3, 16, 18))
class Antialias(nn.Module):
    def forward(self, x):
        return F.interpolate(x, size=(7, 9), mode="bilinear", antialias=True)


@case("local_response_norm", floats(1, 8, 5, 5))
class Lrn(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LocalResponseNorm(3)

    def forward(self, x):
        return F.avg_pool2d(self.norm(x), 3, stride=2, padding=1, count_include_pad=False, ceil_mode=True)


@case("weight_norm", floats(2, 6), "te")
class WeightNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
        self.b = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4))

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


@case("grid_sample", lambda r, n: [*floats(1, 3, 8, 9)(r, n), r.uniform(-1.1, 1.1, (1, 5, 6, 2)).astype(np.float32)])
class GridSample(nn.Module):
    def forward(self, x, grid):
        return F.grid_sample(x, grid, align_corners=False), F.grid_sample(x, grid, mode="nearest", align_corners=True)


@case("affine_grid", lambda r, n: [*floats(1, 3, 8, 9)(r, n), *floats(1, 2, 3)(r, n)])
class AffineGrid(nn.Module):
    def forward(self, x, theta):
        return F.grid_sample(x, F.affine_grid(theta * 0.3, [1, 3, 6, 7], align_corners=False), align_corners=False)


# --- recurrent -----------------------------------------------------------------------------------------------------


@case("lstm_state", lambda r, n: [*floats(2, 5, 4)(r, n), *floats(2, 2, 6)(r, n), *floats(2, 2, 6)(r, n)])
class LstmState(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 6, num_layers=2, batch_first=True)

    def forward(self, x, h, c):
        y, state = self.lstm(x, (h, c))
        return y, state


@case("bidirectional_gru", floats(2, 5, 4))
class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 6, bidirectional=True, batch_first=True)

    def forward(self, x):
        y, h = self.gru(x)
        return {"sequence": y, "state": h}


Case("", Gru, floats(1))
case("lstm_dynamic_time", floats(2, -1, 4), dynamic=[(0, 1, "time")])(Gru)


@case("packed_lstm", lambda r, n: [*floats(3, 6, 4)(r, n), np.array([6, 4, 2])], "te")
class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        y, (h, _) = self.lstm(packed)
        return nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0], h


# --- scripted control flow -------------------------------------------------------------------------------------------


@case("while_data_dependent", floats(3, 4), "s")
class While(nn.Module):
    def forward(self, x):
        n = 0
        while bool(x.abs().sum() > 1.0) and n < 50:
            x = x * 0.5
            n += 1
        return x


@case("if_on_value", floats(3, 4), "s")
class IfValue(nn.Module):
    def forward(self, x):
        if bool(x.sum() > 0):
            return x * 2
        return x - 1


@case("if_on_shape", floats(-1, 4), "s", dynamic=[(0, 0, "batch")])
class IfShape(nn.Module):
    def forward(self, x, scale: float = 2.0, flag: bool | None = None):
        if x.dim() == 2:
            x = x * scale
        if flag is None:
            x = x + x.size(1)
        return x


@case("tuple_state_loop", lambda r, n: [*floats(2, 5, 4)(r, n)], "s")
class TupleState(nn.Module):
    def forward(self, x):
        state = (torch.zeros(x.size(0), 4), torch.ones(x.size(0), 4))
        total = x.new_zeros([x.size(0), 4])
        for step in x.unbind(1):
            state = (state[0] * 0.5 + step, state[1] * torch.sigmoid(step))
            total = total + state[0] * state[1]
        return total, state


@case("dict_and_list_outputs", floats(2, 4))
class Nested(nn.Module):
    def forward(self, x):
        return {"a": x * 2, "b": x.sum(1)}


@case("state_in_buffer", floats(2, 4))
class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.1, 1.0, 4))
        self.offset = torch.ones(4)

    def forward(self, x):
        return x * self.scale + self.offset


# --- tensors -------------------------------------------------------------------------------------------------------


@case("embedding_mean", lambda r, n: [r.integers(0, 20, (3, 5))])
class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 6, mode="mean")
        self.table = nn.Embedding(20, 6, padding_idx=0)

    def forward(self, ids):
        return self.bag(ids) + self.table(ids).mean(1)


@case("causal_attention", floats(2, 4, 6, 8))
class Sdpa(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x * 0.5, x + 1.0, is_causal=True)


@case("grouped_query_attention", lambda r, n: [*floats(2, 4, 6, 8)(r, n), *floats(2, 2, 6, 8)(r, n)])
class GroupedQuery(nn.Module):
    def forward(self, q, kv):
        return F.scaled_dot_product_attention(q, kv, kv, enable_gqa=True, scale=0.2)


@case("einsum", lambda r, n: [*floats(2, 3, 4)(r, n), *floats(2, 4, 5)(r, n)])
class Einsum(nn.Module):
    def forward(self, a, b):
        return torch.einsum("bij,bjk->bki", a, b)


@case("index_put", floats(4, 6))
class IndexPut(nn.Module):
    def forward(self, x):
        y = x.clone()
        y[1:3, ::2] = 0.0
        y[:, 0] += 5.0
        y[torch.tensor([0, 3]), torch.tensor([1, 2])] = torch.tensor([7.0, 8.0])
        return y


@case("masking", floats(3, 5))
class Masking(nn.Module):
    def forward(self, x):
        filled = x.masked_fill(x < 0, float("-inf"))
        return filled, torch.where(x > 0, x, torch.zeros_like(x)).cumsum(1), (x > 0).any(1), torch.triu(x)


@case("masked_scatter", floats(3, 5), "te")
class MaskedScatter(nn.Module):
    def forward(self, x):
        return x.masked_scatter(x > 0, torch.arange(15, dtype=torch.float32))


@case("nonzero", floats(3, 5))
class Nonzero(nn.Module):
    def forward(self, x):
        return torch.nonzero(x > 0), x[x > 0]


@case("roll_flip", floats(2, 6, 6))
class RollFlip(nn.Module):
    def forward(self, x):
        return torch.roll(x, [2, -1], [1, 2]).flip(2), torch.rot90(x, 1, [1, 2])


@case("swin_windows", floats(-1, 8, 8, 6), dynamic=[(0, 0, "batch")])
class Windows(nn.Module):
    def forward(self, x):
        b, h, w, c = x.shape
        x = torch.roll(x, shifts=(-2, -2), dims=(1, 2)).view(b, h // 4, 4, w // 4, 4, c)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)


@case("fft", floats(2, 16))
class Fft(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs()


@case("stft", floats(2, 64))
class Stft(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, x):
        spectrum = torch.stft(x, 16, 8, window=self.window, return_complex=True)
        return torch.view_as_real(spectrum).pow(2).sum(-1)


@case("top_k_sort", floats(3, 9))
class TopK(nn.Module):
    def forward(self, x):
        values, indices = x.topk(4, 1)
        ordered, places = x.sort(1, descending=True)
        return values, indices, ordered, places, x.argmax(1), x.median(1)[0]


@case("integers", lambda r, n: [r.integers(-9, 9, (3, 4)), r.integers(1, 5, (3, 4))])
class Integers(nn.Module):
    def forward(self, a, b):
        return a // b, a % b, a & b, a ^ b, (a << 1) | b, torch.div(a, b, rounding_mode="trunc"), a / b, ~a


@case("float64_and_half", floats(3, 4))
class Wide(nn.Module):
    def forward(self, x):
        return x.double().exp(), x.half() * 2, x.to(torch.bfloat16).float(), x.round().int()


@case("reductions", floats(3, 4, 5))
class Reductions(nn.Module):
    def forward(self, x):
        return x.var(1), x.std((1, 2), keepdim=True), x.logsumexp(2), torch.norm(x, dim=1), x.amax((0, 2)), x.prod(2)


@case("gather_scatter", lambda r, n: [*floats(3, 6)(r, n), r.integers(0, 6, (3, 4))])
class GatherScatter(nn.Module):
    def forward(self, x, index):
        taken = x.gather(1, index)
        return taken, torch.zeros_like(x).scatter_add(1, index, taken), F.one_hot(index, 6), x.index_select(1, index[0])


@case("positional", floats(2, -1, 8), dynamic=[(0, 1, "tokens")])
class Positional(nn.Module):
    def forward(self, x):
        position = torch.arange(x.size(1), device=x.device).unsqueeze(1)
        rate = torch.exp(torch.arange(0, 8, 2, dtype=torch.float32) * (-math.log(10000.0) / 8))
        table = torch.cat([torch.sin(position * rate), torch.cos(position * rate)], 1)
        return x + table.unsqueeze(0)


@case("pairwise", lambda r, n: [*floats(4, 3)(r, n), *floats(5, 3)(r, n)])
class Pairwise(nn.Module):
    def forward(self, a, b):
        return torch.cdist(a, b), F.cosine_similarity(a, b[:4], dim=1), torch.bucketize(a, torch.linspace(-1, 1, 5))


@case("unused_input", lambda r, n: [*floats(2, 3)(r, n), *floats(4)(r, n)])
class Unused(nn.Module):
    def forward(self, x, ignored):
        return x + 1


@case("passes_input_through", floats(2, 3))
class Through(nn.Module):
    def forward(self, x):
        y = x * 2
        return x, y, y


@case("repeat_interleave", floats(2, 3))
class Repeat(nn.Module):
    def forward(self, x):
        return x.repeat_interleave(2, 1), x.repeat(2, 1), x.expand(4, 2, 3), torch.stack([x, x], 1).tile((1, 1, 2))


@case("linalg", floats(2, 3, 3))
class Linalg(nn.Module):
    def forward(self, x):
        return torch.linalg.det(x), torch.diagonal(x, dim1=1, dim2=2), torch.tril(x)
