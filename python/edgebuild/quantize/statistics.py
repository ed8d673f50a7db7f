"""What calibration knows about tensors: values that can be kept in a file, the same bytes for the same content."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebuild import _runtime
from edgebuild.errors import ResourceError, UsageError

_FORMAT = 1
_SIGN = 0x8000
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelStatistics:
    """Of every index along one axis, in real units; each array is float64 of shape ``(channels,)``.

    Attributes:
        axis: As it was asked for; may be negative.
        count: Values of one channel.
        low: Smallest value.
        high: Largest value.
        mean: Mean.
        mean_square: Mean of the squares.
    """

    axis: int
    count: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    mean_square: NDArray[np.float64]

    @property
    def absmax(self) -> NDArray[np.float64]:
        """Largest magnitude, ``(channels,)``."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @classmethod
    def of(cls, counted: _runtime.ChannelStatistics) -> "ChannelStatistics":
        """What an accumulator holds now; its count must not be 0."""
        return cls(
            axis=counted.axis,
            count=counted.count,
            low=counted.low,
            high=counted.high,
            mean=counted.mean,
            mean_square=counted.mean_square,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorStatistics:
    """The distribution of one tensor's values over all batches.

    A bin holds the values whose float32 patterns share the upper 16 bits: sign, exponent and 7 bits of mantissa, so it is
    at most 1/128 of its values wide. Only bins that are not empty are kept.

    Attributes:
        low: Smallest finite value, exact.
        high: Largest finite value, exact.
        count: Finite values.
        bins: Upper halves of the patterns, ``(bins,)`` uint16, in ascending order of the values that they stand for.
        counts: Values in each bin, ``(bins,)`` uint64.
        infinite: Infinities that were left out, where those were allowed.
        channels: Of the tensor's channels, where asked for.
    """

    low: float
    high: float
    count: int
    bins: NDArray[np.uint16]
    counts: NDArray[np.uint64]
    infinite: int = 0
    channels: ChannelStatistics | None = None

    def edges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Smallest and largest value that each bin may hold, ``(bins,)`` each, ascending.

        The outermost bins end at ``low`` and ``high``. The bins of zero, which also hold what is below 2^-133, are just zero.
        """
        magnitude = (self.bins & np.uint16(_SIGN - 1)).astype(np.uint32)
        near = (magnitude << np.uint32(16)).view(np.float32).astype(np.float64)
        far = ((magnitude + np.uint32(1)) << np.uint32(16)).view(np.float32).astype(np.float64)
        far[magnitude == 0] = 0.0
        negative = self.bins >= _SIGN
        lower = np.where(negative, -far, near)
        upper = np.where(negative, -near, far)
        return np.clip(lower, self.low, self.high), np.clip(upper, self.low, self.high)

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin, ``(bins,)``."""
        lower, upper = self.edges()
        return (lower + upper) / 2

    @classmethod
    def of(
        cls, histogram: _runtime.Histogram, channels: _runtime.ChannelStatistics | None = None
    ) -> "TensorStatistics":
        """What the accumulators hold now; the count must not be 0."""
        bins, counts = histogram.bins()
        return cls(
            low=histogram.low,
            high=histogram.high,
            count=histogram.count,
            bins=bins,
            counts=counts,
            infinite=histogram.not_finite,
            channels=None if channels is None else ChannelStatistics.of(channels),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Observations:
    """Statistics of tensors by the graph's names, and the number of batches that they come from."""

    tensors: Mapping[str, TensorStatistics]
    batches: int

    def write(self, path: Path) -> None:
        """Write a ``.npz`` file; equal content gives equal bytes.

        Raises:
            ResourceError: The file can't be written.
        """
        names = sorted(self.tensors)
        every = [self.tensors[name] for name in names]
        with_channels = [t.channels for t in every if t.channels is not None]
        about = {
            "format": _FORMAT,
            "batches": self.batches,
            "tensors": [
                {
                    "name": name,
                    "count": t.count,
                    "infinite": t.infinite,
                    "bins": len(t.bins),
                    "channels": None
                    if t.channels is None
                    else {"axis": t.channels.axis, "count": t.channels.count, "size": len(t.channels.low)},
                }
                for name, t in zip(names, every, strict=True)
            ],
        }
        arrays: dict[str, NDArray[Any]] = {
            "about": np.frombuffer(json.dumps(about, sort_keys=True, separators=(",", ":")).encode(), np.uint8),
            "bins": _joined([t.bins for t in every], np.uint16),
            "channels": np.stack([_joined([getattr(c, key) for c in with_channels], np.float64) for key in _CHANNELS]),
            "counts": _joined([t.counts for t in every], np.uint64),
            "extremes": np.array([(t.low, t.high) for t in every], np.float64).reshape(len(every), 2),
        }
        try:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                for name, array in arrays.items():
                    stream = io.BytesIO()
                    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
                    archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), stream.getvalue())
        except OSError as error:
            msg = f"{path}: can't be written: {error.strerror}"
            raise ResourceError(msg) from error

    @classmethod
    def read(cls, path: Path) -> "Observations":
        """The inverse of ``write``.

        Raises:
            UsageError: The file can't be read, or is none of ours.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                return cls._from_arrays({name: arrays[name] for name in arrays.files})
        except OSError as error:
            msg = f"{path}: can't be read: {error.strerror or error}"
            raise UsageError(msg) from error
        except (KeyError, IndexError, TypeError, ValueError, zipfile.BadZipFile) as error:
            msg = f"{path}: no observations of this version of edgebuild"
            raise UsageError(msg, hint="calibrate again") from error

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Observations":
        about = json.loads(arrays["about"].tobytes())
        if about["format"] != _FORMAT:
            msg = f"format {about['format']}, expected {_FORMAT}"
            raise ValueError(msg)
        tensors: dict[str, TensorStatistics] = {}
        bins_at = channels_at = 0
        for index, entry in enumerate(about["tensors"]):
            channels = None
            if entry["channels"] is not None:
                size = entry["channels"]["size"]
                columns = arrays["channels"][:, channels_at : channels_at + size]
                channels = ChannelStatistics(
                    axis=entry["channels"]["axis"],
                    count=entry["channels"]["count"],
                    **{key: columns[row].copy() for row, key in enumerate(_CHANNELS)},
                )
                channels_at += size
            tensors[entry["name"]] = TensorStatistics(
                low=float(arrays["extremes"][index, 0]),
                high=float(arrays["extremes"][index, 1]),
                count=entry["count"],
                bins=arrays["bins"][bins_at : bins_at + entry["bins"]].copy(),
                counts=arrays["counts"][bins_at : bins_at + entry["bins"]].copy(),
                infinite=entry["infinite"],
                channels=channels,
            )
            bins_at += entry["bins"]
        return cls(tensors=tensors, batches=about["batches"])


_CHANNELS = ("low", "high", "mean", "mean_square")


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])
