"""Models that ONNX can't express, the whole way: a thin bundle with LibTorch's plugin, run by edgerun and in Python beside torch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build_models import Growing, Remembering

from edgebuild import Bundle
from edgebuild.errors import EdgebuildError
from edgebuild.machine import machine_arch, this_machine
from edgebuild.native.libtorch import require_torch
from edgebuild.native.plugin import find_compilers
from edgebuild.targets import load_target

ROOT = Path(__file__).parents[2]
EDGERUN = Path(os.environ.get("EDGEBUILD_TEST_EDGERUN", ROOT / "build/dev/cpp/apps/edgerun/edgerun"))
DRIVER = Path(__file__).with_name("build_driver.py")
IN_PYTHON = """
import json, sys
import numpy as np
when, bundle, engines, cache, folder = sys.argv[1:]
if when == "before":
    import torch
if when == "another version":
    import edgebuild.runtime
    edgebuild.runtime.find_torch = lambda: type("Other", (), {"library_folder": "/nowhere", "version": "2.12.1+cpu"})
if when == "not installed":
    import edgebuild.runtime
    edgebuild.runtime.find_torch = lambda: None
from edgebuild import Runner
from edgebuild.errors import IncompatibleError
try:
    runner = Runner(bundle, runtime_path=engines, cache_dir=cache)
except IncompatibleError as error:
    print(json.dumps({"refused": str(error)}))
    sys.exit(0)
if when == "after":
    import torch
with np.load(folder + "/x.npz") as given:
    out = runner.run(dict(given))
maps = {line.split()[-1] for line in open("/proc/self/maps") if "libtorch_cpu" in line}
np.savez(folder + "/" + when + ".npz", **out)
print(json.dumps({"version": runner.engine_version, "libraries": sorted(maps), "torch": "torch" in sys.modules}))
"""

BOTH = """
import json, os, sys
import numpy as np
from edgebuild import Runner
bundle, engines, cache = sys.argv[1:]
inputs = {"input": np.random.default_rng(2).standard_normal((64, 256)).astype(np.float32)}
runners, added, results = {}, {}, []
def threads(): return len(os.listdir("/proc/self/task"))
for backend, count in (("onnxruntime", 1), ("libtorch", 1), ("onnxruntime", 3), ("libtorch", 4)):
    before = threads()
    runner = Runner(bundle, backend=backend, options={"intra_op_threads": count}, runtime_path=engines, cache_dir=cache)
    runners[f"{backend} {count}"] = runner
    runner.run(inputs)
    added[f"{backend} {count}"] = threads() - before
before = threads()
for _ in range(20):
    for runner in runners.values():
        results.append(next(iter(runner.run(inputs).values())))
added["in turn"] = threads() - before
print(json.dumps({"added": added, "spread": float(np.ptp(results, axis=0).max()), "variants": [r.variant for r in runners.values()]}))
"""


def _lacking() -> str:
    """What a bundle with LibTorch needs and this machine lacks; empty: nothing."""
    target = load_target("x86-64")
    try:
        find_compilers(target)
        require_torch(target.backend("libtorch").version, target.soc.arch)
    except EdgebuildError as error:
        return str(error)
    return "" if machine_arch() == target.soc.arch else f"this machine is {machine_arch()}"


pytestmark = [
    pytest.mark.skipif(not EDGERUN.exists(), reason=f"{EDGERUN} is not built"),
    pytest.mark.skipif(bool(_lacking()), reason=_lacking()),
    pytest.mark.filterwarnings("ignore"),
]


class Built:
    """A folder with bundles of two models, made with one compiled plugin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(self.cache),
            "XDG_STATE_HOME": str(folder / "state"),
            "EDGEBUILD_TEST_EDGERUN": str(EDGERUN),
            "NO_COLOR": "1",
        }

    def save(self, name: str, module: torch.nn.Module) -> torch.nn.Module:
        script = torch.jit.script(module.eval())
        torch.jit.save(script, self.folder / f"{name}.pt")
        return script

    def edgebuild(self, *arguments: object, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, DRIVER, *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    @property
    def engines(self) -> str:
        (library,) = self.cache.glob("edgebuild/engines/*/libtorch_cpu.so")
        return str(library.parent)

    @property
    def both_engines(self) -> str:
        (library,) = self.cache.glob("edgebuild/engines/*/libonnxruntime.so.1")
        return f"{library.parent}:{self.engines}"

    def python(self, when: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", IN_PYTHON, when, "growing.x86-64.edge", self.engines, str(self.cache / "u"), "."],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("torchscript"))


@pytest.fixture(scope="module")
def growing(built: Built) -> dict[str, Any]:
    torch.manual_seed(5)
    built.save("growing", Growing())
    report: dict[str, Any] = json.loads(
        built.edgebuild("--target", "x86-64", "growing.pt", "--input", "x:float32[3,6]", "--thin", "--json")
    )
    return report


def test_control_flow_that_onnx_has_no_form_for_is_built_proved_and_told(built: Built, growing: dict[str, Any]) -> None:
    assert growing["opset"] is None
    assert any(note.startswith("no ONNX graph, so the model runs as TorchScript") for note in growing["notes"])
    (variant,) = growing["variants"]
    assert (variant["name"], variant["proof"]) == ("libtorch-float32", "native")
    assert all(check["passed"] for check in variant["checks"])
    bundle = Bundle.open(built.folder / "growing.x86-64.edge")
    (packed,) = bundle.manifest.variants
    assert packed.plugin == "lib/libedgebuild_libtorch.so"
    assert packed.engine is not None
    assert [library.file for library in packed.engine.needed] == ["libgomp.so.1", "libc10.so"]  # type: ignore[union-attr]
    data = (built.folder / "growing.x86-64.edge").read_bytes()
    assert str(ROOT).encode() not in data
    assert str(Path(torch.__file__).parent).encode() not in data


def test_the_runner_takes_the_side_that_each_input_asks_for(built: Built, growing: dict[str, Any]) -> None:
    module = torch.jit.load(built.folder / "growing.pt")
    for number, scale in enumerate((0.01, 1.0, 8.0)):
        x = (np.random.default_rng(number).standard_normal((3, 6)) * scale).astype(np.float32)
        np.savez(built.folder / "x.npz", x=x)
        built.edgebuild(
            *("run", "growing.x86-64.edge", "--inputs", "x.npz", "--outputs", "out.npz"),
            EDGEBUILD_RUNTIME_PATH=built.engines,
        )
        with np.load(built.folder / "out.npz") as out:
            for name, expected in module(torch.from_numpy(x)).items():
                np.testing.assert_allclose(out[name], expected.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("when", ["never", "before", "after", "not installed"])
def test_in_python_it_runs_whenever_torch_is_imported(built: Built, growing: dict[str, Any], when: str) -> None:
    x = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    np.savez(built.folder / "x.npz", x=x)
    answer = built.python(when)
    # Torch's own library where it is installed, else the one that EDGEBUILD_RUNTIME_PATH would name.
    home = Path(built.engines) if when == "not installed" else Path(torch.__file__).parent / "lib"
    assert answer["libraries"] == [str(home / "libtorch_cpu.so")]
    assert answer["version"] == torch.__version__.partition("+")[0]
    assert answer["torch"] == (when in ("before", "after"))
    with np.load(built.folder / f"{when}.npz") as out:
        for name, expected in torch.jit.load(built.folder / "growing.pt")(torch.from_numpy(x)).items():
            np.testing.assert_allclose(out[name], expected.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_in_python_beside_another_version_of_torch_the_bundle_is_refused_naming_both(
    built: Built, growing: dict[str, Any]
) -> None:
    refused = built.python("another version")["refused"]
    assert "2.12.1+cpu" in refused
    assert f"libtorch {torch.__version__.partition('+')[0]}" in refused


def test_a_model_that_keeps_state_goes_on_from_step_to_step_and_is_put_back(
    built: Built, growing: dict[str, Any]
) -> None:
    module = built.save("remembering", Remembering())
    report = json.loads(
        built.edgebuild("--target", "x86-64", "remembering.pt", "--input", "x:float32[2,4]", "--thin", "--json")
    )
    assert any("the model keeps state" in note for note in report["notes"])
    assert (
        "runner" in report["cached"] or report["seconds"]["runner"] < 20
    )  # the plugin was compiled for the other model
    bundle = Bundle.open(built.folder / "remembering.x86-64.edge")
    assert bundle.manifest.required_features == ("state",)
    code = (
        "import sys, numpy as np; from edgebuild import Runner\n"
        "r = Runner('remembering.x86-64.edge', runtime_path=sys.argv[1], cache_dir=sys.argv[2]); assert r.keeps_state\n"
        "steps = [r.run({'x': np.full((2, 4), i + 1, np.float32)}) for i in range(3)]; r.reset()\n"
        "steps.append(r.run({'x': np.full((2, 4), 1, np.float32)}))\n"
        "np.save('steps.npy', np.stack([next(iter(s.values())) for s in steps]))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, built.engines, str(built.cache / "u")], cwd=built.folder, check=True, timeout=120
    )
    steps = np.load(built.folder / "steps.npy")
    for number in range(3):
        expected = module(torch.full((2, 4), float(number + 1))).detach().numpy()
        np.testing.assert_allclose(steps[number], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(steps[3], steps[0])


def test_without_a_compiler_the_build_ends_with_one_line_and_exit_code_10(
    built: Built, growing: dict[str, Any]
) -> None:
    tools = built.folder / "bin"
    tools.mkdir()
    said = built.edgebuild(
        *("--target", "x86-64", "growing.pt", "--input", "x:float32[3,6]", "--thin"), code=10, PATH=str(tools)
    )
    assert "LibTorch's plugin needs a C++ compiler with libstdc++" in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def two(built: Built, growing: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(6)
    layers = [torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512)]
    built.save("two", torch.nn.Sequential(*layers))
    report: dict[str, Any] = json.loads(
        built.edgebuild(
            *("--target", "x86-64", "two.pt", "--input", "input:float32[64,256]", "--thin", "--json"),
            *("--backend", "onnxruntime", "--backend", "libtorch"),
        )
    )
    return report


def test_two_engines_ship_in_the_order_that_was_measured_and_that_is_a_decision(
    built: Built, two: dict[str, Any]
) -> None:
    names = [variant["name"] for variant in two["variants"]]
    assert sorted(names) == ["libtorch-float32", "onnxruntime-float32"]
    assert [(v["proof"], v["speed"]) for v in two["variants"]] == [("native", "measured")] * 2
    decisions = json.loads((built.folder / "two.x86-64.decisions.json").read_text())
    assert decisions["order"] == names
    told = [note for note in two["notes"] if "measured beside each other" in note]
    assert bool(told) == (names[0] == "libtorch-float32")
    other = built.folder / "other.json"
    other.write_text(json.dumps({**decisions, "order": names[::-1]}))
    replayed = json.loads(
        built.edgebuild(
            *("--target", "x86-64", "two.pt", "--input", "input:float32[64,256]", "--thin", "--json"),
            *("--backend", "onnxruntime", "--backend", "libtorch", "--decisions", "other.json", "-o", "other.edge"),
        )
    )
    assert [variant["name"] for variant in replayed["variants"]] == names[::-1]


def test_with_both_engines_loaded_each_variant_keeps_its_own_number_of_threads(
    built: Built, two: dict[str, Any]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOTH, "two.x86-64.edge", built.both_engines, str(built.cache / "u")],
        cwd=built.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    # The caller's own thread works too. ONNX Runtime has a pool for each session; LibTorch's threads are the caller's, for all models.
    assert answer["added"] == {
        "onnxruntime 1": 0,
        "libtorch 1": 0,
        "onnxruntime 3": 2,
        "libtorch 4": 3,
        "in turn": 0,
    }
    assert answer["variants"] == ["onnxruntime-float32", "libtorch-float32"] * 2
    assert answer["spread"] < 1e-4


def test_for_this_machine_the_model_is_compiled_too_and_runs_at_every_size(built: Built, two: dict[str, Any]) -> None:
    report = json.loads(
        built.edgebuild(
            *("--target", "host", "two.pt", "--input", "input:float32[64,256]", "--dynamic", "input:0=rows[2..64..80]"),
            *("--thin", "--json", "--backend", "libtorch", "-o", "compiled.edge"),
        )
    )
    assert {v["name"]: v["proof"] for v in report["variants"]} == {
        "libtorch-float32": "native",
        "libtorch-float32-compiled": "native",
    }
    decisions = json.loads((built.folder / "compiled.decisions.json").read_text())
    assert decisions["order"] == [variant["name"] for variant in report["variants"]]
    bundle = Bundle.open(built.folder / "compiled.edge")
    compiled = next(v for v in bundle.manifest.variants if v.name.endswith("compiled"))
    assert compiled.model == "model/libtorch-float32-compiled.so"
    assert set(compiled.requires.cpu_features) >= set(this_machine().features)
    data = (built.folder / "compiled.edge").read_bytes()
    for path in (ROOT, Path(torch.__file__).parent, built.folder):
        assert str(path).encode() not in data
    code = (
        "import sys, numpy as np; from edgebuild import Runner\n"
        "r = Runner('compiled.edge', variant='libtorch-float32-compiled', runtime_path=sys.argv[1], cache_dir=sys.argv[2])\n"
        "assert 'memfd:edgebuild-compiled' in open('/proc/self/maps').read()\n"
        "with np.load('sizes.npz') as x: out = {name: r.run({'input': x[name]})['output'] for name in x}\n"
        "np.savez('compiled.npz', **out)\n"
    )
    random = np.random.default_rng(8)
    inputs = {str(rows): random.standard_normal((rows, 256)).astype(np.float32) for rows in (2, 33, 64, 80)}
    np.savez(built.folder / "sizes.npz", **inputs)
    subprocess.run(
        [sys.executable, "-c", code, built.engines, str(built.cache / "u")], cwd=built.folder, check=True, timeout=120
    )
    module = torch.jit.load(built.folder / "two.pt")
    with np.load(built.folder / "compiled.npz") as out:
        for name, x in inputs.items():
            expected = module(torch.from_numpy(x)).detach().numpy()
            np.testing.assert_allclose(out[name], expected, rtol=1e-4, atol=1e-5)
