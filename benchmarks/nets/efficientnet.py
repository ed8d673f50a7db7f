"""EfficientNet-B0 (Tan and Le, ICML 2019), seeded."""

import functools

import torch
from torch import nn

from nets import images
from nets.net import Net
from nets.settle import quieten, read_differences, seed_convolutions, settle_batch_norms


def convolution(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and batch norm, same padding."""
    return [
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside, eps=1e-3),
    ]


class SqueezeExcite(nn.Module):
    """Scales each channel by what the means of all say (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same."""
        means = x.mean((2, 3), keepdim=True)
        scale = torch.sigmoid(self.expand(nn.functional.silu(self.reduce(means))))
        return x * scale


class MBConv(nn.Module):
    """Expand, depthwise, squeeze and excite, project."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inside * expansion
        layers: list[nn.Module] = [*convolution(inside, hidden, 1), nn.SiLU()] if expansion != 1 else []
        layers += [*convolution(hidden, hidden, kernel, stride, hidden), nn.SiLU()]
        layers += [SqueezeExcite(hidden, max(1, inside // 4)), *convolution(hidden, outside, 1)]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inside == outside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        y: torch.Tensor = self.body(x)
        return x + y if self.residual else y


class EfficientNetB0(nn.Module):
    """(N, 3, 224, 224) -> (N, 1000); 5.3 million parameters."""

    # expansion, channels, blocks, stride, kernel
    STAGES = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [*convolution(3, 32, 3, 2), nn.SiLU()]
        channels = 32
        for expansion, out, count, stride, kernel in self.STAGES:
            for index in range(count):
                layers.append(MBConv(channels, out, kernel, stride if index == 0 else 1, expansion))
                channels = out
        layers += [*convolution(channels, 1280, 1), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, 1000)."""
        scores: torch.Tensor = self.classifier(torch.flatten(self.pool(self.features(x)), 1))
        return scores


def efficientnet_b0() -> nn.Module:
    """EfficientNet-B0 with seeded weights and batch-norm statistics of seeded images."""
    model = EfficientNetB0()
    seed_convolutions(model, 3)
    quieten(m.body[-1] for m in model.modules() if isinstance(m, MBConv) and m.residual)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SqueezeExcite):  # else the gates of a whole image open or close together
                module.expand.weight.mul_(0.3)
    settle_batch_norms(model, 224)
    return read_differences(model, model.classifier, 224)


NET = Net(
    name="efficientnet_b0",
    make=efficientnet_b0,
    inputs={"x": "float32[1,3,224,224]"},
    calibration=functools.partial(images.calibration, 224),
    held_out=functools.partial(images.held_out, 224, 64),
    decision="class",
    mark=1.5,
    in_mean=True,
    sources=("efficientnet", "settle", "images"),
)
