"""Convolutions, norms and resizing; recurrent layers."""

import numpy as np
import torch
import torch.nn.functional as F
from export_case import case, floats
from torch import nn


@case("cnn", floats(-1, 3, 16, 16), dynamic=[(0, 0, "batch")])
class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(8 * 64, 10)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


case("conv_same_padding", floats(1, 3, 15, 14))(lambda: nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)))
case("conv_transpose", floats(1, 3, 9, 9))(lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1))
case("conv3d_groups", floats(1, 4, 5, 6, 7))(lambda: nn.Conv3d(4, 8, 3, groups=2))
case("conv1d_reflect", floats(1, 3, 20))(lambda: nn.Conv1d(3, 4, 5, padding=2, padding_mode="reflect"))
case("norms", floats(2, 6, 8, 8))(
    lambda: nn.Sequential(nn.GroupNorm(3, 6), nn.InstanceNorm2d(6, affine=True), nn.SiLU())
)
case("rms_norm", floats(2, 5, 16))(lambda: nn.RMSNorm(16))
case("pixel_shuffle", floats(1, 8, 6, 6))(lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(3)))
case("upsample_bilinear", floats(1, 3, 7, 9))(lambda: nn.Upsample(scale_factor=2.0, mode="bilinear"))
case("upsample_bicubic", floats(1, 3, 7, 9))(lambda: nn.Upsample(size=(13, 20), mode="bicubic", align_corners=True))
case("upsample_nearest_exact", floats(1, 3, 7, 9))(lambda: nn.Upsample(size=(10, 12), mode="nearest-exact"))
case("unfold_fold", floats(1, 3, 8, 8))(lambda: nn.Sequential(nn.Unfold(3, padding=1), nn.Fold((8, 8), 3, padding=1)))
case("prelu_and_friends", floats(2, 4, 5))(
    lambda: nn.Sequential(
        nn.PReLU(4), nn.Hardswish(), nn.Mish(), nn.GELU("tanh"), nn.Softplus(), nn.CELU(), nn.Hardsigmoid()
    )
)


@case("super_resolution", floats(1, 2, -1, 7), "tse", dynamic=[(0, 2, "height")])
class SuperResolution(nn.Module):
    """What is resized meets what has the size by another way: a product and a rounded-down factor are one size."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(2, 18, 3, padding=1)

    def forward(self, x):
        return F.pixel_shuffle(self.body(x), 3) + F.interpolate(x, scale_factor=3.0, mode="bicubic")


class Doubled(nn.Module):
    def __init__(self, mode: str):
        super().__init__()
        self.mode = mode

    def forward(self, x):
        return F.interpolate(x, scale_factor=2.0, mode=self.mode) + torch.cat([x, x], 2)


for _mode in ("linear", "nearest"):
    case(f"doubled_{_mode}", floats(1, 3, -1), "s", dynamic=[(0, 2, "n")])(lambda mode=_mode: Doubled(mode))


@case("upsample_antialias", floats(1, 3, 16, 18))
class Antialias(nn.Module):
    def forward(self, x):
        return F.interpolate(x, size=(7, 9), mode="bilinear", antialias=True)


@case("local_response_norm", floats(1, 8, 5, 5))
class Lrn(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LocalResponseNorm(3)

    def forward(self, x):
        return F.avg_pool2d(self.norm(x), 3, stride=2, padding=1, count_include_pad=False, ceil_mode=True)


@case("weight_norm", floats(2, 6), "te")
class WeightNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
        self.b = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4))

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


@case("grid_sample", lambda r, n: [*floats(1, 3, 8, 9)(r, n), r.uniform(-1.1, 1.1, (1, 5, 6, 2)).astype(np.float32)])
class GridSample(nn.Module):
    def forward(self, x, grid):
        return F.grid_sample(x, grid, align_corners=False), F.grid_sample(x, grid, mode="nearest", align_corners=True)


@case("affine_grid", lambda r, n: [*floats(1, 3, 8, 9)(r, n), *floats(1, 2, 3)(r, n)])
class AffineGrid(nn.Module):
    def forward(self, x, theta):
        return F.grid_sample(x, F.affine_grid(theta * 0.3, [1, 3, 6, 7], align_corners=False), align_corners=False)


@case("lstm_state", lambda r, n: [*floats(2, 5, 4)(r, n), *floats(2, 2, 6)(r, n), *floats(2, 2, 6)(r, n)])
class LstmState(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 6, num_layers=2, batch_first=True)

    def forward(self, x, h, c):
        y, state = self.lstm(x, (h, c))
        return y, state


@case("bidirectional_gru", floats(2, 5, 4))
class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 6, bidirectional=True, batch_first=True)

    def forward(self, x):
        y, h = self.gru(x)
        return {"sequence": y, "state": h}


case("lstm_dynamic_time", floats(2, -1, 4), dynamic=[(0, 1, "time")])(Gru)


@case("packed_lstm", lambda r, n: [*floats(3, 6, 4)(r, n), np.array([6, 4, 2])], "te")
class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        y, (h, _) = self.lstm(packed)
        return nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0], h
