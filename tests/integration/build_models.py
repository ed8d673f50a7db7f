"""Models of the end-to-end tests."""

import torch
from torch import nn


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(6, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(image).flatten(1))  # type: ignore[no-any-return]


class Rated(nn.Module):
    """Two inputs, one of them integers; two outputs in a dict; a branch that only scripting keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.table(ids).sum(1) + x
        if x.shape[1] > 3:
            y = y * 2.0
        return {"score": y, "best": y.argmax(1)}


class Recurrent(nn.Module):
    """State goes in and comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 6, batch_first=True)

    def forward(
        self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        return self.cell(x, state)  # type: ignore[no-any-return]


class Half(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 2 + 1).relu()


class Growing(nn.Module):
    """As many steps as the input's values ask for, and a list that grows with them: ONNX has no form for it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        kept = [x.sum(0)]
        steps = 0
        while steps < 5 and float(x.abs().sum()) > 4.0:
            _, r = torch.linalg.qr(x)
            x = torch.tanh(self.layer(x))
            kept.append(r.abs().sum(0))
            steps += 1
        return {"last": x, "kept": torch.stack(kept).sum(0)}


class Remembering(nn.Module):
    """A leaky sum of everything that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.memory = self.memory * 0.5 + x
        return torch.tanh(self.memory) + x
