"""What the user said about a model: values without torch, with a JSON form that crosses to the worker process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class InputRequest:
    """``--input '[name:]dtype[dims]'``; ``name`` None: by position."""

    name: str | None
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DynamicRequest:
    """``--dynamic 'name:axis=symbol[min..best..max/step]'``.

    ``minimum``, ``best`` and ``maximum`` are sizes; None means the default: 1, the given size, unbounded. Sizes are multiples
    of ``step``; None: any size, or what the model is found to take.
    """

    input: str
    axis: int
    symbol: str
    minimum: int | None = None
    best: int | None = None
    maximum: int | None = None
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """Calibration data in files: a folder or file, and the text form of what makes images in it into inputs."""

    path: str
    preprocess: str | None = None


TORCHSCRIPT_FORMS = ("never", "fallback", "also", "only")
"""Fallback: where no exporter makes an ONNX graph that holds. Also: beside one. Only: instead of one."""


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """One model as asked for.

    Args:
        path: A model file; None if ``factory`` alone makes the model.
        factory: ``package.module:callable`` that returns an ``nn.Module``; with ``path`` a state_dict, what it is loaded into.
        search_path: Folders put in front of ``sys.path`` when the factory is imported (the current folder).
        inputs: What ``--input`` said, in the order of the model's arguments.
        samples: ``.npz`` files with one input set each, keys are argument names.
        data: Data like those that the model will see, of which some become samples; None: there are none.
        dynamic: Axes whose size may change.
        arguments: Values of non-tensor arguments, JSON scalars or None.
        trust: Whether a pickle, which can run anything, may be loaded.
        parity_tolerance: ``(atol, rtol)`` that replaces the derived tolerance; None: derive it.
        opset_max: Highest ONNX opset that every backend of the target supports.
        seed: Of all random inputs.
        time_original: Whether to measure the original's latency.
        torchscript: Whether the TorchScript form is wanted: one of ``TORCHSCRIPT_FORMS``.
    """

    path: str | None
    factory: str | None = None
    search_path: tuple[str, ...] = ()
    inputs: tuple[InputRequest, ...] = ()
    samples: tuple[str, ...] = ()
    data: DataRequest | None = None
    dynamic: tuple[DynamicRequest, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    trust: bool = False
    parity_tolerance: tuple[float, float] | None = None
    opset_max: int = 26
    seed: int = 0
    time_original: bool = True
    torchscript: str = "never"

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "factory": self.factory,
            "search_path": list(self.search_path),
            "inputs": [{"name": i.name, "dtype": i.dtype, "shape": list(i.shape)} for i in self.inputs],
            "samples": list(self.samples),
            "data": None if self.data is None else {"path": self.data.path, "preprocess": self.data.preprocess},
            "dynamic": [
                {
                    "input": d.input,
                    "axis": d.axis,
                    "symbol": d.symbol,
                    "minimum": d.minimum,
                    "best": d.best,
                    "maximum": d.maximum,
                    "step": d.step,
                }
                for d in self.dynamic
            ],
            "arguments": dict(self.arguments),
            "trust": self.trust,
            "parity_tolerance": self.parity_tolerance,
            "opset_max": self.opset_max,
            "seed": self.seed,
            "time_original": self.time_original,
            "torchscript": self.torchscript,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ModelRequest":
        tolerance = data["parity_tolerance"]
        return cls(
            path=data["path"],
            factory=data["factory"],
            search_path=tuple(data["search_path"]),
            inputs=tuple(
                InputRequest(name=i["name"], dtype=i["dtype"], shape=tuple(i["shape"])) for i in data["inputs"]
            ),
            samples=tuple(data["samples"]),
            data=None if data["data"] is None else DataRequest(**data["data"]),
            dynamic=tuple(DynamicRequest(**d) for d in data["dynamic"]),
            arguments=data["arguments"],
            trust=data["trust"],
            parity_tolerance=None if tolerance is None else (tolerance[0], tolerance[1]),
            opset_max=data["opset_max"],
            seed=data["seed"],
            time_original=data["time_original"],
            torchscript=data["torchscript"],
        )
