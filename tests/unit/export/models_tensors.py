"""Operators on tensors: attention, indexing, reductions, integers, spectra."""

import math

import torch
import torch.nn.functional as F
from export_case import case, floats
from torch import nn


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


@case("cumprod", floats(3, 11, 2))
class RunningProducts(nn.Module):
    def forward(self, x):
        opacity = torch.sigmoid(x)
        rays = torch.cumprod(1.0 - opacity + 1e-10, 1)
        return rays, x.cumprod(-1), x[:, :1].cumprod(1), (x > 0).cumprod(0)
