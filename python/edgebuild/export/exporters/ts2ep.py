"""torch's own TorchScript-to-ExportedProgram converter."""

import torch
from torch._export.converter import TS2EPConverter

from edgebuild.export.arrays import to_torch
from edgebuild.export.exporters.dynamo import choose_sample
from edgebuild.model.source import ModelSource, TensorArgument


class UnsuitableError(Exception):
    """This way is not for this model."""


def convert_script(source: ModelSource) -> torch.export.ExportedProgram:
    """The program of a ScriptModule whose arguments are just its tensors, with fixed shapes.

    Raises:
        UnsuitableError: The model has dynamic axes, or other arguments.
    """
    plain = all(isinstance(argument, TensorArgument) for argument in source.args) and not source.kwargs
    if source.symbols or not plain:
        message = "the converter takes neither dynamic axes nor bound arguments"
        raise UnsuitableError(message)
    sample = choose_sample(source)
    args = tuple(to_torch(sample[source.inputs[a.index].name]) for a in source.args if isinstance(a, TensorArgument))
    with torch.no_grad():
        return TS2EPConverter(source.module, args).convert()
