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
                module.weight.copy_(torch.exp(0.15 * torch.randn_like(module.weight)))
            nn.init.normal_(module.bias, 0, 0.3)


def quieten(norms: Iterable[nn.Module]) -> None:
    """Turns down the batch norms that end a residual branch: training leaves branches quieter than the shortcut."""
    with torch.no_grad():
        for norm in norms:
            norm.weight.mul_(0.3)
            norm.bias.mul_(0.3)


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


def read_differences(
    model: nn.Module, head: nn.Linear, size: int, *, directions: int = 8, count: int = 32
) -> nn.Module:
    """Gives a classifier a head that reads what images differ in, as training would, in place of random directions.

    A deep net of random weights gives nearly the same features for everything; a random head then reads mostly noise. Along
    each of the first principal components of the features lie two distinct classes; all others are weak mixtures.
    Scores have mean 0 and deviation 2 over the images.
    """
    seen: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        for batch in torch.from_numpy(images.images(count, size, images.SETTLING)).split(8):
            model(batch)
        hook.remove()
        features = torch.cat(seen)
        mean = features.mean(0)
        _, deviations, components = torch.linalg.svd(features - mean, full_matrices=False)
        scaled = components[:directions] / deviations[:directions, None].sqrt()
        mixing = 0.3 * directions**-0.5 * torch.randn(head.out_features, directions, generator=_generator(20))
        mixing[: 2 * directions] = torch.cat((torch.eye(directions), -torch.eye(directions)))
        weight = mixing[torch.randperm(head.out_features, generator=_generator(21))] @ scaled
        weight *= 2 / ((features - mean) @ weight.T).std()
        head.weight.copy_(weight)
        head.bias.copy_(-weight @ mean)
    return model


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
