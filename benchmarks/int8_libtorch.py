"""INT8 by PyTorch 2's own flow against INT8 by ONNX Runtime: ``int8_libtorch.py [NET …]``. docs/libtorch.md has the figures.

The same module and the same 32 calibration samples: torchao's PT2E quantisation with the quantiser for Inductor on x86, compiled by AOTInductor
(nothing else runs its integer kernels from C++), against the bundle that edgebuild makes; and both against float TorchScript. Processor time of
one thread, measured in turn, signal to noise and decisions on held-out data. torchao is fetched from PyPI into build/benchmarks.
"""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aot_inductor import inference, script_side
from contenders import CALIBRATION_COUNT, ours
from edgebuild.select.measure import compare
from judging import judge
from nets import find
from nets.net import Feed, Net
from nets.stored import float_onnx, folder, once
from sides import Here
from workbench import WORK, show

NAMES = ("mobilenet_v2", "resnet50")
TORCHAO = "0.18.0"


def main(nets: Sequence[str] = ()) -> None:
    """Prints a line for each net."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.path.insert(0, str(torchao_folder()))
    rows = []
    for name in nets or NAMES:
        net = find(name)
        held_out = net.held_out()
        example = tensors(net, net.calibration(1)[0])
        script = script_side(net, example)
        package, seconds = int8_package(net, example)
        ort = Here(ours_of(net), held_out.feeds[0])
        against_ort = compare(lambda: ort.seconds(1), inference(package, example), rounds=25, seconds=60)  # noqa: B023
        against_script = compare(script, inference(package, example), rounds=25, seconds=60)
        reference = Here(float_onnx(net), held_out.feeds[0])
        expected = reference.outputs(held_out.feeds)
        mine = [output(package(*tensors(net, feed))) for feed in held_out.feeds]
        verdicts = [judge(net, expected, got, held_out.labels) for got in (mine, ort.outputs(held_out.feeds))]
        rows.append(
            (
                name,
                f"{against_ort.ratio:.2f}x ({against_ort.low:.2f} to {against_ort.high:.2f})",
                f"{against_script.ratio:.2f}x ({against_script.low:.2f} to {against_script.high:.2f})",
                f"{against_ort.base_ms:.2f}",
                f"{against_ort.other_ms:.2f}",
                f"{against_script.base_ms:.2f}",
                *(f"{verdict.sqnr_db:.1f} dB, {verdict.agreement:.0%}" for verdict in verdicts),
                f"{seconds:.0f}",
            )
        )
        print(*rows[-1], flush=True)
        ort.close()
        reference.close()
    show(
        f"PyTorch {torch.__version__}, torchao {TORCHAO}: PT2E INT8 compiled by AOTInductor (above 1: it is the faster), one thread",
        (
            "net",
            "over our INT8",
            "over TorchScript",
            "ours ms",
            "PT2E ms",
            "TorchScript ms",
            "PT2E",
            "ours",
            "compile s",
        ),
        rows,
    )


def torchao_folder() -> Path:
    """Torchao by itself, without what it would bring along."""

    def make(partial: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(partial)]
        subprocess.run([*command, f"torchao=={TORCHAO}"], check=True)

    return once(WORK / f"torchao-{TORCHAO}", make)


def int8_package(net: Net, example: list[Any]) -> tuple[Callable[..., Any], float]:
    """The compiled model, and how long quantising and compiling took; kept beside the net."""
    import torch

    record = folder(net) / f"{net.name}-pt2e.json"

    def make(partial: Path) -> None:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        start = time.perf_counter()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        with torch.no_grad():
            prepared = prepare_pt2e(torch.export.export(net.make(), tuple(example)).module(), quantizer)
            for feed in net.calibration(CALIBRATION_COUNT):
                prepared(*tensors(net, feed))
            converted = convert_pt2e(prepared)
            program = torch.export.export(converted, tuple(example))
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(partial), inductor_configs={"freezing": True}
            )
        record.write_text(json.dumps(time.perf_counter() - start), encoding="utf-8")

    path = once(folder(net) / f"{net.name}-pt2e.pt2", make)
    loaded: Callable[..., Any] = torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
    return loaded, float(json.loads(record.read_text(encoding="utf-8")))


def ours_of(net: Net) -> Path:
    """Our INT8 bundle, made once."""
    bundle = folder(net) / f"{net.name}.edge"
    if not bundle.exists():
        ours(net)
    return bundle


def tensors(net: Net, feed: Feed) -> list[Any]:
    """A feed as the module's arguments."""
    import torch

    return [torch.from_numpy(np.ascontiguousarray(feed[name])) for name in net.inputs]


def output(found: Any) -> np.ndarray:
    """The first tensor as an array."""
    import torch

    tensor = found if isinstance(found, torch.Tensor) else next(iter(found))
    return tensor.detach().numpy()


if __name__ == "__main__":
    main(sys.argv[1:])
