"""Inputs are found through layers whose weights are computed, and through operators that are no layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgebuild.model.load import load
from edgebuild.model.request import ModelRequest
from edgebuild.model.signature import TensorType


class Temporal(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(12, 5, 3))

    def forward(self, x):
        return self.conv(nn.functional.pad(x, (2, 0)))


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        self.register_buffer("bank", torch.rand(33, 16))

    def forward(self, wave):
        power = torch.stft(wave, 64, 32, window=self.window, return_complex=True).abs().square()
        return torch.einsum("bft,fm->bmt", power, self.bank)


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(24, 3)

    def forward(self, x):
        return self.linear(torch.fft.fft(x, dim=-1).real)


class Equation(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(7, 2, 9))

    def forward(self, x):
        return torch.einsum("...i,hij->...hj", x, self.weight.transpose(0, 1))


@pytest.mark.parametrize(
    ("module", "example", "axes"),
    [
        (Temporal(), torch.zeros(1, 12, 20), {1: 12}),
        (Spectral(), torch.zeros(1, 640), {0: 1, 1: 16000}),
        (Mixing(), torch.zeros(1, 6, 24), {-1: 24}),
        (Equation(), torch.zeros(2, 7), {-1: 7}),
    ],
    ids=["weight_norm", "stft", "fft", "einsum"],
)
def test_sizes_that_weights_fix_are_found(module, example, axes, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(module.eval(), example, check_trace=False), tmp_path / "m.pt")
    source = load(ModelRequest(path=str(tmp_path / "m.pt")))
    kind = source.inputs[0].type
    assert isinstance(kind, TensorType)
    assert kind.shape is not None
    assert {axis: kind.shape[axis] for axis in axes} == axes
    assert len(source.assumptions) == 1
    assert "--input" in source.assumptions[0]


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.linear(x) * self.count


def test_reference_of_a_counting_model_is_the_same_in_every_run(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Counter().eval()), tmp_path / "m.pt")
    source = load(ModelRequest(path=str(tmp_path / "m.pt")))
    first, second = (source.reference(source.samples[0])[0][0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert any("state (count)" in note for note in source.notes)


class Chosen(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x, flag):
        return self.linear(torch.where(flag, x, -x)), flag.logical_not()


@pytest.mark.parametrize("trace", [False, True])
def test_the_condition_of_where_is_boolean_whatever_layer_comes_behind(trace):
    module = Chosen().eval()
    example = (torch.zeros(1, 8), torch.zeros(1, 8, dtype=torch.bool))
    script = torch.jit.trace(module, example) if trace else torch.jit.script(module)
    source = load(ModelRequest(path=None), module=script)
    assert {spec.name: spec.type for spec in source.inputs} == {
        "x": TensorType(dtype="float32", shape=(1, 8)),
        "flag": TensorType(dtype="bool", shape=(1, 8)),
    }
