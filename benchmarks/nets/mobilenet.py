"""MobileNetV2 (Sandler et al., CVPR 2018), seeded."""

import functools

import torch
from torch import nn

from nets import images
from nets.net import Net
from nets.settle import quieten, read_differences, seed_convolutions, settle_batch_norms


class InvertedResidual(nn.Module):
    """Expand, depthwise, project."""

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
    """MobileNetV2 with seeded weights and batch-norm statistics of seeded images."""
    model = MobileNetV2()
    seed_convolutions(model, 2)
    quieten(m.body[-1] for m in model.modules() if isinstance(m, InvertedResidual) and m.residual)
    settle_batch_norms(model, 224)
    return read_differences(model, model.classifier, 224)


NET = Net(
    name="mobilenet_v2",
    make=mobilenet_v2,
    inputs={"x": "float32[1,3,224,224]"},
    calibration=functools.partial(images.calibration, 224),
    held_out=functools.partial(images.held_out, 224, 64),
    decision="class",
    mark=2.3,
    sources=("mobilenet", "settle", "images"),
)
