"""ResNet-50 (He et al., CVPR 2016), with the stride in the 3x3 convolution as everybody trains it, seeded."""

import functools

import torch
from torch import nn

from nets import images
from nets.net import Net
from nets.settle import quieten, read_differences, seed_convolutions, settle_batch_norms


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut."""

    EXPANSION = 4

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        outside = width * self.EXPANSION
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        summed: torch.Tensor = self.relu(self.bn3(self.conv3(y)) + self.shortcut(x))
        return summed


class ResNet50(nn.Module):
    """(N, 3, 224, 224) -> (N, 1000); 25.6 million parameters."""

    STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        channels = 64
        for width, count, stride in self.STAGES:
            for index in range(count):
                blocks.append(Bottleneck(channels, width, stride if index == 0 else 1))
                channels = width * Bottleneck.EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, 1000)."""
        scores: torch.Tensor = self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))
        return scores


def resnet50() -> nn.Module:
    """ResNet-50 with seeded weights and batch-norm statistics of seeded images."""
    model = ResNet50()
    seed_convolutions(model, 4)
    quieten(m.bn3 for m in model.modules() if isinstance(m, Bottleneck))
    settle_batch_norms(model, 224)
    return read_differences(model, model.fc, 224)


NET = Net(
    name="resnet50",
    make=resnet50,
    inputs={"x": "float32[1,3,224,224]"},
    calibration=functools.partial(images.calibration, 224),
    held_out=functools.partial(images.held_out, 224, 32),
    decision="class",
    mark=3.9,
    sources=("resnet", "settle", "images"),
)
