"""The nets of the figures, by name; each is made from seeds, or from weights of a package, and kept under build/benchmarks."""

import importlib
from typing import Any

_WHERE = {
    "digits_cnn": ("digits", "CNN"),
    "digits_depthwise": ("digits", "DEPTHWISE"),
    "digits_transformer": ("digits", "TRANSFORMER"),
    "mobilenet_v2": ("mobilenet", "NET"),
    "efficientnet_b0": ("efficientnet", "NET"),
    "resnet50": ("resnet", "NET"),
    "vit_tiny": ("vit", "NET"),
    "unet": ("unet", "NET"),
    "lstm": ("lstm", "NET"),
    "minilm": ("minilm", "NET"),
}
NAMES = tuple(_WHERE)


def find(name: str) -> Any:
    """The ``Net`` of that name; imports torch.

    Raises:
        KeyError: There is none.
    """
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(f"nets.{module}"), attribute)
