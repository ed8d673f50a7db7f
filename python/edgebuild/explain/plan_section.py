"""A predicted plan of TensorRT as a section of the page."""

from collections.abc import Iterator
from html import escape

from edgebuild.explain.plan_words import CAUTION, statements
from edgebuild.explain.tensorrt_plan import PredictedPlan


def plan_section(plan: PredictedPlan) -> Iterator[str]:
    """HTML of it."""
    yield f'<h2>What TensorRT will probably make of {escape(plan.variant)}</h2><p class="soft">{escape(CAUTION)}</p><ul>'
    for text in statements(plan):
        yield f"<li>{escape(text)}</li>"
    yield "</ul><table><tr><th>kernel</th><th>computes in</th><th>gives</th><th>nodes</th></tr>"
    for kernel in plan.kernels:
        yield (
            f'<tr><td class="name">{escape(kernel.operators)}</td><td>{escape(kernel.precision)}</td>'
            f'<td>{escape(kernel.output)}</td><td class="name">{escape(", ".join(kernel.nodes))}</td></tr>'
        )
    yield "</table>"
