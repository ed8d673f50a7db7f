"""Small models of many kinds, with example inputs to trace them and the shapes that inference should find."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DigitsCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.flatten(1))


class ViewCnn(DigitsCnn):
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.view(-1, 64))


class PooledCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        parts = [nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.net = nn.Sequential(*parts, nn.Dropout(), nn.Linear(8, 5))

    def forward(self, x):
        return self.net(x)


class Rnn(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.rnn = nn.GRU(7, 9, batch_first=batch_first)

    def forward(self, x):
        return self.rnn(x)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(50, 12)
        self.fc = nn.Linear(12, 3)

    def forward(self, ids: Tensor, mask: Tensor):
        m = mask.unsqueeze(-1).float()
        return self.fc((self.emb(ids) * m).sum(1) / m.sum(1).clamp(min=1.0))


class BoolMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 8)

    def forward(self, x: Tensor, mask: Tensor):
        return self.fc(x).masked_fill(~mask.unsqueeze(-1), 0.0).sum(1)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)
        self.inp = nn.Linear(8, 16)

    def forward(self, x):
        return self.enc(self.inp(x)).mean(1)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 8)
        self.rnn = nn.GRU(8, 8, batch_first=True)

    def forward(self, tokens: Tensor, lengths: Tensor):
        return self.rnn(nn.utils.rnn.pack_padded_sequence(self.emb(tokens), lengths, batch_first=True))[1]


class Conv1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(9, 16, 5, stride=2)
        self.fc = nn.Linear(480, 6)

    def forward(self, x):
        return self.fc(torch.flatten(F.relu(self.conv(x)), 1))


class Bytes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image):
        return self.conv(image.permute(0, 3, 1, 2).float() / 255.0).mean((2, 3))


class Scalars(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 5)

    def forward(self, x: Tensor, scale: float = 2.0, flag: bool = True, n: int = 2, bias: Tensor | None = None):
        for _ in range(n):
            x = self.fc(x)
        if bias is not None:
            x = x + bias
        return x * scale if flag else x


class NeedsScalar(nn.Module):
    def forward(self, x: Tensor, sr: int):
        return x * sr


class DictInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.b = nn.Linear(6, 3)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": self.a(batch["image"]) + self.b(batch["meta"])}


class ListInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.b = nn.Linear(6, 3)

    def forward(self, xs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return self.a(xs[0]) + self.b(xs[1]), [xs[0], xs[1]]


class ExplicitState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, num_layers=2)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]):
        return self.lstm(x, state)


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        m = self.fc(x)
        return m + torch.randn_like(m)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("h", torch.zeros(1, 3))

    def forward(self, x):
        self.h = self.h * 0.5 + self.fc(x)
        return self.h


class Ranking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 13)

    def forward(self, x):
        values, indices = torch.topk(self.fc(x), 3)
        return values, indices


class OneHot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(7, 3)

    def forward(self, label):
        return self.fc(F.one_hot(label, 7).float())


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.pos = nn.Parameter(torch.randn(1, 16, 16))

    def forward(self, x):
        return (self.patch(x).flatten(2).transpose(1, 2) + self.pos).mean(1)


class MatMul(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        return torch.matmul(x, self.w)


class PooledEdges(nn.Module):
    """A graph network whose edges are taken apart by ``unbind``, and whose nodes belong to one of four graphs."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 6)

    def forward(self, x: Tensor, edges: Tensor, graph: Tensor):
        source, target = edges.unbind(0)
        h = self.fc(x)
        passed = torch.zeros_like(h).index_add(0, target, h.index_select(0, source))
        return torch.zeros(4, 6).index_add(0, graph, passed)


class Edges(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 6)

    def forward(self, x: Tensor, edge_index: Tensor):
        h = self.fc(x)
        return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]])


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.out = nn.Linear(10, 2)

    def forward(self, a, b):
        return self.out(torch.cat([self.a(a), b], dim=1))


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 5)

    def forward(self, x, h: Tensor, c: Tensor):
        return self.cell(x, (h, c))


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 5)

    def forward(self, x: Tensor):
        h = torch.zeros(x.size(0), 5)
        outs: list[Tensor] = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            outs.append(h)
        return torch.stack(outs, 1)


class Oblong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.fc = nn.Linear(960, 6)

    def forward(self, x):
        return self.fc(F.max_pool2d(self.conv(x), 2).flatten(1))


class Tabular(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Embedding(5, 3)
        self.second = nn.Embedding(9, 3)
        self.out = nn.Linear(10, 2)

    def forward(self, cat: Tensor, num: Tensor):
        return self.out(torch.cat([self.first(cat[:, 0]), self.second(cat[:, 1]), num], 1))


def _ids(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.long)


def _ones(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
    return torch.ones(*shape, dtype=dtype)


# name: (model, example inputs for tracing or None to script only, {input: expected type by inference})
ZOO = {
    "digits": (DigitsCnn, (torch.zeros(1, 1, 8, 8),), {"x": "float32[1,1,8,8]"}),
    "digits_view": (ViewCnn, (torch.zeros(1, 1, 8, 8),), {"x": "float32[1,1,8,8]"}),
    "pooled": (PooledCnn, (torch.zeros(2, 3, 32, 32),), {"x": "float32[1,3,224,224]"}),
    "rnn": (lambda: Rnn(False), (torch.zeros(4, 1, 7),), {"x": "float32[16,1,7]"}),
    "rnn_batch_first": (lambda: Rnn(True), (torch.zeros(1, 4, 7),), {"x": "float32[1,16,7]"}),
    "masked": (Masked, (_ids(1, 4), _ones(1, 4)), {"ids": "int64[1,16]", "mask": "int64[1,16]"}),
    "bool_mask": (
        BoolMask,
        (torch.zeros(1, 5, 6), _ones(1, 5, dtype=torch.bool)),
        {"x": "float32[1,16,6]", "mask": "bool[1,16]"},
    ),
    "transformer": (Transformer, None, {"x": "float32[1,16,8]"}),
    "packed": (Packed, (_ids(2, 5), torch.tensor([5, 3])), {"tokens": "int64[1,16]", "lengths": "int64[1]"}),
    "conv1d": (Conv1d, (torch.zeros(1, 9, 64),), {"x": "float32[1,9,64]"}),
    "bytes": (Bytes, (torch.zeros(1, 16, 16, 3, dtype=torch.uint8),), {"image": "uint8[1,224,224,3]"}),
    "half": (lambda: MatMul().half(), (torch.zeros(1, 6).half(),), {"x": "float16[1,6]"}),
    "scalars": (Scalars, None, {"x": "float32[1,5]"}),
    "dict": (DictInput, None, {"batch.image": "float32[1,4]", "batch.meta": "float32[1,6]"}),
    "list": (ListInput, None, {"xs.0": "float32[1,4]", "xs.1": "float32[1,6]"}),
    "state": (
        ExplicitState,
        None,
        {"x": "float32[16,1,5]", "state.0": "float32[2,1,6]", "state.1": "float32[2,1,6]"},
    ),
    "one_hot": (OneHot, (_ids(1),), {"label": "int64[1,16]"}),
    "vit": (Vit, (torch.zeros(1, 3, 32, 32),), {"x": "float32[1,3,32,32]"}),
    "matmul": (MatMul, (torch.zeros(1, 6),), {"x": "float32[1,6]"}),
    "pooled_edges": (
        PooledEdges,
        (torch.zeros(6, 5), _ids(2, 9), _ids(6)),
        {"x": "float32[1,5]", "edges": "int64[2,16]", "graph": "int64[1]"},
    ),
    "edges": (Edges, (torch.zeros(6, 5), _ids(2, 9)), {"x": "float32[1,5]", "edge_index": "int64[2,16]"}),
    "joined": (Joined, (torch.zeros(1, 4), torch.zeros(1, 6)), {"a": "float32[1,4]", "b": "float32[1,6]"}),
    "cell": (
        Cell,
        (torch.zeros(1, 3), torch.zeros(1, 5), torch.zeros(1, 5)),
        {"x": "float32[1,3]", "h": "float32[1,5]", "c": "float32[1,5]"},
    ),
    "steps": (Steps, None, {"x": "float32[1,16,3]"}),
    "oblong": (Oblong, (torch.zeros(1, 1, 40, 24),), {"x": "float32[1,1,40,24]"}),
    "tabular": (Tabular, (_ids(1, 2), torch.zeros(1, 4)), {"cat": "int64[1,2]", "num": "float32[1,4]"}),
}
