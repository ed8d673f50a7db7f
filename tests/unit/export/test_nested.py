"""nn.TransformerEncoder with PyTorch's defaults: what its fast path does with padding is what the exported graph does."""

import numpy as np
import onnxruntime
import pytest
import torch
from export_sources import make_source
from models_attention import PaddedEncoder, padded
from torch import nn

from edgebuild.export.local import settled
from edgebuild.export.rewrites import nested
from edgebuild.export.stage import export_source
from edgebuild.model.request import ModelRequest

LENGTHS = np.stack([np.arange(7) >= n for n in (7, 3)])
MASKS = {
    "suffix": LENGTHS,
    "nothing": np.zeros((2, 7), dtype=bool),
    "a whole row": np.stack([np.arange(7) >= n for n in (0, 5)]),
    "prefix": LENGTHS[:, ::-1].copy(),
    "holes": np.array([[0, 1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 1, 1, 1]], dtype=bool),
}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("form", ["traced", "scripted", "module"])
def test_every_mask_gives_what_eager_gives_also_at_padded_places(form, norm, tmp_path):
    rng = np.random.default_rng(5)
    samples = [padded(rng, 0) for _ in range(3)]
    torch.manual_seed(0)
    original = PaddedEncoder(norm).eval()
    with torch.no_grad():
        if form == "traced":
            original = torch.jit.trace(original, tuple(map(torch.from_numpy, samples[0])), check_trace=False)
        elif form == "scripted":
            original = torch.jit.script(original)
    with settled(0):
        result = export_source(make_source(original, samples), ModelRequest(path=None), tmp_path, lambda _: None)
    session = onnxruntime.InferenceSession(str(result.onnx))
    for name, mask in MASKS.items():
        x = rng.standard_normal((2, 7, 16)).astype(np.float32)
        with torch.no_grad():
            expected = original(torch.from_numpy(x), torch.from_numpy(mask)).numpy()
        (got,) = session.run(None, dict(zip(result.engine_inputs, (x, mask), strict=True)))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=name)
        if name == "suffix" and not norm:
            assert not expected[1, 3:].any(), "the test means something only if eager zeroes"


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
def test_alignment_is_pytorchs_own(mask):
    seen = torch.from_numpy(~mask)
    expected = torch._nested_tensor_from_mask_left_aligned(torch.zeros(2, 7, 4), seen)
    assert bool(nested.left_aligned(seen)) is expected


def test_what_is_written_out_is_put_back_also_after_an_error():
    def fail():
        with nested.written_out():
            assert nn.TransformerEncoder.forward is not before[0]
            message = "inside"
            raise RuntimeError(message)

    before = nn.TransformerEncoder.forward, torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert (nn.TransformerEncoder.forward, torch.backends.mha.get_fastpath_enabled()) == before
