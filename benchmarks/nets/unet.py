"""U-Net (Ronneberger et al., MICCAI 2015) with padding and batch norms, 32 to 512 channels, seeded."""

import functools
import itertools

import torch
from torch import nn

from nets import images
from nets.net import Net
from nets.settle import seed_convolutions, settle_batch_norms


def twice(inside: int, outside: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
        nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """(N, 3, H, W) -> (N, classes, H, W); H and W multiples of 16; 7.8 million parameters.

    Args:
        classes: Of the segmentation.
        widths: Channels of each level.
        bilinear: Upsample by interpolation and a 1x1 convolution in place of the transposed convolution.
    """

    def __init__(
        self, classes: int = 8, widths: tuple[int, ...] = (32, 64, 128, 256, 512), *, bilinear: bool = False
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList(twice(a, b) for a, b in zip((3, *widths), widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        upward = widths[::-1]
        self.up = nn.ModuleList(_upsample(a, b, bilinear) for a, b in itertools.pairwise(upward))
        self.merge = nn.ModuleList(twice(2 * b, b) for b in upward[1:])
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes, H, W)."""
        skipped: list[torch.Tensor] = []
        for index, level in enumerate(self.down):
            x = level(x if index == 0 else self.pool(x))
            skipped.append(x)
        skipped.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat((skipped.pop(), up(x)), 1))
        scores: torch.Tensor = self.head(x)
        return scores


def _upsample(inside: int, outside: int, bilinear: bool) -> nn.Module:
    if bilinear:
        larger = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        return nn.Sequential(larger, nn.Conv2d(inside, outside, 1))
    return nn.ConvTranspose2d(inside, outside, 2, 2)


def unet(*, bilinear: bool = False) -> nn.Module:
    """The U-Net with seeded weights and batch-norm statistics of seeded images."""
    model = UNet(bilinear=bilinear)
    seed_convolutions(model, 6)
    return settle_batch_norms(model, 256, batches=2, batch_size=4)


NET = Net(
    name="unet",
    make=unet,
    inputs={"x": "float32[1,3,256,256]"},
    calibration=functools.partial(images.calibration, 256),
    held_out=functools.partial(images.held_out, 256, 12),
    decision=None,
    mark=3.4,
    in_mean=True,
    sources=("unet", "settle", "images"),
)
