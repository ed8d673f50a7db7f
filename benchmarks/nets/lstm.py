"""A 2-layer LSTM over a sequence of features, with a score for each step, seeded."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nets.net import Feed, HeldOut, Net, feeds_of

STEPS, FEATURES, HIDDEN, CLASSES = 100, 128, 512, 32


class Tagger(nn.Module):
    """(N, T, features) -> (N, T, classes); 3.4 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, HIDDEN, num_layers=2, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, T, classes)."""
        states, _ = self.lstm(x)
        scores: torch.Tensor = self.head(states)
        return scores


def lstm() -> nn.Module:
    """The LSTM with orthogonal recurrent weights and forget gates that start open (Jozefowicz et al., ICML 2015)."""
    torch.manual_seed(7)
    model = Tagger()
    with torch.no_grad():
        for name, parameter in model.lstm.named_parameters():
            if "weight_hh" in name:
                for gate in parameter.split(HIDDEN):
                    nn.init.orthogonal_(gate)
            elif "weight_ih" in name:
                nn.init.normal_(parameter, 0, 1.5 * parameter.shape[1] ** -0.5)
            else:
                nn.init.normal_(parameter, 0, 0.1)
                parameter[HIDDEN : 2 * HIDDEN] += 0.5  # half of it: there are two biases
        nn.init.normal_(model.head.weight, 0, 2 * HIDDEN**-0.5)
    return model.eval()


def sequences(count: int, stream: int) -> NDArray[np.float32]:
    """``count`` sequences (N, T, features): slow oscillations and noise with memory, mixed into features of unequal scale."""
    mixing = np.random.default_rng(70)
    oscillators, noises = 12, 24
    mix = mixing.standard_normal((oscillators + noises, FEATURES)) / np.sqrt(oscillators + noises)
    scale = np.exp(0.5 * mixing.standard_normal(FEATURES))
    time = np.arange(STEPS)[:, None]
    made = []
    for index in range(count):
        rng = np.random.default_rng([stream, index, 7])
        period = np.exp(rng.uniform(np.log(4), np.log(80), oscillators))
        waves = rng.uniform(0.3, 1.5, oscillators) * np.sin(2 * np.pi * (time / period + rng.random(oscillators)))
        memory = rng.uniform(0.5, 0.97, noises)
        noise = rng.standard_normal((STEPS, noises))
        for step in range(1, STEPS):
            noise[step] = memory * noise[step - 1] + np.sqrt(1 - memory**2) * noise[step]
        made.append(np.concatenate((1.4 * waves, noise), 1) @ mix * scale)
    return np.stack(made).astype(np.float32)


def _calibration(count: int) -> list[Feed]:
    return list(feeds_of("x", sequences(count, 2)))


def _held_out() -> HeldOut:
    return HeldOut(feeds=feeds_of("x", sequences(64, 3)))


NET = Net(
    name="lstm",
    make=lstm,
    inputs={"x": f"float32[1,{STEPS},{FEATURES}]"},
    calibration=_calibration,
    held_out=_held_out,
    decision="class",
    mark=2.8,
    in_mean=True,
    sources=("lstm",),
)
