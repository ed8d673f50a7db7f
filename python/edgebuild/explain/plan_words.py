"""How a predicted plan is put into words, on a terminal and on a page."""

from collections.abc import Iterator

from edgebuild.explain.tensorrt_plan import PredictedPlan

CAUTION = (
    "Predicted from the fusions that TensorRT's documentation lists; no TensorRT was asked. The board measures and may choose otherwise: "
    "`trtexec --exportLayerInfo` shows what it chose."
)


def statements(plan: PredictedPlan) -> Iterator[str]:
    """What a plan comes to, a sentence each."""
    views = f", {plan.views} that only rename what lies in memory" if plan.views else ""
    yield f"{plan.nodes} nodes become {_count(len(plan.kernels), 'kernel')}{views}"
    if plan.pairs:
        yield f"{plan.integer} of {_count(len(plan.kernels), 'kernel')} on integers"
        yield f"{plan.absorbed} of {plan.pairs} Q and DQ cost nothing: kernels take them in, or they cancel each other"
    if plan.floats:
        parts = [f"{operators}{'' if count == 1 else f' ({count} times)'}" for operators, count in plan.floats.items()]
        yield f"in float: {', '.join(parts)}"
    counted: dict[str, int] = {}
    for found in plan.conversions:
        text = f"{found.source} to {found.target} of '{found.value}': {found.why}"
        counted[text] = counted.get(text, 0) + 1
    for text, count in counted.items():
        yield f"a pass over memory of its own: {text}{'' if count == 1 else f' ({count} times)'}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
