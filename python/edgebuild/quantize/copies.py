"""Split: into how many copies outlying channels of an activation go, as a plan keeps it; ``quantize.split`` does it to a graph."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_COPIES = 63
"""Of one channel. Odd numbers only: the channel itself keeps its place and is not shifted."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How channels of one activation are split.

    Args:
        channels: Their numbers, ascending.
        copies: How many become of each, odd, 3 to 63.
        steps: What rounding resolves of each, in units of the activation; 0: not known, the copies are not shifted.
    """

    channels: tuple[int, ...]
    copies: tuple[int, ...]
    steps: tuple[float, ...]

    def extra(self) -> npt.NDArray[np.int64]:
        """The channel that each added column is a copy of."""
        return np.repeat(np.asarray(self.channels, np.int64), np.asarray(self.copies) - 1)

    def divisors(self, channels: int) -> npt.NDArray[np.float64]:
        """What each column is divided by, the added ones behind: ``(channels + added,)``."""
        found = np.ones(channels)
        found[list(self.channels)] = self.copies
        return np.concatenate([found, found[self.extra()]])

    def shifts(self) -> npt.NDArray[np.float64]:
        """What is added to each added column before it is divided; 0 in the sum over a channel."""
        parts = [
            step * np.concatenate([np.arange(-(count // 2), 0), np.arange(1, count // 2 + 1)]) / count
            for count, step in zip(self.copies, self.steps, strict=True)
        ]
        return np.concatenate(parts)


def choose_copies(magnitudes: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.int64]:
    """Copies of each channel such that none is larger than need be with so many columns more.

    Args:
        magnitudes: Largest magnitude of each channel, finite.
        most: Columns that may be added.
    """
    low, high = 0.0, float(magnitudes.max(initial=0.0))
    copies = np.ones(len(magnitudes), np.int64)
    if high <= 0 or most < 2:
        return copies
    for _ in range(30):
        limit = (low + high) / 2
        wanted = np.ceil(np.minimum(magnitudes / limit, MOST_COPIES + 1))
        wanted = np.where(wanted <= 1, 1, wanted // 2 * 2 + 1).astype(np.int64)
        if wanted.max() > MOST_COPIES or int((wanted - 1).sum()) > most:
            low = limit
        else:
            high, copies = limit, wanted
    return copies
