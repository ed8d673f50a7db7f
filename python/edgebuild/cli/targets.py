"""``edgebuild targets``: the list of boards, or one of them."""

from typing import Any

import click

from edgebuild.cli import output
from edgebuild.cli.options import TargetName, common
from edgebuild.targets.spec import TargetSpec

LIST_SCHEMA = "edgebuild.targets/1"
TARGET_SCHEMA = "edgebuild.target/1"


@click.command(name="targets")
@click.argument("target", required=False, type=TargetName(), metavar="[TARGET]")
@common
def command(target: str | None, as_json: bool, verbose: bool) -> None:
    """List the targets, or show one."""
    from edgebuild.targets import list_targets, load_target

    if target is not None:
        spec = load_target(target)
        if as_json:
            output.print_result(TARGET_SCHEMA, spec.to_json())
        else:
            _show(spec)
        return
    specs = list_targets()
    if as_json:
        output.print_result(LIST_SCHEMA, {"targets": [spec.to_json() for spec in specs]})
        return
    rows = [
        (
            spec.name,
            spec.soc.arch,
            ", ".join(backend.name for backend in spec.runtime),
            spec.description + (f" (also {spec.aliases[0]})" if spec.aliases else ""),
        )
        for spec in specs
    ]
    for line in output.table(("TARGET", "ARCH", "BACKENDS", "WHAT IT IS"), rows):
        output.echo(line)
    output.echo()
    text = "`edgebuild targets TARGET` shows one; a board of your own is a file passed by its path."
    for line in output.wrap(text, "  ", "  ", output.width()):
        output.echo(line)


def _show(spec: TargetSpec) -> None:
    def line(name: str, text: str) -> None:
        for part in output.wrap(text, f"  {name:<14}", " " * 16, output.width()):
            output.echo(part)

    output.echo(f"{output.heading(spec.name)}  {spec.description}")
    if spec.aliases:
        line("also called", ", ".join(spec.aliases))
    soc: list[str] = [spec.soc.arch, f"emulated as {spec.soc.cpu}"]
    if spec.soc.cores is not None:
        soc.append(f"{spec.soc.cores} cores")
    if spec.soc.memory_mib is not None:
        soc.append(f"{spec.soc.memory_mib} MiB memory")
    line("processor", ", ".join(soc))
    line("features", " ".join(spec.soc.features) or "none beyond the architecture's baseline")
    line("system", f"glibc {spec.os.glibc} or newer, GLIBCXX {spec.os.glibcxx}")
    line("compiled for", " ".join((spec.toolchain.triple, *spec.toolchain.cpu_flags)))
    if spec.accelerator is not None:
        accelerator = spec.accelerator
        tensorrt = f", TensorRT {accelerator.tensorrt}" if accelerator.tensorrt else ""
        line(
            "accelerator",
            f"{accelerator.kind}, compute capability {accelerator.compute_capability}, CUDA {accelerator.cuda}{tensorrt}",
        )
    for number, backend in enumerate(spec.runtime, 1):
        limit = "TorchScript" if backend.opset_max is None else f"opset {backend.opset_max} or lower"
        options = "".join(f", {key}={value}" for key, value in backend.options.items())
        options += ", where asked for or nothing else will do" if backend.on_demand else ""
        line(
            "backends" if number == 1 else "",
            f"{backend.name} {backend.version}, {limit}{options}",
        )
    line("precisions", f"{', '.join(spec.precision.supported)}; without a flag {spec.precision.default}")
    first = True
    for name, schemes in spec.quantization.items():
        for scheme in schemes:
            words: list[Any] = [
                f"{name}: {scheme.activation} activations,",
                f"{scheme.weight} weights",
                "per channel" if scheme.per_channel else "per tensor",
            ]
            if scheme.reduce_range:
                words.append("in 7 bits")
            if scheme.cpu_features:
                words.append(f"(needs {' '.join(scheme.cpu_features)})")
            line("int8" if first else "", " ".join(words))
            first = False
    if not spec.portable:
        line("portable", "no: its bundles are promised to run on this very machine only")
