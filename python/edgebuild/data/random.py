"""Random input sets, for those who ask for them by name: they say nothing about accuracy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebuild.model.fill import random_value
from edgebuild.model.signature import Signature, TensorType
from edgebuild.model.values import INTEGERS

Array = NDArray[Any]


def random_batches(
    signature: Signature, seed: int, count: int, examples: Sequence[Mapping[str, Array]]
) -> Iterator[tuple[str, dict[str, Array]]]:
    """``(where, arrays)`` of seeded random input sets with the best sizes of dynamic axes.

    Args:
        signature: Of the model.
        seed: Of the numbers.
        count: How many sets.
        examples: Inputs that the model takes; integers stay within their range (else they are 0 or 1).
    """
    sizes = {name: span.best for name, span in signature.symbols.items()}
    ranges = {
        name: (min(int(a.min()) for a in arrays), max(int(a.max()) for a in arrays))
        for name in {name for example in examples for name in example}
        if (arrays := [e[name] for e in examples if name in e and e[name].size and e[name].dtype.name in INTEGERS])
    }
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, str] = {}
    for spec in signature.inputs:
        if isinstance(spec.type, TensorType):  # what is optional is left out
            shapes[spec.name] = tuple(sizes.get(d, 1) if isinstance(d, str) else d or 1 for d in spec.type.shape or ())
            types[spec.name] = spec.type.dtype
    sequence = next((shape[1] for shape in shapes.values() if len(shape) >= 2), 1)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        yield (
            f"random batch {index}",
            {
                name: random_value(name, types[name], shape, rng, sequence=sequence, span=ranges.get(name, (0, 1)))
                for name, shape in shapes.items()
            },
        )
