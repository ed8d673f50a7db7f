"""The sound nets that faults are planted in: trained on digits, exported and optimised as a build does; each once per seed."""

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgebuild.export.result import ExportedModel
from edgebuild.export.run import export_model
from edgebuild.fingerprint import source_digest
from edgebuild.graph.io import load_model, save_model
from edgebuild.graph.optimize import optimize
from edgebuild.model.request import ModelRequest
from edgebuild.model.spec import parse_input
from edgebuild.targets import load_target
from nets import digits
from nets.mobilenet import InvertedResidual
from workbench import WORK

KINDS = ("cnn", "depthwise", "transformer", "mobile")

CALIBRATION, IN_USE = 64, 48
"""Samples to build with, a quarter of which the build holds out, and samples as in use that only the explanation sees."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A sound net.

    Args:
        kind: One of ``KINDS``.
        seed: Of its weights.
        graph: The optimised float graph.
        exported: What it was made from.
        calibration: Images (N, C, 8, 8).
        in_use: Others of the same kind.
        labels: What the calibration images show, (N,).
    """

    kind: str
    seed: int
    graph: Path
    exported: ExportedModel
    calibration: NDArray[np.float32]
    in_use: NDArray[np.float32]
    labels: NDArray[np.int64]


class Mobile(nn.Module):
    """(N, 3, 8, 8) -> (N, 10): inverted residuals as in MobileNetV2, small, with ReLU, which lets a factor through."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        sizes = ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1))
        self.blocks = nn.Sequential(*(InvertedResidual(a, b, stride, 4) for a, b, stride in sizes))
        for block in self.blocks:
            assert isinstance(block, InvertedResidual)
            block.body = nn.Sequential(*(nn.ReLU() if isinstance(m, nn.ReLU6) else m for m in block.body))
        self.last = nn.Sequential(nn.Conv2d(32, 96, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU())
        self.head = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, 10)."""
        scores: torch.Tensor = self.head(self.last(self.blocks(self.stem(x))).mean((2, 3)))
        return scores


def base(kind: str, seed: int) -> Base:
    """The net of a kind and a seed, trained when it is first asked for."""
    made_by = source_digest("model", "export")[:12]  # what is kept is read by today's code
    folder = WORK / "faults" / f"{kind}-{seed}-{made_by}"
    if not (folder / "graph.onnx").exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        _make(kind, seed, partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    images, labels = data(kind)
    return Base(
        kind=kind,
        seed=seed,
        graph=folder / "graph.onnx",
        exported=ExportedModel.read(folder / "export"),
        calibration=images[:CALIBRATION],
        in_use=images[CALIBRATION : CALIBRATION + IN_USE],
        labels=labels[:CALIBRATION],
    )


def data(kind: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images that no training saw, and what they show."""
    images, labels = digits._data()
    return (_tinted(images, 1) if kind == "mobile" else images)[: digits.HELD_OUT], labels[: digits.HELD_OUT]


def _tinted(images: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Reddish digits on a bluish ground, every one a little different: (N, 3, 8, 8)."""
    rng = np.random.default_rng(seed)
    ink = np.array([0.9, 0.6, 0.3]) + rng.normal(0, 0.08, (len(images), 3))
    ground = np.array([0.1, 0.2, 0.45]) + rng.normal(0, 0.06, (len(images), 3))
    mixed = ground[:, :, None, None] + (ink - ground)[:, :, None, None] * images
    return np.clip(mixed, 0, 1).astype(np.float32)


def _make(kind: str, seed: int, folder: Path) -> None:
    folder.mkdir(parents=True)
    torch.manual_seed(100 + seed)
    if kind == "mobile":
        module: nn.Module = _trained_mobile(Mobile())
    else:
        classes = {
            "cnn": (digits.DigitsCNN, 15, 4e-3),
            "depthwise": (digits.DigitsDepthwise, 15, 5e-3),
            "transformer": (digits.DigitsTransformer, 12, 1e-3),
        }
        made, epochs, rate = classes[kind]
        module = digits._trained(made(), epochs=epochs, rate=rate, moved=False)
    channels = 3 if kind == "mobile" else 1
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, torch.zeros(1, channels, 8, 8))
        torch.jit.save(traced, str(folder / "net.pt"))
    inputs = (parse_input(f"x:float32[1,{channels},8,8]"),)
    exported = export_model(ModelRequest(path=str(folder / "net.pt"), inputs=inputs), folder / "export")
    spec = load_target("x86-64").runtime[0]
    result = optimize(load_model(exported.onnx), target_opset_max=spec.opset_max, fused_operators=spec.fused_operators)
    save_model(result.model, folder / "graph.onnx")


def _trained_mobile(model: nn.Module) -> nn.Module:
    images, labels = digits._data()
    x, y = torch.from_numpy(_tinted(images, 1)[digits.HELD_OUT :]), torch.from_numpy(labels[digits.HELD_OUT :])
    torch.set_num_threads(1)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(9)
    for _ in range(12):
        for rows in torch.randperm(len(y), generator=generator).split(64):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()
