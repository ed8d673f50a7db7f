"""Loops over a dynamic axis become a scan; decisions and state are never frozen without a word."""

import io
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from export_sources import make_source
from torch import Tensor, nn

from edgebuild.errors import GateError, ModelError
from edgebuild.export import chain
from edgebuild.export.chain import exporters
from edgebuild.export.local import export_here, settled
from edgebuild.export.stage import export_source
from edgebuild.model.request import InputRequest, ModelRequest


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


def program_of(module, *inputs):
    """A torch.export program after a trip through a file."""
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, inputs), buffer)
    buffer.seek(0)
    return torch.export.load(buffer)


COUNTERS = {
    "module": lambda: Counting().eval(),
    "scripted": lambda: reloaded(Counting()),
    "program": lambda: program_of(Counting().eval(), torch.ones(2, 3)),
}


@pytest.mark.parametrize("form", COUNTERS)
def test_counting_model_starts_from_its_saved_state_whichever_way_is_taken(form, tmp_path, monkeypatch):
    taken = []
    request = ModelRequest(path=None, inputs=(InputRequest(name="x", dtype="float32", shape=(2, 3)),))
    given = () if form == "program" else request.inputs
    for number in range(12):
        ways = []

        def one_way(source, number=number, ways=ways):
            ways.extend(exporters(source)[number : number + 1])
            return ways

        with monkeypatch.context() as patch:
            patch.setattr(chain, "exporters", one_way)
            try:
                result = export_here(replace(request, inputs=given), tmp_path / str(number), module=COUNTERS[form]())
            except ModelError:
                continue  # this way is not for counters, or there is none
            except GateError:
                assert "torchscript" in ways[0].name  # PyTorch's exporter runs the model once more itself
                continue
        assert all(parity.passed for parity in result.parity)
        assert any("changes the model's own state" in note for note in result.notes)
        taken.append(ways[0].name)
    assert len(taken) >= 2, taken


def test_static_program_is_exported_without_talk_of_decisions(tmp_path):
    class Static(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.interpolate(x, scale_factor=1.7, mode="bilinear")

    program = program_of(Static().eval(), torch.ones(1, 2, 9, 11))
    source = make_source(program, [[np.random.default_rng(s).random((1, 2, 9, 11), np.float32)] for s in range(3)])
    source = replace(source, module=program)
    (way,) = [way for way in exporters(source) if way.name == "torch.jit.trace + torch.export"]
    with settled(0):
        assert way.produce(source, 20, tmp_path).graph.outputs


class Number(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x * 2, int(x.sum())


def test_number_beside_the_tensors_that_depends_on_the_input_is_refused(tmp_path):
    samples = [[np.ones((2, 3), np.float32) * n] for n in (1, 2, 3)]
    with pytest.raises(ModelError, match="depends on the input") as caught:
        export(make_source(reloaded(Number()), samples), tmp_path)
    assert "return such numbers as tensors" in str(caught.value)
