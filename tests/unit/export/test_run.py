"""The worker process: results, errors, deadlines, crashes, noise, and what is left behind."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgebuild.errors import CalibrationError, DeadlineError, EdgebuildError, ModelError, ToolError, UsageError
from edgebuild.export.run import export_model
from edgebuild.model.request import DataRequest, InputRequest, ModelRequest

FACTORY = """
import os, signal, sys, time, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3)
    def forward(self, x):
        return self.conv(x).relu().mean((2, 3))
def good():
    print("chatter on stdout"); print("chatter on stderr", file=sys.stderr)
    return Net()
def crash():
    os.kill(os.getpid(), signal.SIGSEGV)
def leave():
    os._exit(3)
def endless():
    if os.fork() == 0:
        time.sleep(1000)
    while True:
        time.sleep(0.1)
def broken():
    raise ValueError("no weights today")
"""


@pytest.fixture
def factories(tmp_path):
    (tmp_path / "my_factories.py").write_text(FACTORY)
    return tmp_path


def request(folder: Path, name: str) -> ModelRequest:
    return ModelRequest(
        path=None,
        factory=f"my_factories:{name}",
        search_path=(str(folder),),
        inputs=(InputRequest(name="x", dtype="float32", shape=(1, 3, 8, 8)),),
    )


def test_scripted_file_becomes_a_folder_with_graph_samples_and_report(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()).eval()).save(str(path))
    steps = []
    given = (InputRequest(name=None, dtype="float32", shape=(2, 4)),)
    result = export_model(ModelRequest(path=str(path), inputs=given), tmp_path / "out", progress=steps.append)
    assert result.onnx.is_file()
    assert all(p.passed for p in result.parity)
    assert result.sample_count >= 3
    assert result.original_latency_ms > 0
    assert any("parity" in step for step in steps)
    module = torch.jit.load(str(path))
    for number in range(result.sample_count):
        data = np.load(result.directory / "samples" / f"{number}.npz")
        with torch.no_grad():
            np.testing.assert_allclose(
                module(torch.from_numpy(data["in.0"])).numpy(), data["out.0"], rtol=1e-6, atol=1e-7
            )
    assert [p.name for p in result.directory.iterdir() if p.name.startswith(".")] == []


def test_parent_never_imports_torch_for_a_file(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.script(torch.nn.Linear(4, 3).eval()).save(str(path))
    code = (
        "import sys; from pathlib import Path; from edgebuild.export.run import export_model;"
        "from edgebuild.model.request import ModelRequest, InputRequest;"
        f"export_model(ModelRequest(path={str(path)!r}, inputs=(InputRequest(name=None, dtype='float32', shape=(1, 4)),)),"
        f"Path({str(tmp_path / 'out')!r})); assert not {{'torch', 'onnx', 'onnxruntime'}} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_same_model_from_two_folders_gives_the_same_bytes(tmp_path):
    graphs = []
    for name in ("here", "a_much_longer_folder_name"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "my_factories.py").write_text(FACTORY)
        result = export_model(request(folder, "good"), folder / "out")
        graphs.append(result.onnx.read_bytes())
        assert str(tmp_path).encode() not in graphs[-1]
        assert b"my_factories" not in graphs[-1]
    assert graphs[0] == graphs[1]


def test_noise_of_the_model_stays_out_of_sight(factories, capfd):
    export_model(request(factories, "good"), factories / "out")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "text"), [("crash", "SIGSEGV"), ("leave", "code 3")])
def test_death_of_the_model_process_is_explained(factories, name, text):
    with pytest.raises(ModelError, match=text):
        export_model(request(factories, name), factories / "out")
    assert not (factories / "out" / "exported.json").exists()


def test_folder_that_is_removed_while_the_model_is_exported_is_the_environments_fault(factories, tmp_path):
    out = tmp_path / "out"

    def progress(text: str) -> None:
        if text.startswith("exporting"):
            shutil.rmtree(out)

    with pytest.raises(ToolError, match="folder was removed") as caught:
        export_model(request(factories, "good"), out, progress=progress)
    assert "build again" in caught.value.hint


def test_error_of_the_factory_crosses_as_a_model_error_with_its_log_attached(factories):
    with pytest.raises(EdgebuildError, match="no weights today") as caught:
        export_model(request(factories, "broken"), factories / "out")
    assert caught.value.exit_code in (2, 9)
    assert "Traceback" in "".join(caught.value.__notes__)


def test_error_of_the_calibration_data_crosses_as_one(factories):
    data = factories / "data"
    data.mkdir()
    np.savez(data / "0.npz", x=np.full((1, 3, 8, 8), np.nan, np.float32))
    asked = replace(request(factories, "good"), data=DataRequest(path=str(data)))
    with pytest.raises(CalibrationError, match=r"0\.npz: input 'x': NaN") as caught:
        export_model(asked, factories / "out")
    assert "calibration needs finite numbers" in str(caught.value.hint)


def test_deadline_ends_the_worker_and_what_it_started(factories):
    begun = time.monotonic()
    with pytest.raises(DeadlineError, match="deadline"):
        export_model(request(factories, "endless"), factories / "out", deadline=begun + 8)
    assert time.monotonic() - begun < 20
    alive = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(factories) not in alive


def test_nothing_to_export_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        export_model(ModelRequest(path=None), tmp_path)


def test_python_object_is_exported_in_this_process_without_noise(tmp_path, capfd):
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()
    given = (InputRequest(name=None, dtype="float32", shape=(2, 4)),)
    result = export_model(ModelRequest(path=None, inputs=given), tmp_path, module=module)
    assert all(p.passed for p in result.parity)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("timed", [True, False])
def test_the_original_is_timed_only_if_that_is_asked_for(factories: Path, tmp_path: Path, timed: bool) -> None:
    wanted = replace(request(factories, "good"), time_original=timed)
    assert (export_model(wanted, tmp_path / "out").original_latency_ms is not None) == timed
