"""ViT-tiny (Dosovitskiy et al., ICLR 2021; sizes of DeiT-Ti, Touvron et al., ICML 2021), seeded."""

import functools

import torch
from torch import nn

from nets import images
from nets.net import Net
from nets.settle import read_differences


class Attention(nn.Module):
    """Multi-head self-attention, queries, keys and values from one linear layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, S, D) -> the same."""
        n, s, d = x.shape
        q, k, v = self.qkv(x).reshape(n, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        y: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(n, s, d))
        return y


class Block(nn.Module):
    """Norm, attention, norm, two layers with GELU; a shortcut around each half."""

    def __init__(self, width: int, heads: int, ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, S, D) -> the same."""
        x = x + self.attention(self.norm1(x))
        y: torch.Tensor = x + self.mlp(self.norm2(x))
        return y


class ViT(nn.Module):
    """(N, 3, size, size) -> (N, classes) from a class token."""

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(tokens.shape[0], -1, -1), tokens), 1) + self.positions
        scores: torch.Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return scores


def seed_transformer(model: nn.Module, seed: int) -> None:
    """Weights of a trained net's size: attention that picks, norms of unequal scale with a few channels far above the rest."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
            elif isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, fan_in**-0.5, generator=generator)
            elif isinstance(module, nn.LayerNorm):
                scale = torch.exp(0.25 * torch.randn(module.weight.shape, generator=generator))
                outliers = torch.randperm(len(scale), generator=generator)[: max(1, len(scale) // 64)]
                scale[outliers] *= 6
                module.weight.copy_(scale)
                module.bias.normal_(0, 0.1, generator=generator)
        for module in model.modules():
            if isinstance(module, Attention):  # sharper than the softmax of uncorrelated vectors
                module.qkv.weight[: 2 * module.out.in_features] *= 1.3
        for name, parameter in model.named_parameters():
            if name.endswith(("token", "positions")):
                parameter.normal_(0, 0.3, generator=generator)


def vit_tiny() -> nn.Module:
    """ViT-tiny: 192 wide, 12 layers, 3 heads, patches of 16, 5.7 million parameters."""
    model = ViT(224, 16, 192, 12, 3, 1000)
    seed_transformer(model, 5)
    return read_differences(model.eval(), model.head, 224)


NET = Net(
    name="vit_tiny",
    make=vit_tiny,
    inputs={"x": "float32[1,3,224,224]"},
    calibration=functools.partial(images.calibration, 224),
    held_out=functools.partial(images.held_out, 224, 64),
    decision="class",
    mark=2.7,
    in_mean=True,
    sources=("vit", "settle", "images"),
)
