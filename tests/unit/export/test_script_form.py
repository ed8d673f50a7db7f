"""The TorchScript form: what the original computes, whatever its code decides, in an archive with the same bytes anywhere."""

import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from export_sources import make_source

from edgebuild.errors import GateError, ModelError
from edgebuild.export import script_stage
from edgebuild.export.local import export_here, settled
from edgebuild.export.rundepth import measured_depths
from edgebuild.export.script import ScriptEngine, write_script
from edgebuild.export.stage import export_source
from edgebuild.model.request import ModelRequest
from edgebuild.model.source import ConstantArgument, NestedArgument, TensorArgument

pytestmark = pytest.mark.filterwarnings("ignore")


class Steps(torch.nn.Module):
    """As many steps as the input's values ask for, and a list that grows with them: ONNX has no form for it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        kept = [x.sum(0)]
        steps = 0
        while steps < 5 and float(x.abs().sum()) > 4.0:
            _, r = torch.linalg.qr(x)
            x = torch.tanh(self.layer(x))
            kept.append(r.abs().sum(0))
            steps += 1
        return {"last": x, "kept": torch.stack(kept).sum(0)}


class Scaled(torch.nn.Module):
    def forward(
        self,
        x: torch.Tensor,
        others: list[torch.Tensor],
        limits: tuple[float, float],
        add: bool = False,
        note: str = "",
    ) -> list[torch.Tensor]:
        y = x.clamp(limits[0], limits[1])
        for other in others:
            y = y + other if add else y - other
        return [y, y * float(len(note))]


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return x * self.seen


def draws(*shape: int, scales: tuple[float, ...] = (0.01, 1.0, 4.0)) -> list[list[np.ndarray[Any, Any]]]:
    return [
        [(np.random.default_rng(i).standard_normal(shape) * scale).astype(np.float32)] for i, scale in enumerate(scales)
    ]


def exported(module: Any, samples: Any, folder: Any, torchscript: str, **more: Any) -> Any:
    with settled(0):
        return export_source(
            make_source(module, samples, **more),
            ModelRequest(path=None, torchscript=torchscript),
            folder,
            lambda _: None,
        )


def test_a_model_that_onnx_cannot_express_is_exported_as_torchscript_and_says_why(tmp_path):
    torch.manual_seed(0)
    module = torch.jit.script(Steps().eval())
    result = exported(module, draws(3, 6), tmp_path, "fallback")
    assert result.opset is None
    assert not result.onnx.exists()
    assert any(note.startswith("no ONNX graph, so the model runs as TorchScript") for note in result.notes)
    assert all(attempt.error for attempt in result.attempts)
    assert {attempt.exporter for attempt in result.attempts} >= {"torch.export", "torchscript"}
    assert type(result).read(tmp_path) == result
    engine = ScriptEngine(tmp_path / "model.ts")
    for scale in (0.001, 0.3, 2.0, 30.0):  # none, some and all of the steps
        x = np.random.default_rng(9).standard_normal((3, 6)).astype(np.float32) * np.float32(scale)
        expected = module(torch.from_numpy(x))
        for got, wanted in zip(engine.run([x]), expected.values(), strict=True):
            np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="can't be exported to ONNX"):
        exported(module, draws(3, 6), tmp_path / "never", "never")


def test_beside_a_graph_both_forms_are_judged(tmp_path):
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).eval()
    result = exported(module, draws(2, 64), tmp_path, "also", dynamic={(0, 0): "batch"})
    assert result.opset is not None
    assert result.script.origin == "torch.jit.script"
    assert all(parity.passed for parity in (*result.parity, *result.script.parity))
    # Depth read from the graph and depth seen in a run: 64 + 64 products, and a bias or a ReLU here and there.
    assert result.script.tolerances["output"][1] == pytest.approx(result.tolerances["output"][1], rel=0.1)


@pytest.mark.parametrize(
    ("module", "shape", "length"),
    [
        (torch.nn.Conv2d(4, 6, 3, bias=False), (1, 4, 9, 9), 4 * 9),
        (torch.nn.Conv2d(6, 6, 3, groups=3, bias=False), (1, 6, 9, 9), 2 * 9),
        (torch.nn.ConvTranspose2d(4, 6, 3, bias=False), (1, 4, 9, 9), 4 * 9),
        (torch.nn.LayerNorm((5, 7)), (2, 5, 7), 35),
        (torch.nn.Softmax(-1), (3, 17), 17),
        (torch.nn.Flatten(), (2, 3, 4), 0),
        (torch.nn.AdaptiveAvgPool2d(1), (1, 3, 8, 8), 64),
        (torch.nn.Sigmoid(), (2, 3), 4),
    ],
)
def test_the_depth_of_an_operator_is_the_length_of_its_reduction(module, shape, length):
    with torch.no_grad():
        (depth,) = measured_depths(lambda: [module.eval()(torch.rand(shape))])
    assert (depth.operations, depth.dtype) == (length, "float32")


def test_a_loop_is_as_deep_as_the_steps_that_it_takes():
    weight = torch.rand(16, 16) / 16

    def run(steps: int) -> list[Any]:
        x = torch.rand(2, 16)
        for _ in range(steps):
            x = x @ weight
        return [x]

    assert [measured_depths(lambda n=n: run(n))[0].operations for n in (1, 3)] == [16, 48]


def test_half_precision_counts_a_reduction_once_and_has_its_own_roundoff():
    with torch.no_grad():
        (depth,) = measured_depths(lambda: [torch.rand(2, 64).half() @ torch.rand(64, 3).half()])
    assert (depth.operations, depth.dtype) == (1, "float16")


def test_only_torchscript_is_made_where_nothing_else_is_wanted(tmp_path):
    module = torch.nn.Linear(4, 3).eval()
    result = exported(module, draws(2, 4), tmp_path, "only")
    assert (result.opset, result.attempts, result.engine_outputs) == (None, (), ("0",))
    assert str(result.signature.outputs[0].type) == "float32[2,3]"  # no sizes that come from data


def test_constants_and_nested_arguments_are_bound_as_given(tmp_path):
    source = make_source(torch.jit.script(Scaled()), [[np.ones((2,), np.float32)] * 3], names=["x", "a", "b"])
    limits = NestedArgument(kind="tuple", items=(ConstantArgument(value=float("-inf")), ConstantArgument(value=0.5)))
    others = NestedArgument(kind="list", items=(TensorArgument(index=2), TensorArgument(index=1)))
    source = replace(
        source,
        args=(TensorArgument(index=0), others, limits),
        kwargs={"note": ConstantArgument(value='it\'s "7"\n'), "add": ConstantArgument(value=False)},
    )
    write_script(source, tmp_path / "model.ts")
    values = [np.array(v, np.float32) for v in ([-3.0, 7.0], [1.0, 2.0], [10.0, 20.0])]
    got = ScriptEngine(tmp_path / "model.ts").run(values)
    np.testing.assert_array_equal(got[0], np.array([-3.0 - 11.0, 0.5 - 22.0], np.float32))
    np.testing.assert_array_equal(got[1], got[0] * len('it\'s "7"\n'))


def test_the_archive_has_the_same_bytes_whatever_was_compiled_before(tmp_path):
    def write(name: str) -> bytes:
        torch.manual_seed(3)
        source = make_source(torch.jit.script(Steps().eval()), draws(3, 6))
        write_script(source, tmp_path / name)
        return (tmp_path / name).read_bytes()

    first = write("a.pt")
    torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)))
    assert write("b.ts") == first
    assert __file__.encode() not in first
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {"model"}
        assert not [name for name in archive.namelist() if "debug" in name or "mangle_1" in name]


@pytest.mark.parametrize("torchscript", ["only", "fallback"])
def test_a_module_that_keeps_state_has_a_sequence_of_steps(tmp_path, torchscript):
    module = torch.jit.script(Counting().eval())
    result = exported(module, draws(2), tmp_path, torchscript)
    assert result.keeps_state
    assert result.opset is None
    assert any("the model keeps state" in note for note in result.notes)
    assert result.sample_count == 4
    for number in range(4):
        with np.load(tmp_path / "samples" / f"{number}.npz") as step:
            np.testing.assert_array_equal(step["out.0"], step["in.0"] * np.float32(number + 1))


def test_a_state_that_no_output_depends_on_is_no_reason_to_leave_onnx(tmp_path):
    class Aside(Counting):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += 1
            return x * 2

    result = exported(torch.jit.script(Aside().eval()), draws(2), tmp_path, "fallback")
    assert (result.keeps_state, result.script) == (False, None)


def test_a_form_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    class Wrong(ScriptEngine):
        def run(self, values: Any) -> Any:
            return [array + 0.01 for array in super().run(values)]

    monkeypatch.setattr(script_stage, "ScriptEngine", Wrong)
    with pytest.raises(GateError, match="does not compute what the original computes"):
        exported(torch.nn.Linear(4, 3).eval(), draws(2, 4), tmp_path, "only")


def test_a_traced_decision_is_refused_not_frozen(tmp_path):
    class Deciding(torch.nn.Module):
        def forward(self, x: torch.Tensor, **ignored: Any) -> torch.Tensor:  # what torch.jit.script can't take
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match="tracing would keep one side of a decision"):
        exported(Deciding(), draws(2, 4), tmp_path, "only")


def test_an_onnx_file_has_no_torchscript_form(tmp_path):
    import onnx

    graph = onnx.parser.parse_graph("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="is ONNX, which LibTorch can't run"):
        export_here(ModelRequest(path=str(tmp_path / "m.onnx"), torchscript="only"), tmp_path / "out")
