"""Seeded weights that behave like trained ones: channels of different scale, batch norms that have seen data."""

from collections.abc import Iterable

import torch
from torch import nn

from nets import images


def seed_convolutions(model: nn.Module, seed: int) -> None:
    """He-normal weights for convolutions and linear layers; batch norms get unequal scales and offsets, as training leaves them."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.05)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
            nn.init.normal_(module.bias, 0, 0.05)
        elif isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(torch.exp(0.3 * torch.randn_like(module.weight)))
            nn.init.normal_(module.bias, 0, 0.3)


def quieten(norms: Iterable[nn.Module]) -> None:
    """Halves the scale of batch norms that end a residual branch: training leaves branches quieter than the shortcut."""
    with torch.no_grad():
        for norm in norms:
            norm.weight.mul_(0.5)
            norm.bias.mul_(0.5)


def settle_batch_norms(model: nn.Module, size: int, *, batches: int = 3, batch_size: int = 8) -> nn.Module:
    """Runs images (N, 3, size, size) through, so that every batch norm's statistics are those of its input; evaluation mode."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    data = torch.from_numpy(images.images(batches * batch_size, size, images.SETTLING))
    model.train()
    with torch.no_grad():
        for batch in data.split(batch_size):
            model(batch)
    return model.eval()


def spread_scores(model: nn.Module, head: nn.Linear, size: int, *, count: int = 24) -> nn.Module:
    """Shifts and scales a classifier's scores to mean 0, deviation 2 over images, so that different images get different classes.

    A deep net with random weights gives nearly the same scores for everything; a trained one does not.
    """
    with torch.no_grad():
        scores = model(torch.from_numpy(images.images(count, size, images.SETTLING)))
        mean = scores.mean(0)
        gain = 2 / (scores - mean).std()
        head.bias.sub_(mean)
        head.bias.mul_(gain)
        head.weight.mul_(gain)
    return model
