"""Nets without figures of accuracy: so small that only the overhead shows, or nothing but weights."""

import torch
from torch import nn


def tiny_mlp() -> nn.Module:
    """A model so small that only the overhead around it shows: (1, 8) -> (1, 4)."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def digits_sized_cnn() -> nn.Module:
    """The demo's size of network: (1, 1, 8, 8) -> (1, 10)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    ).eval()


def wide_mlp(mebibytes: int) -> nn.Module:
    """Linear layers with this many MiB of float32 weights in all: (1, 4096) -> (1, 4096)."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(4096, 4096, bias=False) for _ in range(mebibytes // 64))).eval()
