"""A predicted plan of TensorRT as lines for a terminal."""

from typing import TYPE_CHECKING

from edgebuild.cli import output

if TYPE_CHECKING:
    from edgebuild.explain.tensorrt_plan import PredictedPlan

_KERNELS = 12
_STATEMENTS = 8


def plan_lines(plan: "PredictedPlan", *, verbose: bool = False) -> list[str]:
    """The prediction: its kernels in the order of execution, then what it comes to."""
    from edgebuild.explain.plan_words import CAUTION, statements

    lines = [output.heading(f"What TensorRT will probably make of {plan.variant}")]
    lines += output.wrap(CAUTION, "  ", "  ", output.width())
    said = list(statements(plan))
    for text in said if verbose else said[:_STATEMENTS]:
        lines += output.wrap(text, "  - ", "    ", output.width())
    if len(said) > _STATEMENTS and not verbose:
        lines.append(f"  and {len(said) - _STATEMENTS} more (-v shows all)")
    shown = plan.kernels if verbose else plan.kernels[:_KERNELS]
    rows = [[kernel.precision, kernel.output, kernel.operators, kernel.nodes[0]] for kernel in shown]
    lines += output.table(("computes in", "gives", "kernel", "from node"), rows)
    if len(plan.kernels) > len(shown):
        lines.append(f"  and {len(plan.kernels) - len(shown)} more (-v shows all)")
    return lines
