"""The command line's own costs: --help, a rebuild with nothing changed, the size of the stripped runner."""

from nets import find
from nets.stored import torchscript
from workbench import EDGEBUILD, WORK, alternate, bundle, process_cost, show, spread


def main() -> None:
    """--help at most 200 ms of processor time; a rebuild at most 1 s, proofs included; edgerun at most 3 MB."""
    path = torchscript(find("mobilenet_v2"))
    flags = ("--input", "x:float32[1,3,224,224]")
    folder = bundle(path, *flags)
    output = WORK / "mobilenet_v2.x86-64.edge"
    build = [str(EDGEBUILD), "--target", "x86-64", str(path), "-o", str(output), *flags]
    (helps, rebuilds) = alternate(11, lambda: process_cost([str(EDGEBUILD), "--help"]), lambda: process_cost(build))
    size = (folder / "bin" / "edgerun").stat().st_size
    show(
        "Command line",
        ("what", "median (10th to 90th percentile)", "allowed"),
        [
            ("edgebuild --help, processor ms", spread([c.cpu_ms for c in helps]), "200"),
            ("rebuild of MobileNetV2, nothing changed, wall ms", spread([c.wall_ms for c in rebuilds]), "1000"),
            ("edgerun stripped, bytes", f"{size:,}", "3,000,000"),
        ],
    )


if __name__ == "__main__":
    main()
