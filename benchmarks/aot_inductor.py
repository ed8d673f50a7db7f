"""AOTInductor packages against TorchScript, both by LibTorch on this CPU: ``aot_inductor.py [--form FORM] [NET …]``. docs/libtorch.md has the figures.

Each net as a bundle holds it (frozen TorchScript, optimised for inference when it is loaded) against the same module compiled by
``torch._inductor.aoti_compile_and_package`` for this very CPU, as it is, with its weights frozen in, and with kernels for products chosen by measuring: processor time of one thread,
measured in turn, the largest difference of their outputs, and the seconds that compiling took.
"""

import argparse
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebuild.model.source import TensorArgument
from edgebuild.select.measure import compare
from nets import find
from nets.net import Net
from nets.stored import folder, once, torchscript
from workbench import show

NAMES = ("mobilenet_v2", "resnet50", "efficientnet_b0", "vit_tiny", "minilm", "unet", "lstm")
FORMS: Mapping[str, Mapping[str, object]] = {
    "as it is": {},
    "weights frozen": {"freezing": True},
    "products tuned": {"freezing": True, "max_autotune": True, "max_autotune_gemm_backends": "CPP,ATEN"},
}
SETTINGS = {"cpp.dynamic_threads": True}
"""A number of threads that is compiled in would be no variant's own."""
ROUNDS = 25
WANTED = 1.2
"""What the better form has to reach in geometric mean to be worth a variant of its own."""


def main(arguments: Sequence[str] = ()) -> None:
    """Prints a line for each net and form, and the geometric mean of each form over the nets that it took."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"of {', '.join(NAMES)}; none: all")
    parser.add_argument("--form", choices=tuple(FORMS), action="append", help="none: both")
    given = parser.parse_args(list(arguments))
    forms = {form: FORMS[form] for form in given.form or FORMS}

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[tuple[str, ...]] = []
    ratios: dict[str, list[float]] = {form: [] for form in forms}
    best: list[float] = []
    for name in given.nets or NAMES:
        net = find(name)
        example = [torch.from_numpy(net.calibration(1)[0][key]) for key in net.inputs]
        base = script_side(net, example)
        for _ in range(3):  # the profiling executor optimises in its second and third run
            expected = base()
        reached = []
        for form, settings in forms.items():
            try:
                other, seconds = package_side(net, example, form, settings)
            except Exception as error:  # what the compiler refuses is a result
                rows.append((name, form, f"{type(error).__name__}: {' '.join(str(error).split())[:90]}"))
                continue
            speed = compare(base, other, rounds=ROUNDS, seconds=60)
            error = float((other() - expected).abs().max() / expected.abs().max())
            ratios[form].append(speed.ratio)
            reached.append(speed.ratio)
            told = f"{speed.ratio:.2f}x ({speed.low:.2f} to {speed.high:.2f})"
            rows.append(
                (name, form, told, f"{speed.base_ms:.2f}", f"{speed.other_ms:.2f}", f"{error:.0e}", f"{seconds:.0f}")
            )
            print(*rows[-1], flush=True)
        best.append(max(reached, default=1.0))
    rows += [("geometric mean", form, f"{mean(found):.2f}x over {len(found)}") for form, found in ratios.items()]
    rows.append(("geometric mean", "best of them", f"{mean(best):.2f}x of the {WANTED}x wanted, over {len(best)}"))
    header = ("net", "form", "speed", "TorchScript ms", "package ms", "difference", "compile s")
    show(
        f"PyTorch {torch.__version__}: AOTInductor over TorchScript (above 1: faster; 95 % interval), processor time, one thread",
        header,
        [(*row, *[""] * (len(header) - len(row))) for row in rows],
    )


def script_side(net: Net, example: Sequence[Any]) -> Callable[[], Any]:
    """One inference of the net as LibTorch's plugin runs it."""
    import torch

    with tempfile.TemporaryDirectory() as scratch:  # frozen, saved, loaded anew: what a bundle holds
        path = Path(scratch) / "frozen.pt"
        torch.jit.save(torch.jit.freeze(torch.jit.load(str(torchscript(net))).eval()), str(path))
        module = torch.jit.optimize_for_inference(torch.jit.load(str(path)))
    return inference(module, example)


def package_side(
    net: Net, example: Sequence[Any], form: str, settings: Mapping[str, object]
) -> tuple[Callable[[], Any], float]:
    """One inference of the compiled package, and how long compiling took; the package is kept beside the net."""
    import torch

    from edgebuild.export.flat import FlatModule
    from edgebuild.export.rewrites.interpreter import ScriptInterpreter

    stem = f"{net.name}-{form.replace(' ', '-')}"
    record = folder(net) / f"{stem}.json"

    def make(partial: Path) -> None:
        start = time.perf_counter()
        # As edgebuild exports a TorchScript file: the same weights on both sides, whatever seeds give.
        whole = tuple(TensorArgument(index=index) for index in range(len(example)))
        module = FlatModule(ScriptInterpreter(torch.jit.load(str(torchscript(net)))), whole, {})
        with torch.no_grad():
            program = torch.export.export(module, tuple(example))
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(partial), inductor_configs={**SETTINGS, **settings}
            )
        record.write_text(json.dumps(time.perf_counter() - start), encoding="utf-8")

    path = once(folder(net) / f"{stem}.pt2", make)
    loaded = torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
    return inference(loaded, example), float(json.loads(record.read_text(encoding="utf-8")))


def inference(model: Callable[..., Any], example: Sequence[Any]) -> Callable[[], Any]:
    """A function without arguments that gives the net's first output."""
    import torch

    def run() -> Any:
        with torch.inference_mode():
            found = model(*example)
        return found if isinstance(found, torch.Tensor) else next(iter(found))

    return run


def mean(ratios: Sequence[float]) -> float:
    """Geometric."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan


if __name__ == "__main__":
    main(sys.argv[1:])
