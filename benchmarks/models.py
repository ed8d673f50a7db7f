"""The benchmark models, made from seeds: architectures as published, weights random."""

import torch
from torch import nn


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (Sandler et al., MobileNetV2, CVPR 2018)."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inside * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(inside, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        ]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inside == outside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        y: torch.Tensor = self.body(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """(N, 3, 224, 224) -> (N, 1000); 3.5 million parameters."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
        channels = 32
        for expansion, out, count, stride in self.STAGES:
            for index in range(count):
                layers.append(InvertedResidual(channels, out, stride if index == 0 else 1, expansion))
                channels = out
        layers += [nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, 1000)."""
        scores: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return scores


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 with seeded weights and batch-norm statistics that a forward pass has seen."""
    return _settle(MobileNetV2(), torch.randn(4, 3, 224, 224))


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


def _settle(model: nn.Module, x: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(x)
    return model.eval()
