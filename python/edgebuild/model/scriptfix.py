"""Makes a TorchScript file fit for the CPU and for inference: devices in its code, training mode, baked-in dropout."""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DEVICE = re.compile(r'torch\.device\("(cuda|mps|xpu|hip|privateuseone)(?::\d+)?"\)')
_NAME = re.compile(r'((?:\bdevice=|torch\.to\([^()"\n]*, *))"(cuda|mps|xpu)(?::\d+)?"')
_MOVE = re.compile(r"\btorch\.cuda\(")


@contextmanager
def on_cpu(path: Path, notes: list[str]) -> Iterator[Path]:
    """The file itself, or a copy whose code names the CPU wherever it named an accelerator.

    ``map_location`` moves weights, not the devices that tracing wrote into the code: ``x.to("cuda:0")`` stays. Comparisons such as
    ``device.type == "cuda"`` are left alone: on the CPU they are false.
    """
    with zipfile.ZipFile(path) as archive:
        changed: dict[str, bytes] = {}
        found: set[str] = set()
        for name in archive.namelist():
            if "/code/" in name and name.endswith(".py"):
                text = archive.read(name).decode("utf-8", "surrogateescape")
                new = cpu_code(text, found)
                if new != text:
                    changed[name] = new.encode("utf-8", "surrogateescape")
        if not changed:
            yield path
            return
        notes.append(f"the file's code names the device {', '.join(sorted(found))}; this was changed to the CPU")
        with tempfile.TemporaryDirectory(prefix="edgebuild-") as folder:
            copy = Path(folder) / path.name
            with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED, allowZip64=True) as output:
                for info in archive.infolist():
                    if info.filename in changed:
                        output.writestr(info.filename, changed[info.filename])
                        continue
                    if info.filename.endswith(".debug_pkl"):
                        continue  # source locations of code that is no longer the same
                    plain = zipfile.ZipInfo(info.filename)
                    plain.file_size = info.file_size
                    with archive.open(info) as source, output.open(plain, "w", force_zip64=True) as sink:
                        shutil.copyfileobj(source, sink, 1 << 20)
            yield copy


def cpu_code(text: str, found: set[str]) -> str:
    """TorchScript code with accelerator devices replaced by the CPU; adds the devices to ``found``."""

    def device(match: re.Match[str]) -> str:
        found.add(match.group(1))
        return 'torch.device("cpu")'

    def name(match: re.Match[str]) -> str:
        found.add(match.group(2))
        return f'{match.group(1)}"cpu"'

    def move(_: re.Match[str]) -> str:
        found.add("cuda")
        return "torch.cpu("

    text = _DEVICE.sub(device, text)
    text = _NAME.sub(name, text)
    return _MOVE.sub(move, text)


def to_inference(module: Any, notes: list[str]) -> None:
    """Puts a ScriptModule into inference mode, also where tracing in training mode has written it into the graph."""
    training = any(bool(getattr(part, "training", False)) for part in module.modules())
    if training:
        module.eval()
        notes.append("the file was saved in training mode; it was put into inference mode (eval)")
    dropout, norms = 0, 0
    for part in module.modules():
        for method in _methods(part):
            d, n = _bake_inference(method.graph)
            dropout, norms = dropout + d, norms + n
    if dropout:
        notes.append(
            f"{dropout} dropout operators had training mode written into the graph by tracing; they were switched off"
        )
    if norms:
        notes.append(
            f"{norms} batch norms had training mode written into the graph by tracing; they now use their running statistics, "
            "so outputs differ from the traced ones; trace after model.eval() to be sure"
        )


def _methods(part: Any) -> list[Any]:
    try:
        return [part._c._get_method(name) for name in part._c._method_names()]
    except (AttributeError, RuntimeError):
        return []


_DROPOUTS = [
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "feature_alpha_dropout",
    "dropout_",
    "alpha_dropout_",
    "feature_dropout_",
]


def _bake_inference(graph: Any) -> tuple[int, int]:
    """Sets the constant ``training`` operand of dropouts and batch norms to False; returns how many of each."""
    dropout = norms = 0
    false = None
    for operators, position in ((_DROPOUTS, 2), (["batch_norm", "instance_norm"], 5)):
        for operator in operators:
            for node in graph.findAllNodes(f"aten::{operator}"):
                inputs = list(node.inputs())
                flag = inputs[position].node()
                if flag.kind() != "prim::Constant" or inputs[position].toIValue() is not True:
                    continue
                if position == 5 and (operator == "instance_norm" or _is_none(inputs[3])):
                    continue  # no running statistics: this norm always uses those of its input
                false = false or graph.insertConstant(False)
                false.node().moveBefore(next(iter(graph.nodes())))
                node.replaceInput(position, false)
                dropout += position == 2
                norms += position == 5
    return dropout, norms


def _is_none(value: Any) -> bool:
    return bool(value.node().kind() == "prim::Constant" and value.type().kind() == "NoneType")
