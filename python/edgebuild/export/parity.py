"""Parity: the exported graph, run by ONNX Runtime without optimisations, against the original model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebuild.errors import GateError
from edgebuild.export.arrays import Array, dtype_name, is_float, numpy_dtype, raw_bits
from edgebuild.export.result import OutputParity
from edgebuild.model.source import Inputs

Reference = Callable[[Inputs], list[Array]]
"""Runs the original model: input set -> outputs in signature order."""


class DisagreementError(Exception):
    """An exporter's graph does not compute what the original computes; ``parity`` says where, if shapes and dtypes fit."""

    def __init__(self, message: str, parity: tuple[OutputParity, ...] = ()) -> None:
        super().__init__(message)
        self.parity = parity


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The worst element of one comparison; ``excess`` is |got - expected| / (atol + rtol * |expected|), above 1: outside."""

    excess: float
    error: float
    index: tuple[int, ...]
    got: float
    expected: float


def compare(got: Array, expected: Array, atol: float, rtol: float) -> Worst:
    """The element that is worst off. NaN agrees with NaN, an infinity with the same infinity."""
    if expected.size == 0:
        return Worst(excess=0.0, error=0.0, index=(), got=0.0, expected=0.0)
    wide: Any = np.complex128 if expected.dtype.kind == "c" else np.float64
    if expected.dtype.kind in "iu" and expected.dtype.itemsize == 8:
        wide = np.longdouble  # float64 has not enough bits for int64
    left, right = got.astype(wide), expected.astype(wide)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(left - right)
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        error = np.where(same, 0.0, error)
        finite = np.isfinite(left) & np.isfinite(right)
        bound = atol + rtol * np.abs(np.where(finite, right, 0.0))
        excess = np.where(
            error == 0.0,
            0.0,
            np.divide(
                error,
                bound,
                out=np.full(error.shape, np.inf, wide if wide is np.longdouble else np.float64),
                where=bound > 0,
            ),
        )
        excess = np.where(same, 0.0, np.where(finite, excess, np.inf))
    flat = int(np.argmax(excess))
    if not excess.flat[flat] and error.size:
        flat = int(np.argmax(np.where(finite, error, 0.0)))
    index = tuple(int(i) for i in np.unravel_index(flat, expected.shape))
    shown = (lambda v: float(abs(v))) if wide is np.complex128 else float
    return Worst(
        excess=float(excess[index]),
        error=float(error[index]) if not math.isnan(error[index]) else math.inf,
        index=index,
        got=shown(left[index]),
        expected=shown(right[index]),
    )


def magnitude(arrays: Sequence[Array]) -> float:
    """The largest finite magnitude over all samples of one output."""
    largest = 0.0
    for array in arrays:
        wide = np.abs(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64))
        finite = wide[np.isfinite(wide)]
        if finite.size:
            largest = max(largest, float(finite.max()))
    return largest


def derive_tolerances(
    names: Sequence[str], expected: Sequence[Sequence[Array]], relative: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """(atol, rtol) of each output: ``relative`` times its magnitude for floats, nothing for integers and booleans.

    Args:
        names: Outputs in signature order.
        expected: The original's outputs, for each sample.
        relative: Derived part of the magnitude, by output.
    """
    tolerances = {}
    for position, name in enumerate(names):
        arrays = [outputs[position] for outputs in expected]
        if not is_float(dtype_name(arrays[0])):
            tolerances[name] = (0.0, 0.0)
            continue
        part = relative[name]
        tolerances[name] = (part * magnitude(arrays), part)
    return tolerances


class EngineModel:
    """An ONNX file in ONNX Runtime on one CPU thread, graph optimisations off, without prepacking (half the memory)."""

    def __init__(self, path: Path, inputs: Sequence[str | None], outputs: Sequence[str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._runtime = onnxruntime
        self._inputs = inputs
        self._outputs = list(outputs)

    def run(self, values: Sequence[Array]) -> list[Array]:
        """Outputs in signature order for inputs in signature order."""
        binding = self._session.io_binding()
        keep = []
        for name, value in zip(self._inputs, values, strict=True):
            if name is None:
                continue
            value = np.ascontiguousarray(value).reshape(value.shape)
            if value.dtype.kind == "V" or value is not raw_bits(value):
                from edgebuild.model.signature import DTYPES

                feed = self._runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(
                    raw_bits(value), DTYPES[dtype_name(value)][0]
                )
            else:
                feed = self._runtime.OrtValue.ortvalue_from_numpy(value)
            keep.append((value, feed))
            binding.bind_ortvalue_input(name, feed)
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return [_from_ort(value) for value in binding.get_outputs()]


def _from_ort(value: Any) -> Array:
    kind = value.data_type()
    name = kind.removeprefix("tensor(").removesuffix(")")
    if name in ("bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"):
        known = {"float8e4m3fn": "float8_e4m3fn", "float8e4m3fnuz": "float8_e4m3fnuz"}
        known |= {"float8e5m2": "float8_e5m2", "float8e5m2fnuz": "float8_e5m2fnuz"}
        import torch

        tensor = torch.utils.dlpack.from_dlpack(value._ortvalue.to_dlpack())
        bits = torch.uint8 if tensor.element_size() == 1 else torch.uint16
        return np.asarray(tensor.contiguous().view(bits).numpy()).view(numpy_dtype(known.get(name, name)))
    return np.asarray(value.numpy())


def check_parity(
    engine: Callable[[Sequence[Array]], list[Array]],
    names: Sequence[str],
    input_names: Sequence[str],
    samples: Sequence[Inputs],
    expected: Sequence[Sequence[Array]],
    tolerances: Mapping[str, tuple[float, float]],
) -> tuple[OutputParity, ...]:
    """Compares every output on every sample.

    Returns:
        For each output its worst element over all samples; look at ``passed``.

    Raises:
        DisagreementError: An output has another dtype or shape than the original's.
    """
    worst: list[Worst | None] = [None] * len(names)
    for number, (sample, wanted) in enumerate(zip(samples, expected, strict=True)):
        got = engine([np.asarray(sample[name]) for name in input_names])
        for position, (name, left, right) in enumerate(zip(names, got, wanted, strict=True)):
            if dtype_name(left) != dtype_name(right) or left.shape != right.shape:
                message = (
                    f"output {name} on sample {number}: the original gives {_describe(right)}, "
                    f"the exported model {_describe(left)}"
                )
                raise DisagreementError(message)
            found = compare(left, right, *tolerances[name])
            present = worst[position]
            if present is None or (found.excess, found.error) > (present.excess, present.error):
                worst[position] = found
    results = []
    for name, final in zip(names, worst, strict=True):
        assert final is not None
        atol, rtol = tolerances[name]
        results.append(
            OutputParity(
                output=name,
                max_abs_error=final.error,
                index=final.index,
                got=final.got,
                expected=final.expected,
                atol=atol,
                rtol=rtol,
                passed=final.excess <= 1.0,
            )
        )
    return tuple(results)


def _describe(array: Array) -> str:
    return f"{dtype_name(array)}[{','.join(str(size) for size in array.shape)}]"


def explain(parity: Sequence[OutputParity]) -> str:
    """One line on the worst output that is outside its tolerance."""
    failed = max((p for p in parity if not p.passed), key=lambda p: p.max_abs_error)
    index = ",".join(str(i) for i in failed.index)
    return (
        f"output {failed.output}[{index}]: expected {failed.expected:.9g}, got {failed.got:.9g}, "
        f"|difference| {failed.max_abs_error:.3g} is over the tolerance "
        f"{failed.atol + failed.rtol * abs(failed.expected):.3g} (atol {failed.atol:.3g}, rtol {failed.rtol:.3g})"
    )


def perturbed(sample: Inputs, generator: np.random.Generator) -> dict[str, Array]:
    """``sample`` with every floating-point element moved by up to one unit in its last place, up or down."""
    moved: dict[str, Array] = {}
    for name, value in sample.items():
        array = np.asarray(value)
        if not is_float(dtype_name(array)) or array.dtype.kind == "c":
            moved[name] = array
            continue
        eps = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10}.get(dtype_name(array), 2.0**-7)
        factor = 1.0 + eps * generator.choice([-1.0, 0.0, 1.0], size=array.shape)
        moved[name] = (array.astype(np.float64) * factor).astype(array.dtype)
    return moved


def own_variation(
    reference: Reference, samples: Sequence[Inputs], expected: Sequence[Sequence[Array]], seed: int
) -> list[float]:
    """How much each output of the original itself moves when its inputs move by one unit in the last place (maximum |change|)."""
    generator = np.random.default_rng(seed)
    moved = [0.0] * len(expected[0])
    for sample, wanted in zip(samples, expected, strict=True):
        for _ in range(4):
            for position, (left, right) in enumerate(zip(reference(perturbed(sample, generator)), wanted, strict=True)):
                if left.shape != right.shape:
                    moved[position] = math.inf
                    continue
                found = compare(left, right, 0.0, 0.0)
                if math.isfinite(found.error):
                    moved[position] = max(moved[position], _max_error(left, right))
    return moved


def _max_error(left: Array, right: Array) -> float:
    if right.size == 0:
        return 0.0
    wide: Any = np.complex128 if right.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):
        error = np.abs(left.astype(wide) - right.astype(wide))
    finite = error[np.isfinite(error)]
    return float(finite.max()) if finite.size else 0.0


def check_repeatable(reference: Reference, sample: Inputs, names: Sequence[str]) -> None:
    """Runs the original twice with other seeds.

    Raises:
        GateError: An output is another one each time: parity can't be shown, and goldens would mean nothing.
    """
    import torch

    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(reference(sample))
    for name, left, right in zip(names, *runs, strict=True):
        if left.shape != right.shape or compare(left, right, 0.0, 0.0).excess > 0:
            message = f"output {name} of the original model differs from run to run on the same input: it draws random numbers"
            raise GateError(
                message,
                hint="put the random part behind an input, or switch it off in eval mode; then build again",
            )
