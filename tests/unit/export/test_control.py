"""Loops over a dynamic axis become a scan; decisions and state are never frozen without a word."""

import io

import numpy as np
import onnx
import pytest
import torch
from export_sources import make_source
from torch import Tensor, nn

from edgebuild.errors import ModelError
from edgebuild.export.local import settled
from edgebuild.export.stage import export_source
from edgebuild.model.request import ModelRequest


def reloaded(module: nn.Module) -> torch.jit.ScriptModule:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module.eval()), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def export(source, folder):
    with settled(0):
        return export_source(source, ModelRequest(path=None), folder, lambda _: None)


class CellLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), 7)
        c = torch.zeros(x.size(0), 7)
        outs: list[Tensor] = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            outs += [h * 2]
        return torch.cat(outs, dim=1)


class Backwards(nn.Module):
    """Reads the steps from the end: the index is computed from the step."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(x.size(0), 5)
        seen: list[Tensor] = []
        for t in range(x.size(1)):
            total = total * 0.5 + x[:, x.size(1) - 1 - t]
            seen.append(total)
        return torch.stack(seen, 1), total


class Unbound(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(x.size(0), 5)
        for step in x.unbind(1):
            total = torch.maximum(total, step)
        return total


@pytest.mark.parametrize("module", [CellLoop(), Backwards(), Unbound()], ids=lambda m: type(m).__name__)
def test_loop_over_a_dynamic_axis_is_one_scan_for_every_length(module, tmp_path):
    torch.manual_seed(1)
    samples = [[np.random.default_rng(n).standard_normal((2, n, 5)).astype(np.float32)] for n in (4, 1, 9)]
    result = export(make_source(reloaded(module), samples, dynamic={(0, 1): "time"}), tmp_path)
    assert "Scan" in {node.op_type for node in onnx.load(result.onnx).graph.node}
    assert all(parity.passed for parity in result.parity)


class TwoAStep(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(x.size(0), 5)
        entries: list[Tensor] = []
        for t in range(x.size(1)):
            total = total + x[:, t]
            entries.append(total)
            entries.append(total * 2)
        return torch.stack(entries)


def test_loop_that_is_no_scan_says_why_and_goes_another_way(tmp_path):
    samples = [[np.random.default_rng(n).standard_normal((2, n, 5)).astype(np.float32)] for n in (4, 1, 9)]
    source = make_source(reloaded(TwoAStep()), samples, dynamic={(0, 1): "time"})
    result = export(source, tmp_path)  # the TorchScript exporter takes it, as a Loop
    assert "appends more than one tensor a step" in str(result.attempts[0].error)
    assert all(parity.passed for parity in result.parity)


class Deciding(nn.Module):
    def __init__(self, *, gain: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)
        self.gain = gain

    def forward(self, x, *unused):
        return self.linear(x) * (self.gain if x.sum() < 1e9 else 0.0)


def test_decision_that_only_tracing_takes_is_announced(tmp_path):
    samples = [[np.random.default_rng(n).standard_normal((2, 5)).astype(np.float32)] for n in range(3)]
    result = export(make_source(Deciding().eval(), samples), tmp_path)
    assert result.exporter.endswith("as sampled")
    assert any("decides by values" in note for note in result.notes)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


def test_counting_model_is_exported_from_its_saved_state(tmp_path):
    samples = [[np.ones((2, 3), np.float32) * n] for n in (1, 2, 3)]
    script = reloaded(Counting())
    source = make_source(script, samples)

    def reference(inputs):
        script.count.zero_()
        return [script(torch.from_numpy(inputs["x"])).numpy().copy()], {"tensor": 0}

    object.__setattr__(source, "reference", reference)
    script.count.zero_()
    result = export(source, tmp_path)
    assert result.parity[0].expected == pytest.approx(result.parity[0].got)


class Number(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x * 2, int(x.sum())


def test_number_beside_the_tensors_that_depends_on_the_input_is_refused(tmp_path):
    samples = [[np.ones((2, 3), np.float32) * n] for n in (1, 2, 3)]
    with pytest.raises(ModelError, match="depends on the input") as caught:
        export(make_source(reloaded(Number()), samples), tmp_path)
    assert "return such numbers as tensors" in str(caught.value)
