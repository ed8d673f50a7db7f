"""INT8 side by side: ``quantization.py [NET …] [--ours NET:NAME=FILE] [--peers PYTHON] [--json FILE]``.

Same machine, same float model, same 32 calibration samples, one run: processor time of one thread, sides in turn, and the
distance from float on held-out data.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from contenders import CALIBRATION_COUNT, Contender, contenders
from judging import Verdict, judge
from nets import NAMES, find
from nets.net import Net
from nets.stored import calibration_folder, float_onnx
from sides import Here, Peer, Side
from workbench import show

ROUND_S = 0.25
"""Processor time of the slowest side in one round, at least one inference."""

TRANSFORMERS = frozenset({"vit_tiny", "minilm", "digits_transformer"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One side of one net. Times in seconds; ratios above 1 mean faster; three numbers are median, 10th and 90th percentile."""

    net: str
    side: str
    seconds: tuple[float, float, float] | None = None
    over_float: tuple[float, float, float] | None = None
    over_static: tuple[float, float, float] | None = None
    mark: float | None = None
    verdict: Verdict | None = None
    model_bytes: int | None = None
    quantise_s: float | None = None
    first_s: float | None = None
    note: str = ""


def measure(net: Net, entrants: Sequence[Contender], python: Path | None, rounds: int) -> list[Row]:
    """Loads all sides of a net, judges and times them."""
    held_out = net.held_out()
    notes = {entrant.name: entrant for entrant in entrants}
    sides: dict[str, Side] = {}
    for entrant in entrants:
        if entrant.path is not None:
            try:
                sides[entrant.name] = Here(entrant.path, held_out.feeds[0])
            except Exception as error:  # a model that its own engine refuses is a result
                note = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
                notes[entrant.name] = Contender(name=entrant.name, path=entrant.path, note=note)
    if python is not None:
        for name, precision in (("OpenVINO f32", "float32"), ("NNCF INT8", "int8")):
            data = calibration_folder(net, CALIBRATION_COUNT)
            peer = Peer(python, float_onnx(net), precision, data, transformer=net.name in TRANSFORMERS)
            sides[name] = peer
            notes[name] = Contender(name=name, path=None, quantise_s=peer.quantise_s)
    outputs = {name: side.outputs(held_out.feeds) for name, side in sides.items()}
    expected = outputs["ORT float"]
    times = _alternate(sides, rounds)
    for side in sides.values():
        side.close()
    rows = []
    for name, entrant in notes.items():
        if name not in sides:
            rows.append(Row(net=net.name, side=name, note=entrant.note))
            continue
        static = times.get("ORT static")
        rows.append(
            Row(
                net=net.name,
                side=name,
                seconds=_spread(times[name]),
                over_float=_ratio(times["ORT float"], times[name]),
                over_static=None if static is None else _ratio(static, times[name]),
                mark=net.mark,
                verdict=judge(net, expected, outputs[name], held_out.labels),
                model_bytes=entrant.size if entrant.path is not None else None,
                quantise_s=entrant.quantise_s,
                first_s=entrant.first_s if entrant.first_s is not None else entrant.quantise_s,
            )
        )
    return rows


def _alternate(sides: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of one inference for each side and round; every other round goes backwards."""
    slowest = max(side.seconds(1) for side in sides.values())
    runs = max(1, math.ceil(ROUND_S / max(slowest, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(rounds):
        order = list(sides.items())
        for name, side in order if index % 2 == 0 else reversed(order):
            side.seconds(max(1, runs // 10))  # caches and branch predictors are another side's
            times[name].append(side.seconds(runs))
    return times


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return statistics.median(ordered), ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]


def _ratio(base: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Base over other, round by round, so that the machine's drift falls out."""
    return _spread([a / b for a, b in zip(base, other, strict=True)])


def table(rows: Sequence[Row]) -> None:
    """Prints the rows, and the geometric mean over the nets that ONNX Runtime's defaults do badly on."""
    header = (
        "net",
        "side",
        "ms",
        "x float",
        "mark",
        "x static",
        "SQNR",
        "cosine",
        "agree",
        "ties",
        "right",
        "MiB",
        "first s",
        "quant s",
    )
    cells = []
    for row in rows:
        if row.seconds is None or row.verdict is None:
            cells.append((row.net, row.side, row.note, *[""] * 11))
            continue
        v = row.verdict
        cells.append(
            (
                row.net,
                row.side,
                f"{row.seconds[0] * 1e3:.3g}",
                _interval(row.over_float),
                "" if row.mark is None else f"{row.mark:.1f}",
                _interval(row.over_static),
                f"{v.sqnr_db:.1f}",
                f"{v.cosine:.4f}",
                "" if v.agreement is None else f"{v.agreement:.1%}",
                "" if v.near_ties is None else f"{v.near_ties[0]}: {v.near_ties[1]:.0%}",
                "" if v.accuracy is None else f"{v.accuracy:.2%}",
                "" if row.model_bytes is None else f"{row.model_bytes / 2**20:.2f}",
                "" if row.first_s is None else f"{row.first_s:.1f}",
                "" if row.quantise_s is None else f"{row.quantise_s:.1f}",
            )
        )
    show(
        "INT8, processor time of one thread; ratios over 1 are faster, median (10th to 90th percentile)", header, cells
    )
    for side in dict.fromkeys(row.side for row in rows):
        chosen = [r.over_static[0] for r in rows if r.side == side and r.over_static and find(r.net).in_mean]
        if side not in {"ORT float", "ORT static"} and chosen:
            names = ", ".join(r.net for r in rows if r.side == side and r.over_static and find(r.net).in_mean)
            print(
                f"  {side} over ORT static, geometric mean over {names}: {statistics.geometric_mean(chosen):.2f} (goal 1.4)"
            )


def _interval(value: tuple[float, float, float] | None) -> str:
    return "" if value is None else f"{value[0]:.2f} ({value[1]:.2f}-{value[2]:.2f})"


def _by_hand(text: str) -> tuple[str, Contender]:
    try:
        net, rest = text.split(":", 1)
        name, path = rest.split("=", 1)
    except ValueError:
        msg = f"expected NET:NAME=FILE, got {text!r}"
        raise argparse.ArgumentTypeError(msg) from None
    return net, Contender(name=name, path=Path(path))


def main(arguments: Sequence[str] = ()) -> None:
    """No net slower than ONNX Runtime's static quantisation beyond 3%; 1.4 times as fast in the mean over five."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"of {', '.join(NAMES)}; none: all")
    parser.add_argument("--ours", type=_by_hand, action="append", default=[], metavar="NET:NAME=FILE",
                        help="a further .onnx, .ort or bundle to measure")  # fmt: skip
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="a Python that has openvino and nncf")
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 for the figures (default 9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows there too")
    given = parser.parse_args(list(arguments))
    if unknown := [name for name in given.nets if name not in NAMES]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    rows: list[Row] = []
    for name in given.nets or NAMES:
        net = find(name)
        entrants = contenders(net, [side for of, side in given.ours if of == name])
        rows += measure(net, entrants, given.peers, given.rounds)
        print(f"{name} measured", file=sys.stderr, flush=True)
    table(rows)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
