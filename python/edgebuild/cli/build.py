"""``edgebuild build``, which may be left out: ``edgebuild --target x86-64 model.pt``."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebuild.cli import output
from edgebuild.cli.options import TargetName, common, proof
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from edgebuild.model.request import ModelRequest

_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _one_target(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> str | None:
    """A bundle is for one board; the last of several would be taken silently."""
    if len(given) > 1:
        msg = f"--target is given {len(given)} times: {', '.join(given)}"
        raise UsageError(msg, hint="a build is for one board: run it once for each")
    return given[0] if given else None


@click.command(name="build")
@click.argument("model", required=False, metavar="MODEL", type=click.Path())
@click.option(
    "--target",
    type=TargetName(),
    multiple=True,
    callback=_one_target,
    metavar="T",
    help="Board: a name, an alias, or the path of a target file.",
)
@click.option(
    "-o",
    "--output",
    "out",
    metavar="OUT.edge",
    type=click.Path(path_type=Path),
    help="The bundle's archive; the folder in it is STEM.TARGET.",
)
@click.option(
    "--input", "inputs", multiple=True, metavar="'[NAME:]DTYPE[DIMS]'", help="An input, e.g. 'x:float32[1,3,224,224]'."
)
@click.option(
    "--sample", "samples", multiple=True, metavar="IN.npz", type=click.Path(), help="One set of inputs; keys are names."
)
@click.option(
    "--dynamic",
    "dynamic",
    multiple=True,
    metavar="'NAME:AXIS=SYMBOL[MIN..BEST..MAX/STEP]'",
    help="An axis whose size may change, e.g. 'x:0=batch[1..8..32]', 'x:2=h[32..64..128/16]'.",
)
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Value of an argument that is no tensor.")
@click.option(
    "--model", "factory", metavar="PACKAGE.MODULE:FACTORY", help="What makes the module, e.g. that of a state_dict."
)
@click.option(
    "--backend", "backends", multiple=True, metavar="B", help="Only this backend (repeatable; the faster first)."
)
@click.option(
    "--parity-tol", metavar="ATOL[,RTOL]", help="Tolerance of the exported model, instead of the derived one."
)
@click.option("--trust-model", is_flag=True, help="Load a pickle, which can run any code.")
@click.option("--thin", is_flag=True, help="Leave the engine libraries out; see `edgebuild runtime pack`.")
@click.option(
    "--int8", "int8", is_flag=True, help="Look for INT8 variants that are faster and inside the accuracy budget."
)
@click.option("--calib", metavar="DATA", help="Calibration data: a folder, a file, module:callable, or random.")
@click.option("--preprocess", metavar="SPEC", help="How images become inputs, e.g. imagenet; see docs/calibration.md.")
@click.option(
    "--eval", "evaluate", metavar="MODULE:CALLABLE", help="Your own score: f(predict) -> number, more is better."
)
@click.option("--max-drop", metavar="X", type=float, help="What that score may lose (default 0.005).")
@click.option(
    "--min-agreement",
    metavar="X",
    type=float,
    help="Decisions that must stay, 0 to 1 (default 0.98 where there is one a sample).",
)
@click.option(
    "--min-sqnr",
    metavar="DB",
    type=float,
    help="Least signal to noise of outputs (default 20; 12 by decisions, 33.5 for embeddings).",
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "normal", "best"]),
    default="normal",
    show_default=True,
    help="How long to search for INT8.",
)
@click.option("--require", type=click.Choice(["int8"]), help="Fail (exit code 6) if no such variant may ship.")
@click.option("--decisions", metavar="FILE", type=click.Path(path_type=Path), help="Replay a decisions.json.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of every variant.")
@click.option(
    "--deadline",
    metavar="SECONDS",
    type=float,
    help="Limit of the export, and of loading and each inference of the bundle.",
)
@click.option("--seed", metavar="N", type=click.IntRange(0), default=0, help="Seed of all random inputs (default 0).")
@click.option("--no-measure", is_flag=True, help="Measure no latencies.")
@proof
@common
def command(
    model: str | None,
    target: str | None,
    out: Path | None,
    inputs: tuple[str, ...],
    samples: tuple[str, ...],
    dynamic: tuple[str, ...],
    arguments: tuple[str, ...],
    factory: str | None,
    backends: tuple[str, ...],
    parity_tol: str | None,
    trust_model: bool,
    thin: bool,
    int8: bool,
    calib: str | None,
    preprocess: str | None,
    evaluate: str | None,
    max_drop: float | None,
    min_agreement: float | None,
    min_sqnr: float | None,
    effort: str,
    require: str | None,
    decisions: Path | None,
    options: tuple[str, ...],
    deadline: float | None,
    seed: int,
    no_measure: bool,
    verify: str | None,
    max_size: int | None,
    toolchain: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Build a bundle for a target from a model."""
    if target is None:
        msg = "build: no target is given"
        raise UsageError(msg, hint="say --target, e.g. --target x86-64; `edgebuild targets` lists them")
    request = _request(
        model,
        factory=factory,
        inputs=inputs,
        samples=samples,
        dynamic=dynamic,
        arguments=arguments,
        parity_tol=parity_tol,
        trust=trust_model,
        seed=seed,
    )
    if deadline is not None and not (deadline > 0 and math.isfinite(deadline)):
        msg = f"--deadline: expected seconds above 0, got {deadline}"
        raise UsageError(msg)

    from edgebuild.options import BuildOptions
    from edgebuild.targets import load_target

    spec = load_target(target)  # what is wrong with it is said before torch is loaded
    for backend in backends:
        spec.backend(backend)
    if decisions is not None and not decisions.is_file():
        msg = f"--decisions: {decisions} is no file"
        raise UsageError(msg, hint="give the decisions file that an earlier build wrote beside its bundle")
    quantize = None
    if int8 or require is not None:
        from edgebuild.options import QuantizeOptions
        from edgebuild.select.budget import DEFAULT_MAX_DROP, Budget

        if calib is None and decisions is None:
            from edgebuild.data.calibration import HINT_NO_DATA

            msg = "--int8 needs calibration data: none is given"
            raise UsageError(msg, hint=HINT_NO_DATA)
        if evaluate is None and max_drop is not None:
            msg = "--max-drop is given without --eval, whose score it is about"
            raise UsageError(
                msg, hint="add --eval module:callable; --min-agreement and --min-sqnr bound the loss without one"
            )
        quantize = QuantizeOptions(
            calib=calib,
            preprocess=preprocess,
            evaluate=evaluate,
            budget=Budget(
                max_drop=DEFAULT_MAX_DROP if max_drop is None else max_drop,
                min_agreement=min_agreement,
                min_sqnr_db=min_sqnr,
            ),
            effort=effort,
            required=require is not None,
        )
    elif calib is not None:
        msg = "--calib is given without --int8, which is what it is for"
        raise UsageError(msg, hint="add --int8, or leave --calib out")
    build_options = BuildOptions(
        target=target,
        output=out,
        backends=backends,
        thin=thin,
        decisions=decisions,
        deadline_s=deadline,
        measure=not no_measure,
        verify=verify,
        max_size_bytes=max_size,
        toolchain=toolchain,
        variant_options=_pairs("--option", options),
        quantize=quantize,
    )

    from edgebuild.cli.progress import show_progress

    with show_progress(silent=as_json, verbose=verbose) as progress:
        from edgebuild.build import build_from_request

        report = build_from_request(request, build_options, progress)
    if as_json:
        output.print_json({**report.to_json(), "exit_code": 0})
        return

    from edgebuild.cli.summary import summary

    for line in summary(report, verbose=verbose):
        output.echo(line)


def _request(
    model: str | None,
    *,
    factory: str | None,
    inputs: tuple[str, ...],
    samples: tuple[str, ...],
    dynamic: tuple[str, ...],
    arguments: tuple[str, ...],
    parity_tol: str | None,
    trust: bool,
    seed: int,
) -> "ModelRequest":
    """Raises UsageError if a flag can't be read, or names no file where one is needed."""
    from edgebuild.model.request import ModelRequest
    from edgebuild.model.spec import parse_arguments, parse_dynamic, parse_input

    if model is not None and factory is None and _FACTORY.fullmatch(model) and not Path(model).exists():
        model, factory = None, model  # MODEL may be `package.module:factory` itself
    if model is None and factory is None:
        msg = "build: no model is given"
        raise UsageError(msg, hint="edgebuild --target x86-64 model.pt, or --model package.module:factory")
    if factory is not None and not _FACTORY.fullmatch(factory):
        msg = f"--model: expected PACKAGE.MODULE:FACTORY, got {factory!r}"
        raise UsageError(msg, hint="for example --model mypackage.models:make_model")
    for sample in samples:
        if not Path(sample).is_file():
            msg = f"--sample: {sample} is no file"
            raise UsageError(msg)
    return ModelRequest(
        path=model,
        factory=factory,
        search_path=(str(Path.cwd()),),
        inputs=tuple(parse_input(text) for text in inputs),
        samples=samples,
        dynamic=tuple(parse_dynamic(text) for text in dynamic),
        arguments=parse_arguments(arguments),
        trust=trust,
        parity_tolerance=None if parity_tol is None else _tolerance(parity_tol),
        seed=seed,
    )


def _tolerance(text: str) -> tuple[float, float]:
    parts = text.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(math.isfinite(n) and n >= 0 for n in numbers):
        msg = f"--parity-tol: expected ATOL or ATOL,RTOL, each 0 or more, got {text!r}"
        raise UsageError(msg, hint="for example --parity-tol 1e-4 or --parity-tol 1e-4,1e-3; RTOL alone is 0,1e-3")
    return numbers[0], numbers[1] if len(numbers) == 2 else 0.0


def _pairs(flag: str, texts: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or name in pairs:
            msg = f"{flag}: expected NAME=VALUE{', each name once' if name in pairs else ''}, got {text!r}"
            raise UsageError(msg, hint="for example --option intra_op_threads=2")
        pairs[name] = value
    return pairs
