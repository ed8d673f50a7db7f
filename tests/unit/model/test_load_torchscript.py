import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from model_zoo import ZOO, Counter, DigitsCnn, NeedsScalar, Noise, PooledCnn, Ranking, Scalars

from edgebuild.errors import ModelError, SignatureError, UsageError
from edgebuild.model.load import load
from edgebuild.model.request import DynamicRequest, InputRequest, ModelRequest
from edgebuild.model.source import ConstantArgument

CASES = [
    pytest.param(name, how, id=f"{name}-{how}")
    for name, (_, example, _) in ZOO.items()
    for how in ("trace", "script")
    if how == "script" or example is not None
]


def save(module: torch.nn.Module, path: Path, example=None) -> str:
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about what tracing is
        made = torch.jit.script(module) if example is None else torch.jit.trace(module, example, check_trace=False)
    made.save(str(path))
    return str(path)


@pytest.mark.parametrize(("name", "how"), CASES)
def test_inputs_are_inferred_and_samples_agree_with_the_original(name: str, how: str, tmp_path: Path) -> None:
    make, example, expected = ZOO[name]
    torch.manual_seed(0)
    module = make().eval()
    source = load(ModelRequest(path=save(module, tmp_path / "m.bin", example if how == "trace" else None)))
    found = {spec.name: str(spec.type) for spec in source.inputs}
    assert found == expected
    assert len(source.samples) >= 3
    announced = " ".join(source.assumptions)
    for input_name in expected:
        assert f"--input '{input_name}:" in announced
    for sample in source.samples:
        outputs, _ = source.reference(sample)
        again, _ = source.reference(sample)
        assert len(outputs) == len(source.output_names)
        for a, b in zip(outputs, again, strict=True):
            np.testing.assert_array_equal(a, b)
        if len(expected) == 1 and name != "scalars" and "xs" not in next(iter(expected)):
            (value,) = sample.values()
            with torch.no_grad():
                wanted = module(torch.from_numpy(value))
            wanted = wanted[0] if isinstance(wanted, tuple) else wanted
            np.testing.assert_allclose(outputs[0], wanted.numpy(), rtol=1e-3, atol=1e-4)


def test_dynamic_axes_are_sampled_at_two_sizes_each(tmp_path: Path) -> None:
    path = save(DigitsCnn(), tmp_path / "m.pt", torch.zeros(2, 1, 8, 8))
    dynamic = (DynamicRequest(input="x", axis=0, symbol="batch", minimum=1, best=4, maximum=9),)
    source = load(ModelRequest(path=path, dynamic=dynamic))
    assert str(source.inputs[0]) == "x:float32[batch,1,8,8]"
    sizes = {sample["x"].shape[0] for sample in source.samples}
    assert 4 in sizes
    assert len(sizes) >= 2
    assert all(1 <= size <= 9 for size in sizes)


def test_a_dynamic_axis_that_the_model_refuses_is_an_error_with_its_sizes(tmp_path: Path) -> None:
    path = save(DigitsCnn(), tmp_path / "m.pt", torch.zeros(2, 1, 8, 8))
    with pytest.raises(SignatureError, match="refuses x:float32"):
        load(ModelRequest(path=path, dynamic=(DynamicRequest(input="x", axis=-1, symbol="w", minimum=4, maximum=99),)))


def test_integers_stay_inside_the_embedding(tmp_path: Path) -> None:
    make, example, _ = ZOO["masked"]
    source = load(ModelRequest(path=save(make(), tmp_path / "m.pt", example)))
    for sample in source.samples:
        assert sample["ids"].min() >= 0
        assert sample["ids"].max() < 50
        assert set(np.unique(sample["mask"])) <= {0, 1}
        assert (sample["mask"][:, 0] == 1).all()


def test_lengths_fit_the_sequence_and_are_sorted(tmp_path: Path) -> None:
    make, _, _ = ZOO["packed"]
    inputs = (
        InputRequest(name="tokens", dtype="int64", shape=(5, 7)),
        InputRequest(name="lengths", dtype="int64", shape=(5,)),
    )
    source = load(ModelRequest(path=save(make(), tmp_path / "m.pt"), inputs=inputs))
    for sample in source.samples:
        lengths = sample["lengths"]
        assert lengths.max() == 7
        assert lengths.min() >= 1
        assert (np.diff(lengths) <= 0).all()


def test_scalars_are_bound_and_defaults_are_said(tmp_path: Path) -> None:
    path = save(Scalars(), tmp_path / "m.pt")
    source = load(ModelRequest(path=path, arguments={"scale": 3, "flag": False}))
    assert source.args[1] == ConstantArgument(value=3.0)
    assert source.args[2] == ConstantArgument(value=False)
    assert any("--arg n=VALUE" in text for text in source.assumptions)
    with_bias = load(ModelRequest(path=path, inputs=(InputRequest(name="bias", dtype="float32", shape=(5,)),)))
    assert [spec.name for spec in with_bias.inputs] == ["x", "bias"]
    with pytest.raises(UsageError, match="expected int, got float"):
        load(ModelRequest(path=path, arguments={"n": 0.5}))


def test_a_scalar_without_default_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--arg sr=1"):
        load(ModelRequest(path=save(NeedsScalar(), tmp_path / "m.pt")))


def test_inputs_that_nothing_is_known_about_ask_for_the_flag(tmp_path: Path) -> None:
    path = save(NeedsScalar(), tmp_path / "m.pt")
    with pytest.raises(ModelError, match="--input 'x:float32"):
        load(ModelRequest(path=path, arguments={"sr": 2}))


def test_a_wrong_input_name_gets_the_nearest_one(tmp_path: Path) -> None:
    path = save(DigitsCnn(), tmp_path / "m.pt")
    with pytest.raises(UsageError, match=r"no tensor input 'xx' \(did you mean 'x'\?\)"):
        load(ModelRequest(path=path, inputs=(InputRequest(name="xx", dtype="float32", shape=(1, 1, 8, 8)),)))


@pytest.mark.parametrize(("dtype", "shape"), [("float32", (1, 2, 8, 8)), ("int64", (1, 1, 8, 8)), ("float32", (1, 8))])
def test_inputs_that_the_model_refuses_are_an_error(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = save(DigitsCnn(), tmp_path / "m.pt")
    with pytest.raises(SignatureError, match="refuses"):
        load(ModelRequest(path=path, inputs=(InputRequest(name=None, dtype=dtype, shape=shape),)))


def test_training_mode_is_undone_in_traced_and_scripted_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = PooledCnn()
    example = torch.randn(4, 3, 16, 16)
    for _ in range(3):
        module(example)
    saved = {k: v.clone() for k, v in module.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about what tracing is
        traced = torch.jit.trace(module, example, check_trace=False)
    for name, made in (("script", torch.jit.script(module)), ("trace", traced)):
        made.load_state_dict(saved)
        made.save(str(tmp_path / f"{name}.pt"))
    module.load_state_dict(saved)
    module.eval()
    for name in ("script", "trace"):
        inputs = (InputRequest(name=None, dtype="float32", shape=(2, 3, 16, 16)),)
        source = load(ModelRequest(path=str(tmp_path / f"{name}.pt"), inputs=inputs))
        assert any("training mode" in note for note in source.notes)
        sample = source.samples[0]
        (output,), _ = source.reference(sample)
        with torch.no_grad():
            expected = module(torch.from_numpy(sample[source.inputs[0].name])).numpy()
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_devices_written_into_the_code_become_the_cpu(tmp_path: Path) -> None:
    class Moves(torch.nn.Module):
        def forward(self, x: torch.Tensor):
            return x.to(torch.device("cpu")) + torch.ones(3, device=torch.device("cpu"))

    traced = torch.jit.trace(Moves(), torch.zeros(2, 3))
    traced.save(str(tmp_path / "cpu.pt"))
    changed = 0
    with zipfile.ZipFile(tmp_path / "cpu.pt") as old, zipfile.ZipFile(tmp_path / "cuda.pt", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith(".py"):
                changed += data.count(b'torch.device("cpu")')
                data = data.replace(b'torch.device("cpu")', b'torch.device("cuda:0")')
            new.writestr(info.filename, data)
    assert changed > 0
    inputs = (InputRequest(name=None, dtype="float32", shape=(2, 3)),)
    source = load(ModelRequest(path=str(tmp_path / "cuda.pt"), inputs=inputs))
    assert any("device cuda" in note for note in source.notes)
    (output,), _ = source.reference(source.samples[0])
    np.testing.assert_allclose(output, source.samples[0]["x"] + 1)


def test_random_stateful_and_ranking_models_are_explained(tmp_path: Path) -> None:
    noise = load(ModelRequest(path=save(Noise(), tmp_path / "noise.pt")))
    assert any("random" in note and "randn_like" in note for note in noise.notes)
    counter = load(ModelRequest(path=save(Counter(), tmp_path / "counter.pt")))
    assert any("own state (h)" in note for note in counter.notes)
    ranking = load(ModelRequest(path=save(Ranking(), tmp_path / "ranking.pt")))
    assert any("topk" in note and "output_1" in note for note in ranking.notes)
    plain = load(ModelRequest(path=save(DigitsCnn(), tmp_path / "plain.pt")))
    assert plain.notes == ()


def test_samples_of_the_user_come_first_and_give_types(tmp_path: Path) -> None:
    path = save(DigitsCnn(), tmp_path / "m.pt")
    array = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=array)
    source = load(ModelRequest(path=path, samples=(str(tmp_path / "in.npz"),)))
    assert str(source.inputs[0]) == "x:float32[3,1,8,8]"
    np.testing.assert_array_equal(source.samples[0]["x"], array)
    assert len(source.samples) >= 3


class Writing(torch.nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.ops.aten.save(x, self.path)
        return x.relu()


class Mapping(torch.nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file(self.path, True, 3)


@pytest.mark.parametrize(
    ("module", "said"), [(Writing, r"writes files .*aten::save in code/"), (Mapping, r"opens files .*aten::from_file")]
)
def test_torchscript_that_works_on_files_is_refused_before_it_runs(module: type, said: str, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    path = save(module(str(evidence)), tmp_path / "m.pt")
    inputs = (InputRequest(name="x", dtype="float32", shape=(3,)),)
    with pytest.raises(ModelError, match=said) as caught:
        load(ModelRequest(path=path, inputs=inputs))
    assert "--trust-model" in str(caught.value)
    assert not evidence.exists()
    assert load(ModelRequest(path=path, inputs=inputs, trust=True)).name == "m"


def changed(path: str, change: dict[str, tuple[bytes, bytes]]) -> str:
    """The archive with bytes replaced in the members whose names end so."""
    other = f"{path}.changed"
    hits = 0
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            for end, (before, after) in change.items():
                if info.filename.endswith(end):
                    hits += before in data
                    data = data.replace(before, after)
            new.writestr(info.filename, data)
    assert hits == len(change)
    return other


def test_what_this_pytorch_can_not_load_is_said_in_one_line(tmp_path: Path) -> None:
    path = save(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Sigmoid()), tmp_path / "m.pt", torch.zeros(1, 3))
    with zipfile.ZipFile(path) as archive:
        version = archive.read(next(name for name in archive.namelist() if name.endswith("/version")))
    cases = {
        changed(path, {"/version": (version, b"99\n")}): "version 99, but the maximum supported version",
        changed(
            path, {"activation.py": (b"torch.sigmoid", b"ops.nowhere.sigmoid")}
        ): "Unknown builtin op: nowhere::sigmoid",
    }
    for file, said in cases.items():
        with pytest.raises(ModelError, match="can't load") as caught:
            load(ModelRequest(path=file))
        assert said in caught.value.message
        assert "\n" not in caught.value.message
