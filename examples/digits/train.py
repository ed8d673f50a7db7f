"""Trains a small CNN on scikit-learn's handwritten digits and saves it as TorchScript: ``train.py FOLDER``.

Writes ``model.pt`` (what ``torch.jit.save`` gives of the scripted model, in eval mode) and ``held_out.npz`` with the digits that it
has not seen: ``x`` of shape (N, 1, 1, 8, 8), one batch of one image each, and ``label`` of shape (N,).
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

EPOCHS = 12
BATCH = 64


class DigitsNet(nn.Module):
    """Two convolutions with batch norm, one hidden layer; takes (N, 1, 8, 8), gives (N, 10) scores."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of the ten digits for a batch of images."""
        scores: torch.Tensor = self.classifier(self.features(x))
        return scores


def train(folder: Path) -> None:
    """Trains, saves the model and the held-out digits into ``folder``."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) / 16.0).astype(np.float32)
    seen, held_out, seen_labels, held_out_labels = train_test_split(
        images, labels, test_size=360, random_state=0, stratify=labels
    )
    data = torch.utils.data.TensorDataset(torch.from_numpy(seen), torch.from_numpy(seen_labels))
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
    model = DigitsNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for x, label in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), label).backward()
            optimizer.step()
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still what most saved models are
        torch.jit.save(torch.jit.script(model), str(folder / "model.pt"))
    np.savez(folder / "held_out.npz", x=held_out[:, None])
    np.save(folder / "held_out_labels.npy", held_out_labels)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
