"""Nothing that edgebuild starts leaves the engine's telemetry in the user's folders, and the user has the last word."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import {first}
import onnx, onnxruntime
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


def files_left(home: Path, first: str) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT.format(first=first)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return [path.name for path in home.rglob("*") if path.is_file()]


def test_the_engine_in_our_process_leaves_nothing_behind(tmp_path: Path) -> None:
    assert files_left(tmp_path, "edgebuild") == []


def test_a_users_own_choice_stays() -> None:
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    script = "import edgebuild, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "0"
