"""Axes that take only multiples of a step: found by trying, or given; in samples, signature, export and manifest."""

import io

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgebuild.bundle.manifest import Manifest
from edgebuild.errors import SignatureError, UsageError
from edgebuild.export.local import export_here
from edgebuild.model.load import load
from edgebuild.model.request import DynamicRequest, InputRequest, ModelRequest
from edgebuild.model.samples import other_size
from edgebuild.model.signature import Signature, SymbolRange


class UNet(nn.Module):
    """Halves and doubles its input twice: concatenation fits for multiples of 4 only."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(4, 4, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)])
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.max_pool2d(self.down[0](x), 2)
        second = torch.max_pool2d(self.down[1](first), 2)
        up = torch.cat([self.up[0](second), first], 1)
        return self.out(torch.cat([self.up[1](up), x], 1))


def request(*dynamic: DynamicRequest) -> ModelRequest:
    return ModelRequest(
        path=None, inputs=(InputRequest(name="x", dtype="float32", shape=(1, 2, 16, 32)),), dynamic=dynamic
    )


def axis(number: int, symbol: str, *span: int | None) -> DynamicRequest:
    low, best, high, step = span
    return DynamicRequest(input="x", axis=number, symbol=symbol, minimum=low, best=best, maximum=high, step=step)


@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_a_network_that_halves_and_doubles_is_exported_for_every_multiple(given, script, tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    module = torch.jit.script(UNet().eval()) if script else UNet().eval()
    step = 4 if given else None
    asked = request(axis(2, "h", 8, 16, 40, step), axis(3, "w", 8, 32, 64, step))
    result = export_here(asked, tmp_path, module=module)
    assert result.signature.symbols["h"] == SymbolRange(minimum=8, best=16, maximum=40, step=4)
    assert result.signature.symbols["w"] == SymbolRange(minimum=8, best=32, maximum=64, step=4)
    assert any("multiples of 4" in text for text in result.assumptions) is not given
    session = onnxruntime.InferenceSession(str(result.onnx))
    for height, width in ((8, 8), (12, 36), (40, 64), (20, 44)):
        x = np.random.default_rng(height).standard_normal((1, 2, height, width)).astype(np.float32)
        with torch.no_grad():
            expected = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(session.run(None, {result.engine_inputs[0]: x})[0], expected, rtol=1e-4, atol=1e-5)


def test_sizes_that_no_step_explains_are_refused_with_the_way_to_give_one():
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.ones(32, 3)

    with pytest.raises(SignatureError, match="refuses") as caught:
        load(request(axis(3, "w", 8, 32, 64, None)), module=Square().eval())
    assert "128/16" in str(caught.value.hint)


def test_a_given_step_that_does_not_divide_the_size_is_a_usage_error():
    with pytest.raises(UsageError, match="multiples of 24, got 16"):
        load(request(axis(2, "h", None, None, None, 24)), module=UNet().eval())


def test_a_model_that_takes_any_size_gets_no_step():
    class Any(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) * 2

    source = load(request(axis(2, "h", 8, 16, 40, None)), module=Any().eval())
    assert source.symbols["h"].step == 1


@pytest.mark.parametrize("span", [(8, 16, 40, 4), (1, 64, None, 16), (0, 0, 0, 2), (16, 16, 16, 16), (32, 64, 128, 32)])
def test_the_other_size_is_a_multiple_in_the_range_and_odd_if_it_can(span):
    low, best, high, step = span
    size = other_size(SymbolRange(minimum=low, best=best, maximum=high, step=step))
    assert size % step == 0
    assert low <= size
    assert high is None or size <= high
    assert size == best or (size // step) % 2 or high == 128


def test_a_step_in_a_torch_export_program_is_kept():
    h = torch.export.Dim("h", min=2, max=10)
    program = torch.export.export(UNet().eval(), (torch.zeros(1, 2, 16, 32),), dynamic_shapes=({2: 4 * h},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    source = load(ModelRequest(path=None), module=torch.export.load(buffer))
    ((name, span),) = source.symbols.items()
    assert span == SymbolRange(minimum=8, best=16, maximum=40, step=4)
    assert source.inputs[0].type.shape == (1, 2, name, 32)


def test_the_signature_carries_a_step_and_says_nothing_of_a_step_of_one():
    for step in (1, 16):
        span = SymbolRange(minimum=32, best=64, maximum=None, step=step)
        assert ("step" in span.to_json()) is (step > 1)
        signature = Signature(inputs=(), outputs=(), symbols={"h": span})
        assert Signature.from_json(signature.to_json()).symbols["h"] == span
    assert Manifest.__dataclass_fields__["minor"].default == 0
