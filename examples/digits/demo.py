"""The main job from end to end, on real data: train, build, verify, classify natively and from Python, compare.

Run by ``make demo``; everything it makes lies in demo/.
"""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "demo"
EDGEBUILD = Path(sys.executable).parent / "edgebuild"


def run(*command: str) -> None:
    """Shows a command and runs it in the demo's folder; the demo ends where it fails."""
    shown = " ".join(command).replace(str(EDGEBUILD), "edgebuild")
    print(f"\n$ {shown}", flush=True)
    done = subprocess.run(command, cwd=FOLDER, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


def native(*arguments: str) -> str:
    """Output of the bundle's own runner, as it would run on the board: unpacked, no Python."""
    program = FOLDER / "model.x86-64" / "bin" / "edgerun"
    return subprocess.run([str(program), *arguments], cwd=FOLDER, check=True, capture_output=True, text=True).stdout


def pytorch_scores(x: "np.ndarray") -> "tuple[np.ndarray, float]":
    """Scores (N, 10) of the original model, and the median latency of one image in milliseconds, one thread."""
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        model = torch.jit.load(str(FOLDER / "model.pt"))
        scores = np.stack([model(torch.from_numpy(image)).numpy() for image in x])
        return scores, _median_ms(lambda: model(torch.from_numpy(x[0])))


def _median_ms(call: object, runs: int = 300) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()  # type: ignore[operator]
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1e3)


def main() -> None:
    """The demo."""
    import edgebuild

    FOLDER.mkdir(exist_ok=True)
    print("Training a small CNN on 1,437 of scikit-learn's handwritten digits; 360 are held out.", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).with_name("train.py")), str(FOLDER)], check=True)

    run(str(EDGEBUILD), "--target", "x86-64", "model.pt")
    run(str(EDGEBUILD), "verify", "model.x86-64.edge")
    run("tar", "xf", "model.x86-64.edge")
    run("model.x86-64/bin/edgerun", "run", "--each", "--inputs", "held_out.npz", "--outputs", "native.npz")

    with np.load(FOLDER / "held_out.npz") as data:
        x = data["x"]
    labels = np.load(FOLDER / "held_out_labels.npy")
    with np.load(FOLDER / "native.npz") as data:
        native_scores = next(iter(data.values()))
    original, original_ms = pytorch_scores(x)
    with edgebuild.Runner(FOLDER / "model.x86-64.edge", options={"intra_op_threads": "1"}) as runner:
        name = runner.signature.inputs[0].name
        python_scores = np.stack([next(iter(runner.run({name: image}).values())) for image in x])
        python_ms = _median_ms(lambda: runner.run({name: x[0]}))
    bench = json.loads(native("bench", "--threads", "1", "--seconds", "1", "--json"))

    def accuracy(scores: "np.ndarray") -> str:
        right = int((scores.reshape(len(labels), 10).argmax(axis=1) == labels).sum())
        return f"{100 * right / len(labels):.2f}% ({right}/{len(labels)})"

    def size(path: str) -> str:
        return f"{(FOLDER / path).stat().st_size / 2**20:.2f} MiB"

    rows = [
        ("", "accuracy", "latency p50", "what it loads"),
        ("PyTorch (TorchScript)", accuracy(original), f"{original_ms:.3f} ms", f"model.pt {size('model.pt')}"),
        ("edgebuild.Runner", accuracy(python_scores), f"{python_ms:.3f} ms", f"bundle {size('model.x86-64.edge')}"),
        (
            "edgerun (native)",
            accuracy(native_scores),
            f"{bench['latency_s']['p50'] * 1e3:.3f} ms",
            f"edgerun {size('model.x86-64/bin/edgerun')}",
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not accuracy(original) == accuracy(python_scores) == accuracy(native_scores):
        print("the three do not agree", file=sys.stderr)
        sys.exit(6)
    print("\nThe command is at .venv/bin/edgebuild; the bundle is demo/model.x86-64.edge.")


if __name__ == "__main__":
    main()
