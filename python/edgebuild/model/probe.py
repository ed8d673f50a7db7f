"""Runs a model a few times to find out how it behaves: random, stateful, picking by order."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgebuild.model.source import Inputs
from edgebuild.model.values import Call, flatten_outputs, to_numpy

_RANDOM = [
    "rand",
    "randn",
    "randint",
    "randperm",
    "rand_like",
    "randn_like",
    "randint_like",
    "bernoulli",
    "multinomial",
    "normal",
    "uniform",
    "exponential",
    "geometric",
    "cauchy",
    "log_normal",
    "random",
    "poisson",
    "native_dropout",
    "rrelu_with_noise",
]
_PICKING = [
    "topk",
    "argmax",
    "argmin",
    "sort",
    "argsort",
    "kthvalue",
    "mode",
    "median",
    "max",
    "min",
    "unique",
    "nonzero",
]


CHANGES_STATE = "forward changes the model's own state"
"""How the note begins that says so."""


class State:
    """The buffers and tensor attributes of a module, and a way back to them.

    A reference run must give the same result every time; a module that counts, or keeps a running state, would not.
    """

    def __init__(self, module: Any) -> None:
        import torch

        self.module = module
        self.saved: list[tuple[Any, str, Any, Any, int]] = []
        self.changed: set[str] = set()
        for owner, attributes in _owners(module):
            for name, value in attributes:
                copy = value.clone() if isinstance(value, torch.Tensor) else value
                self.saved.append((owner, name, value, copy, getattr(value, "_version", 0)))

    def restore(self) -> None:
        """Puts back what a run has changed, and remembers which attributes those were."""
        import torch

        for owner, name, value, copy, _ in self.saved:
            current = getattr(owner, name, None)
            if isinstance(copy, torch.Tensor):
                if current is not value and not _same_tensor(current, value):
                    self.changed.add(name)
                    setattr(owner, name, value)
                if value.shape != copy.shape or not _equal(value, copy):
                    self.changed.add(name)
                    with torch.no_grad():
                        value.resize_(copy.shape).copy_(copy)
            elif current != copy:
                self.changed.add(name)
                setattr(owner, name, copy)


def _owners(module: Any) -> Iterator[tuple[Any, list[tuple[str, Any]]]]:
    """What holds state, each with its attributes.

    A torch.export program hands its own buffers and constants to every module that is made of it.
    """
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        parameters = set(module.graph_signature.parameters)
        held = {name: value for name, value in module.state_dict.items() if name not in parameters}
        held |= {name: value for name, value in module.constants.items() if isinstance(value, torch.Tensor)}
        yield SimpleNamespace(**held), list(held.items())
    elif isinstance(module, torch.nn.Module):
        for owner in module.modules():
            yield owner, _attributes(owner)


def _attributes(owner: Any) -> list[tuple[str, Any]]:
    import torch

    found = list(owner.named_buffers(recurse=False))
    if isinstance(owner, torch.jit.ScriptModule):
        known = {name for name, _ in found} | {name for name, _ in owner.named_parameters(recurse=False)}
        names = [n for n in _script_names(owner) if n not in known]
        for name in names:
            value = getattr(owner, name, None)
            plain = isinstance(value, torch.Tensor | int | float) or value is None
            if plain and name != "training":
                found.append((name, value))
        return found
    skip = {"training", "dump_patches", "call_super_init"}
    for name, value in vars(owner).items():
        plain = isinstance(value, torch.Tensor | int | float | bool | str) or value is None
        if not name.startswith("_") and name not in skip and plain:
            found.append((name, value))
    return found


def _script_names(owner: Any) -> list[str]:
    try:
        attributes = owner._c._type().attributes() if hasattr(owner._c, "_type") else ()
        return [attribute.name for attribute in attributes]
    except (AttributeError, RuntimeError):
        return []


def _same_tensor(one: Any, two: Any) -> bool:
    import torch

    if not isinstance(one, torch.Tensor) or not isinstance(two, torch.Tensor):
        return False
    return bool(one.data_ptr() == two.data_ptr() and one.shape == two.shape and one.dtype == two.dtype)


def _equal(one: Any, two: Any) -> bool:
    import torch

    return bool(torch.equal(one, two) or torch.allclose(one.double(), two.double(), rtol=0, atol=0, equal_nan=True))


def behaviour(call: Call, module: Any, state: State, samples: Sequence[Inputs]) -> list[str]:
    """Sentences about what the runs showed: random outputs, state, outputs that depend on an order."""
    import torch

    notes: list[str] = []
    sample = samples[0]

    def outputs(seed: int, restore: bool) -> list[Any]:
        torch.manual_seed(seed)
        if restore:
            state.restore()
        return [to_numpy(tensor) for _, tensor in flatten_outputs(call.run(module, sample))[0]]

    names = [name for name, _ in flatten_outputs(call.run(module, sample))[0]]
    state.restore()
    operators = _operators(call, module, sample)
    first, again = outputs(1, True), outputs(1, False)
    other = outputs(2, True)
    state.restore()
    random = [name for name, a, b in zip(names, first, other, strict=False) if not _alike(a, b)]
    stateful = [name for name, a, b in zip(names, first, again, strict=False) if not _alike(a, b)]
    used = sorted(operators & set(_RANDOM))
    if random:
        which = ", ".join(used) or "an operator that was not identified"
        notes.append(
            f"output {_list(random)} is random (operators: {which}): it changes from run to run, so parity can't hold; "
            "make the noise an input, or remove it for inference"
        )
    elif used:
        notes.append(f"the model draws random numbers ({', '.join(used)}) that do not reach its outputs")
    if state.changed:
        what = ", ".join(sorted(state.changed)[:5])
        effect = (
            f"output {_list(stateful)} depends on it" if stateful else "the outputs do not depend on it in two runs"
        )
        notes.append(
            f"{CHANGES_STATE} ({what}); {effect}; the bundle always starts from the saved state, so "
            "make the state an input and an output to carry it from run to run"
        )
    elif stateful and not random:
        notes.append(
            f"output {_list(stateful)} differs between two equal runs: the model keeps a state outside its buffers"
        )
    picking = sorted(operators & set(_PICKING))
    integers = [name for name, array in zip(names, first, strict=False) if array.dtype.kind in "iub"]
    if picking and integers:
        near = _near_ties(call, module, state, samples, names)
        text = f"; near-ties seen in {_list(near)}" if near else ""
        notes.append(
            f"integer output {_list(integers)} comes from an order ({', '.join(picking)}): values that tie within rounding may "
            f"swap places on another engine{text}"
        )
    return notes


def _near_ties(call: Call, module: Any, state: State, samples: Sequence[Inputs], names: Sequence[str]) -> list[str]:
    """Integer outputs that change when the float inputs move by a few units in the last place."""
    import torch

    found: list[str] = []
    for number, sample in enumerate(samples[:3]):
        rng = np.random.default_rng(number)
        moved = {
            name: (a * (1 + rng.uniform(-1e-6, 1e-6, a.shape)).astype(a.dtype) if a.dtype.kind == "f" else a)
            for name, a in sample.items()
        }
        results = []
        for inputs in (sample, moved):
            torch.manual_seed(1)
            state.restore()
            results.append([to_numpy(t) for _, t in flatten_outputs(call.run(module, inputs))[0]])
        for name, a, b in zip(names, *results, strict=False):
            if a.dtype.kind in "iub" and not _alike(a, b) and name not in found:
                found.append(name)
    return found


def _operators(call: Call, module: Any, sample: Inputs) -> set[str]:
    """Names of the operators that one run executes, without namespace, overload and trailing underscore."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found: set[str] = set()

    class Recorder(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found.add(func.__name__.partition(".")[0].rstrip("_"))
            return func(*args, **(kwargs or {}))

    try:
        with Recorder():
            call.run(module, sample)
    except Exception:  # some models can't run under a dispatch mode; the two-seed runs still tell
        return found
    return found


def _alike(one: Any, two: Any) -> bool:
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    if one.dtype.kind in "iubO":
        return bool(np.array_equal(one, two))
    a, b = one.astype(np.complex128), two.astype(np.complex128)
    return bool(np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True))


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
