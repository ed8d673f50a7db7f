"""The other inputs: ONNX files, torch.export programs, float16, a top-k with a near-tie, failures that name operator and line."""

import math

import numpy as np
import onnx
import pytest
import torch
from export_sources import make_source

from edgebuild.errors import GateError, ModelError
from edgebuild.export.local import export_here, settled
from edgebuild.export.stage import export_source
from edgebuild.model.request import ModelRequest


def exported(module, samples, tmp_path, *, request=None, **more):
    with settled(0):
        return export_source(
            make_source(module, samples, **more), request or ModelRequest(path=None), tmp_path, lambda _: None
        )


def draw(*shape, count=3, dtype=np.float32):
    return [[np.random.default_rng(seed).standard_normal(shape).astype(dtype)] for seed in range(count)]


def test_onnx_file_is_taken_over_with_its_own_names(tmp_path):
    w = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["features", "w"], ["logits"], doc_string="/home/me/x.py")],
        "g",
        [onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, [2, 4])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [2, 3])],
        [w],
    )
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), path)
    result = export_here(ModelRequest(path=str(path)), tmp_path / "out")
    assert (result.exporter, result.opset) == ("onnx", 13)
    assert (result.engine_inputs, result.engine_outputs) == (("features",), ("logits",))
    assert [spec.name for spec in result.signature.outputs] == ["logits"]
    assert b"/home/me" not in result.onnx.read_bytes()


def test_exported_program_keeps_its_dynamic_axis(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(-1)).eval()
    program = torch.export.export(
        module, (torch.rand(3, 4),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    )
    samples = [[np.random.default_rng(0).random((size, 4), dtype=np.float32)] for size in (3, 3, 5)]
    result = exported(program, samples, tmp_path, dynamic={(0, 0): "batch"})
    assert str(result.signature.outputs[0].type) == "float32[batch,3]"
    shape = onnx.load(result.onnx).graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_param == "batch"


def test_float16_model_gets_a_float16_tolerance(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).half().eval()
    result = exported(module, draw(2, 16, dtype=np.float16), tmp_path)
    (_, rtol) = result.tolerances["output"]
    assert 1e-3 < rtol <= 0.1


def test_opset_stays_within_what_the_target_takes(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Hardswish()).eval()
    for opset in (13, 18):
        result = exported(module, draw(1, 1, 6, 6), tmp_path, request=ModelRequest(path=None, opset_max=opset))
        assert result.opset <= opset


def test_random_model_is_refused_with_the_reason(tmp_path):
    class Noisy(torch.nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    with pytest.raises(GateError, match="random"):
        exported(Noisy(), draw(2, 3), tmp_path)


def test_wrong_numbers_stop_the_build_and_name_output_and_index(tmp_path):
    class Frozen(torch.nn.Module):
        """A trace freezes the factor: the graph is right for the sample it was traced with, and wrong for others."""

        def forward(self, x):
            return x * math.fsum(x.flatten().tolist()[:1])

    with pytest.raises(GateError, match=r"output output\[\d,\d\]: expected .* got .*over the tolerance") as caught:
        exported(Frozen(), _beside(draw(2, 3)), tmp_path)
    # A difference of this size is no rounding: a wider tolerance would hide a wrong graph.
    assert "--parity-tol" not in str(caught.value)
    assert not (tmp_path / "exported.json").exists()


def _beside(samples):
    return [[sample[0] * (number + 1)] for number, sample in enumerate(samples)]


def test_missing_operator_is_named_with_the_line_of_the_model(tmp_path):
    class Hard(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    with pytest.raises(ModelError, match=r"svd") as caught:
        exported(torch.jit.trace(Hard(), torch.rand(3, 3)), draw(3, 3), tmp_path)
    assert "tried torch.export" in caught.value.message
    assert caught.value.hint


def test_random_model_is_refused_although_its_reference_sets_the_seed(tmp_path):
    import dataclasses

    class Noisy(torch.nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    source = make_source(Noisy(), draw(2, 3))

    def seeded(inputs):
        torch.manual_seed(0)
        return source.reference(inputs)

    with settled(0), pytest.raises(GateError, match="random"):
        export_source(dataclasses.replace(source, reference=seeded), ModelRequest(path=None), tmp_path, lambda _: None)


def test_element_type_without_kernel_is_explained(tmp_path):
    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4).bfloat16()

        def forward(self, x):
            return self.linear(x.to(torch.bfloat16)).float()

    with pytest.raises(ModelError, match="no CPU kernel of Gemm") as caught:
        exported(Half().eval(), draw(2, 4), tmp_path)
    assert "float32" in caught.value.hint
