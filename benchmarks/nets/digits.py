"""Three nets trained on scikit-learn's digits (1,797 images of 8 by 8): a CNN, a depthwise one made hard, a transformer."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nets.net import Feed, HeldOut, Net, feeds_of
from nets.vit import Block

HELD_OUT = 540
"""Images that no training and no calibration sees."""


@functools.cache
def _data() -> tuple[NDArray, NDArray]:
    """All digits in a seeded order: images (N, 1, 8, 8) in 0..1, labels (N,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(8).permutation(len(digits.target))
    return (digits.images[order, None] / 16).astype(np.float32), digits.target[order]


def _calibration(count: int) -> Sequence[Feed]:
    return feeds_of("x", _data()[0][HELD_OUT : HELD_OUT + count])


def _held_out() -> HeldOut:
    images, labels = _data()
    return HeldOut(feeds=feeds_of("x", images[:HELD_OUT]), labels=labels[:HELD_OUT])


def _trained(model: nn.Module, *, epochs: int, rate: float, moved: bool) -> nn.Module:
    """``model`` trained, with images moved by up to a pixel if asked for; one thread, so that the sums are always made in the same order."""
    images, labels = (torch.from_numpy(a[HELD_OUT:]) for a in _data())
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    batches = -(-len(labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * batches + 1, pct_start=0.2)
    generator = torch.Generator().manual_seed(9)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(64):
            top, left = torch.randint(0, 3, (2,), generator=generator).tolist() if moved else (1, 1)
            shown = padded[rows, :, top : top + 8, left : left + 8]
            loss = nn.functional.cross_entropy(model(shown), labels[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    torch.set_num_threads(threads)
    return model.eval()


class DigitsCNN(nn.Module):
    """(N, 1, 8, 8) -> (N, 10): three convolutions, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]
        layers.insert(6, nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, 10)."""
        scores: torch.Tensor = self.head(self.features(x).mean((2, 3)))
        return scores


class Separable(nn.Module):
    """Depthwise 3x3 and pointwise convolution, each with batch norm and ReLU (Howard et al., MobileNets, 2017)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False)
        self.norm1 = nn.BatchNorm2d(inside)
        self.pointwise = nn.Conv2d(inside, outside, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        x = torch.relu(self.norm1(self.depthwise(x)))
        y: torch.Tensor = torch.relu(self.norm2(self.pointwise(x)))
        return y


class DigitsDepthwise(nn.Module):
    """(N, 1, 8, 8) -> (N, 10): a convolution and five separable blocks."""

    BLOCKS = ((24, 32, 1), (32, 48, 2), (48, 48, 1), (48, 64, 2), (64, 64, 1))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.blocks = nn.Sequential(*(Separable(*block) for block in self.BLOCKS))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, 10)."""
        scores: torch.Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return scores


def _make_unequal(model: DigitsDepthwise, seed: int) -> None:
    """Multiplies channels by 1 to 1000 and divides the weights that read them: the same function, hard to quantise per tensor.

    ReLU lets a positive factor through. Real depthwise nets come out of training like this (Nagel et al., ICCV 2019, figure 2).
    """
    rng = np.random.default_rng(seed)
    norm = model.stem[1]
    for block in model.blocks:
        assert isinstance(block, Separable)
        _rescale(norm, block.depthwise.weight, 0, rng)  # one filter reads one channel
        _rescale(block.norm1, block.pointwise.weight, 1, rng)
        norm = block.norm2


def _rescale(norm: nn.Module, reader: torch.Tensor, axis: int, rng: np.random.Generator) -> None:
    channels = norm.weight.shape[0]
    factors = torch.from_numpy(np.exp(rng.uniform(0, np.log(1000), channels)).astype(np.float32))
    shape = [1] * reader.ndim
    shape[axis] = channels
    with torch.no_grad():
        norm.weight.mul_(factors)
        norm.bias.mul_(factors)
        reader.div_(factors.reshape(shape))


class DigitsTransformer(nn.Module):
    """(N, 1, 8, 8) -> (N, 10): 16 patches of 2 by 2 as tokens, 4 layers of width 64."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.positions = nn.Parameter(0.1 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, 10)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        scores: torch.Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return scores


def digits_cnn() -> nn.Module:
    """The trained CNN."""
    torch.manual_seed(10)
    return _trained(DigitsCNN(), epochs=20, rate=4e-3, moved=True)


def digits_depthwise() -> nn.Module:
    """The trained depthwise net, its channels then made unequal."""
    torch.manual_seed(11)
    model = DigitsDepthwise()
    _trained(model, epochs=25, rate=5e-3, moved=True)
    _make_unequal(model, 12)
    return model


def digits_transformer() -> nn.Module:
    """The trained transformer."""
    torch.manual_seed(13)
    return _trained(DigitsTransformer(), epochs=20, rate=1e-3, moved=False)


def _net(name: str, make: object) -> Net:
    assert callable(make)
    return Net(
        name=name,
        make=make,
        inputs={"x": "float32[1,1,8,8]"},
        calibration=_calibration,
        held_out=_held_out,
        decision="class",
        sources=("digits", "vit"),
    )


CNN = _net("digits_cnn", digits_cnn)
DEPTHWISE = _net("digits_depthwise", digits_depthwise)
TRANSFORMER = _net("digits_transformer", digits_transformer)
