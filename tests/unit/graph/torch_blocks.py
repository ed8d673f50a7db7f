"""Torch modules as people write them, for the end-to-end tests of the fusions."""

import math

import torch
from torch import nn
from torch.nn import functional


class SdpaSelf(nn.Module):
    """Three projections and scaled_dot_product_attention, as Hugging Face's BERT has it."""

    def __init__(self, width=24, heads=3, *, causal=False, scale=None):
        super().__init__()
        self.heads, self.causal, self.scale = heads, causal, scale
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x, mask=None):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal, scale=self.scale)
        return self.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


class PaddingMask(nn.Module):
    """A padding mask (B, S) of 0 and 1 made additive with the lowest finite float, as in BERT."""

    def __init__(self, inner, *, boolean=False):
        super().__init__()
        self.inner, self.boolean = inner, boolean

    def forward(self, x, mask):
        if self.boolean:
            return self.inner(x, mask[:, None, None, :].bool())
        added = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        return self.inner(x, added)


class Handwritten(SdpaSelf):
    """softmax(q k^T / sqrt(d) + mask) v, as in BERT and MiniLM."""

    def forward(self, x, mask=None):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores + mask
        context = torch.matmul(torch.softmax(scores, dim=-1), v).permute(0, 2, 1, 3).contiguous()
        return self.out(context.view(x.shape[0], x.shape[1], -1))


class PackedSelf(nn.Module):
    """One projection for q, k and v, as in timm's ViT; ``how`` they are taken apart, ``handwritten`` the product."""

    def __init__(self, width=24, heads=3, *, how="unbind", handwritten=False):
        super().__init__()
        self.heads, self.how, self.handwritten = heads, how, handwritten
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        if self.how == "chunk":
            q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        else:
            qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0) if self.how == "unbind" else (qkv[0], qkv[1], qkv[2])
        if self.handwritten:
            y = ((q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        else:
            y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


class CrossAttention(nn.Module):
    def __init__(self, width=24, heads=3, *, weights=False):
        super().__init__()
        self.attention, self.weights = nn.MultiheadAttention(width, heads, batch_first=True), weights

    def forward(self, x, memory):
        return self.attention(x, memory, memory, need_weights=self.weights)[0]


class SelfAttentionWithWeights(CrossAttention):
    """As most code calls it: the averaged weights are computed, and dropped."""

    def forward(self, x):
        return self.attention(x, x, x)[0]


class VitBlock(nn.Module):
    def __init__(self, width=24, heads=3):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = PackedSelf(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class BertLayer(nn.Module):
    """Post-norm, padding mask."""

    def __init__(self, width=24, heads=3):
        super().__init__()
        self.attention = Handwritten(width, heads)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, mask):
        added = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        x = self.norm1(self.attention(x, added) + x)
        return self.norm2(self.down(functional.gelu(self.up(x))) + x)


class WrittenLayerNorm(nn.Module):
    """LayerNorm as papers' code has it; ``how`` the variance is written."""

    def __init__(self, width=24, *, how="pow", eps=1e-5):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.randn(width))
        self.how, self.eps = how, eps

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        if self.how == "var":
            variance = x.var(-1, keepdim=True, unbiased=False)
        elif self.how == "mul":
            variance = ((x - mean) * (x - mean)).mean(-1, keepdim=True)
        else:
            variance = (x - mean).pow(2).mean(-1, keepdim=True)
        return self.weight * ((x - mean) / torch.sqrt(variance + self.eps)) + self.bias


class RmsNorm(nn.Module):
    """As LLaMA has it."""

    def __init__(self, width=24, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(width) + 0.5), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class LlamaBlock(nn.Module):
    """RMSNorm, causal attention with rotary positions, SwiGLU."""

    def __init__(self, width=24, heads=3, *, native=False):
        super().__init__()
        self.heads = heads
        norm = (lambda w: nn.RMSNorm(w, eps=1e-6)) if native else RmsNorm
        self.norm1, self.norm2 = norm(width), norm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    @staticmethod
    def rotate(x):
        half = x.shape[-1] // 2
        places = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)
        angles = places[:, None] * (10000.0 ** (-torch.arange(half, dtype=torch.float32) / half))[None]
        cos, sin = torch.cos(angles).repeat(1, 2), torch.sin(angles).repeat(1, 2)
        turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * cos + turned * sin

    def forward(self, x):
        b, n, c = x.shape
        h = self.norm1(x)
        q, k, v = (p(h).view(b, n, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, n, c))
        h = self.norm2(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


class ConvNextBlock(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(functional.gelu(self.up(y)))).permute(0, 3, 1, 2)


class EfficientNetBlock(nn.Module):
    """Inverted residual with squeeze and excitation, SiLU or hard-swish."""

    def __init__(self, width=8, *, activation=nn.SiLU):
        super().__init__()
        wide = 4 * width
        self.expand = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), activation())
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), activation()
        )
        self.squeeze, self.excite = nn.Conv2d(wide, 2, 1), nn.Conv2d(2, wide, 1)
        self.project = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))
        self.activation = activation()

    def forward(self, x):
        y = self.depthwise(self.expand(x))
        gate = torch.sigmoid(self.excite(self.activation(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return x + self.project(y * gate)
