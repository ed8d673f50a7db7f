"""Runner: loads a bundle and runs its model, in this process, through the compiled C++ runner."""

import json
import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgebuild import _runtime
from edgebuild.errors import SignatureError
from edgebuild.installed_torch import find_torch
from edgebuild.model.signature import Signature, Structure


class PassedOver(NamedTuple):
    """A variant that can't run here, and why, naming what is missing."""

    variant: str
    reason: str


class ProfileEntry(NamedTuple):
    """Time of one node, summed over the profiled runs."""

    node: str
    op_type: str
    provider: str
    duration_ns: int
    calls: int


class Cancellation:
    """Stops runs from another thread: given to ``Runner.run``, it stops them when ``cancel`` is called.

    One serves any number of runs, of any Runners, at once and one after another.
    """

    def __init__(self) -> None:
        self._native = _runtime.Cancellation()

    def cancel(self) -> None:
        """Stop the runs that were given this: they raise CancelledError, or give their result if that came first.

        Returns when they have ended. Later runs raise CancelledError at once, until ``reset``.
        """
        self._native.cancel()

    def reset(self) -> None:
        """Let later runs begin again."""
        self._native.reset()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called, and not ``reset`` since."""
        return self._native.cancelled


def _engine_folders() -> dict[str, tuple[str, str]]:
    """Engines that Python has, or may import later, by name: folder of the libraries, and version.

    Two copies of LibTorch can't be in one process, so where the torch package is installed its own libraries serve.
    """
    torch = find_torch()
    return {} if torch is None else {"libtorch": (str(torch.library_folder), torch.version)}


class Runner:
    """A loaded model. Any number of threads may use one Runner at once; the GIL is released while it runs.

    Args:
        path: A bundle, as a folder or as an ``.edge`` archive.
        backend: Only variants of this backend, e.g. ``"onnxruntime"``.
        variant: Only this variant.
        fallback: False: the first variant that is asked for must run here, else IncompatibleError.
        options: Engine options that override the variant's, e.g. ``{"intra_op_threads": "1"}``.
        runtime_path: Folders of external engine libraries, separated by colons; by default ``$EDGEBUILD_RUNTIME_PATH``.
        state_dir: Where what is made on the board lies: what ``edgerun tune`` measured. By default
            ``$XDG_STATE_HOME/edgebuild/<id>``; need not exist.
        cache_dir: Where archives are unpacked; by default ``$XDG_CACHE_HOME/edgebuild/bundles``.
        tuning: False: variants are tried in the target's order, whatever ``edgerun tune`` kept.

    Variants for LibTorch run with the libraries of the installed torch package, imported or not; if that is another version than the
    bundle's, they are passed over.

    Attributes:
        variant: The one that was loaded.
        keeps_state: Whether the model keeps state from run to run; then this Runner has one state, and its runs wait for each other.
        variant_order: In which order they were tried, and why, e.g. "the target's: not tuned on this machine …".

    Raises:
        BundleError: The bundle's bytes are not what its manifest or the format says.
        IncompatibleError: No variant can run here; the message holds the reason for each.
        UsageError: There is no such file, backend, variant or option.
        ResourceError: Memory, disk or descriptors ran out.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        backend: str | None = None,
        variant: str | None = None,
        fallback: bool = True,
        options: Mapping[str, object] | None = None,
        runtime_path: str | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        tuning: bool = True,
    ) -> None:
        self._native = _runtime.Runner(
            os.fspath(path),
            backend=backend or "",
            variant=variant or "",
            fallback=fallback,
            options={name: str(value) for name, value in (options or {}).items()},
            runtime_path=runtime_path or "",
            state_dir=os.fspath(state_dir or ""),
            cache_dir=os.fspath(cache_dir or ""),
            tuning=tuning,
            engine_folders=_engine_folders(),
            slow_path=_as_array,
        )
        self._run = self._native.run
        self.signature = Signature.from_json(json.loads(self._native.signature_json))
        self.variant = self._native.variant
        self.backend = self._native.backend
        self.engine_version = self._native.engine_version
        self.variant_order = self._native.variant_order
        self.bundle_id = self._native.bundle_id
        self.keeps_state = self._native.keeps_state
        self.passed_over = tuple(PassedOver(*entry) for entry in self._native.passed_over)

    def run(
        self,
        inputs: Mapping[str, ArrayLike | list[Any] | None],
        *,
        structured: bool = False,
        deadline: float | None = None,
        out: Mapping[str, NDArray[Any]] | None = None,
        profile: bool = False,
        cancellation: Cancellation | None = None,
    ) -> Any:
        """Run one inference.

        A C-contiguous NumPy array of the signature's dtype is not copied. Objects with ``__dlpack__`` on the CPU
        are taken as they are; lists and Python numbers are converted if nothing but precision is lost. Types that NumPy
        lacks are arrays of ml_dtypes, or raw ``uint16`` (bfloat16) and ``uint8`` (8 bits and fewer, one element a byte) arrays.
        Sequences are lists, an absent optional is None or left out.

        Args:
            inputs: ``{name: value}`` with the signature's names.
            structured: Return the outputs as the original model nested them, instead of a flat dict.
            deadline: Seconds after which the run is stopped.
            out: Arrays to write outputs into, by name, each with the result's dtype and shape.
            profile: Collect node times; see ``profile``.
            cancellation: What may stop the run from another thread.

        Returns:
            ``{name: value}`` in the signature's order; with ``structured`` whatever the original model returned.
            Arrays lie in the engine's own memory where it allocated them; they stay valid without this Runner.

        Raises:
            SignatureError: A name, dtype, rank or size does not fit; names the tensor.
            DeadlineError: The deadline passed.
            CancelledError: ``cancellation`` stopped it, or had been called before.
            InternalError: The engine failed; the Runner stays usable.
        """
        bound = None if out is None else dict(out)
        given = inputs if type(inputs) is dict else dict(inputs)
        if cancellation is None:
            results = self._run(given, deadline, bound, profile)
        else:
            results = self._run(given, deadline, bound, profile, cancellation._native)
        if not structured:
            return results
        return _rebuild(self.signature.output_structure, list(results.values()))

    def reset(self) -> None:
        """Put the model's state back to what the bundle holds, once the run in progress has ended.

        Nothing to do for a model that keeps none; see ``keeps_state``.
        """
        self._native.reset()

    def preprocess(self, name: str, images: ArrayLike) -> NDArray[Any]:
        """Make decoded images into an input, as the bundle's ``preprocessing`` says; calibration did the same.

        Args:
            name: Of the input.
            images: ``uint8`` of shape (H, W), (H, W, C) or (N, H, W, C), C = 1, 3 (RGB) or 4 (RGBA), e.g. ``np.asarray(image)``
                of a Pillow image.

        Returns:
            The input with its batch axis, e.g. (1, 3, 224, 224).

        Raises:
            UsageError: The bundle says nothing about this input.
            SignatureError: The images have another dtype or shape.
        """
        return self._native.preprocess(name, np.asarray(images))

    def profile(self) -> tuple[ProfileEntry, ...]:
        """Node times of the runs with ``profile=True`` so far, in the order of execution.

        Raises:
            IncompatibleError: The backend can't profile.
        """
        return tuple(ProfileEntry(*entry) for entry in self._native.profile())

    def close(self) -> None:
        """Give the model up; outputs stay valid. Running afterwards is a UsageError."""
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        inputs = ", ".join(map(str, self.signature.inputs))
        outputs = ", ".join(map(str, self.signature.outputs))
        return f"<Runner {self.variant} ({self.backend} {self.engine_version}): {inputs} -> {outputs}>"


def _rebuild(structure: Structure, values: list[Any]) -> Any:
    """The model's own nesting of ``values``; ``structure`` as in the manifest."""
    ((kind, content),) = structure.items()
    match kind:
        case "tensor":
            return values[content]
        case "tuple":
            return tuple(_rebuild(item, values) for item in content)
        case "list":
            return [_rebuild(item, values) for item in content]
        case "dict":
            return {key: _rebuild(item, values) for key, item in content}
        case _:  # a constant
            return content


def _numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype for one of ours; for types that NumPy lacks that of ml_dtypes, else the raw integer."""
    if name == "string":
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:
        try:
            import ml_dtypes
        except ImportError:
            return np.dtype(np.uint16 if name == "bfloat16" else np.uint8)
        extension: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extension


def _as_array(value: Any, dtype: str, name: str) -> NDArray[Any]:
    """Make a C-contiguous, aligned, native array of what the compiled module can't take as it is.

    Called by it. An array keeps its dtype (a wrong one is for the runner to refuse); what has no dtype of its own, such as
    a list, gets the one that is wanted, where NumPy calls that a cast of the same kind.
    """
    if isinstance(value, np.ndarray):
        return np.require(value, dtype=value.dtype.newbyteorder("="), requirements=["C", "A"])
    if hasattr(value, "__dlpack__") and not isinstance(value, np.generic):
        return np.require(_from_dlpack(value, name), requirements=["C", "A"])
    wanted = _numpy_dtype(dtype)
    try:
        array = np.asarray(value)
        if (
            array.dtype != wanted
            and not isinstance(value, np.generic)
            and np.can_cast(array.dtype, wanted, "same_kind")
        ):
            array = np.asarray(value, dtype=wanted)
        elif dtype == "string" and array.dtype.kind not in "OUS":
            array = array.astype(object)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"input '{name}': expected an array of {dtype}, got {type(value).__name__}: {error}"
        raise SignatureError(msg) from error
    return np.require(array, requirements=["C", "A"])


def _from_dlpack(value: Any, name: str) -> NDArray[Any]:
    torch = sys.modules.get("torch")
    bits: NDArray[Any]
    try:
        if torch is not None and isinstance(value, torch.Tensor):
            value = value.detach()
            if value.dtype == torch.bfloat16:  # DLPack has it, NumPy does not
                bits = np.from_dlpack(value.view(torch.uint16))
                return bits
        bits = np.from_dlpack(value)
    except (BufferError, TypeError, RuntimeError, ValueError) as error:
        msg = f"input '{name}': can't take {type(value).__name__} through DLPack: {error}"
        raise SignatureError(msg, hint="move it to the CPU, or pass a numpy array") from error
    return bits
