"""Holds what an exporter made against the original, within tolerances derived from depth, widened where the model itself is that sensitive."""

from collections.abc import Callable, Mapping, Sequence

from edgebuild.export import parity as parity_module
from edgebuild.export.arrays import Array, dtype_name, is_float
from edgebuild.export.parity import DisagreementError, check_parity, derive_tolerances, explain
from edgebuild.export.result import OutputParity
from edgebuild.model.request import ModelRequest
from edgebuild.model.source import Inputs, ModelSource

Tolerances = Mapping[str, tuple[float, float]]


def compare_with_original(
    source: ModelSource,
    request: ModelRequest,
    names: Sequence[str],
    expected: Sequence[Sequence[Array]],
    reference: Callable[[Inputs], list[Array]] | None,
    run: Callable[[Sequence[Array]], list[Array]],
    relative: Mapping[str, float],
) -> tuple[tuple[OutputParity, ...], Tolerances, tuple[str, ...]]:
    """Runs every sample.

    Args:
        source: The model.
        request: A tolerance that the user gave replaces the derived ones.
        names: Outputs in signature order.
        expected: The original's outputs, for each sample.
        reference: Runs the original; None: the samples are steps of a model that keeps state, and no tolerance is widened.
        run: Runs what was made: inputs in signature order -> outputs in signature order.
        relative: For each output the tolerance that its depth allows, as a part of its largest magnitude.

    Returns:
        The worst element of each output, its tolerances, and what the user should know.

    Raises:
        DisagreementError: An output has another dtype or shape than the original's, or is outside its tolerance.
    """
    dtypes = [dtype_name(array) for array in expected[0]]
    if request.parity_tolerance is not None:
        tolerances = {
            name: request.parity_tolerance if is_float(dtype) else (0.0, 0.0)
            for name, dtype in zip(names, dtypes, strict=True)
        }
    else:
        tolerances = derive_tolerances(names, expected, relative)
    input_names = [spec.name for spec in source.inputs]
    results = check_parity(run, names, input_names, source.samples, expected, tolerances)
    notes: list[str] = []
    # A tolerance that the user gave is the user's: nothing widens it.
    if not all(result.passed for result in results) and reference is not None and request.parity_tolerance is None:
        # The model itself may be that sensitive: near-ties in top-k, rounding, a difference of large numbers.
        moved = parity_module.own_variation(reference, source.samples, expected, request.seed)
        widened = dict(tolerances)
        for result, variation, name, dtype in zip(results, moved, names, dtypes, strict=True):
            bound = 4.0 * variation if is_float(dtype) else variation
            if result.passed or not 0 < variation < float("inf"):
                continue
            widened[name] = (max(tolerances[name][0], bound), tolerances[name][1])
            notes.append(
                f"output {name} is ill-conditioned or has near-ties: inputs that differ in the last place only change "
                f"the original's own result by {variation:.3g}; its tolerance is {widened[name][0]:.3g}"
            )
        tolerances = widened
        results = check_parity(run, names, input_names, source.samples, expected, tolerances)
    if not all(result.passed for result in results):
        raise DisagreementError(explain(results), results)
    return results, tolerances, tuple(notes)
