"""Scripted control flow, state, nested outputs."""

import numpy as np
import torch
from export_case import case, floats
from torch import nn


@case("while_data_dependent", floats(3, 4), "s")
class While(nn.Module):
    def forward(self, x):
        n = 0
        while bool(x.abs().sum() > 1.0) and n < 50:
            x = x * 0.5
            n += 1
        return x


@case("if_on_value", floats(3, 4), "s")
class IfValue(nn.Module):
    def forward(self, x):
        if bool(x.sum() > 0):
            return x * 2
        return x - 1


@case("if_on_shape", floats(-1, 4), "s", dynamic=[(0, 0, "batch")])
class IfShape(nn.Module):
    def forward(self, x, scale: float = 2.0, flag: bool | None = None):
        if x.dim() == 2:
            x = x * scale
        if flag is None:
            x = x + x.size(1)
        return x


@case("tuple_state_loop", lambda r, n: [*floats(2, 5, 4)(r, n)], "s")
class TupleState(nn.Module):
    def forward(self, x):
        state = (torch.zeros(x.size(0), 4), torch.ones(x.size(0), 4))
        total = x.new_zeros([x.size(0), 4])
        for step in x.unbind(1):
            state = (state[0] * 0.5 + step, state[1] * torch.sigmoid(step))
            total = total + state[0] * state[1]
        return total, state


@case("dict_and_list_outputs", floats(2, 4))
class Nested(nn.Module):
    def forward(self, x):
        return {"a": x * 2, "b": x.sum(1)}


@case("state_in_buffer", floats(2, 4))
class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.1, 1.0, 4))
        self.offset = torch.ones(4)

    def forward(self, x):
        return x * self.scale + self.offset


class EarlyExit(nn.Module):
    """Steps over time until a value is reached: neither the steps nor the loop's end are known when it is exported."""

    def __init__(self, cell: nn.Module):
        super().__init__()
        self.cell = cell
        self.out = nn.Linear(6, 3)

    def forward(self, frames):
        hidden = torch.zeros(frames.size(1), 6)
        result = torch.zeros(frames.size(0), frames.size(1), 3)
        for step in range(frames.size(0)):
            hidden = self.cell(frames[step], hidden)
            result[step] = self.out(hidden)
            if bool((hidden.abs().sum() > 2.5).all()):
                break
        return result, hidden


for _name, _cell in (
    ("gru", lambda: nn.GRUCell(4, 6)),
    ("gru_without_bias", lambda: nn.GRUCell(4, 6, bias=False)),
    ("rnn_tanh", lambda: nn.RNNCell(4, 6)),
    ("rnn_relu", lambda: nn.RNNCell(4, 6, nonlinearity="relu")),
):
    case(f"early_exit_{_name}", floats(-1, 2, 4), "s", dynamic=[(0, 0, "steps")])(lambda make=_cell: EarlyExit(make()))


@case("early_exit_lstm", floats(2, 4), "s")
class EarlyExitLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(4, 4)

    def forward(self, x):
        hidden, state = x, torch.zeros_like(x)
        steps = 0
        while bool(state.abs().max() < 0.6) and steps < 9:
            hidden, state = self.cell(x, (hidden, state))
            steps += 1
        return hidden, state


@case(
    "packed_sequences", lambda rng, size: [rng.standard_normal((2, 6, 4)).astype("float32"), np.array([6, size])], "s"
)
class PackedSequences(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True, bidirectional=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=6)[0]
