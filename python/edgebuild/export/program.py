"""The torch.export form of a model, tensors in and a flat tuple of tensors out: what AOTInductor compiles."""

from pathlib import Path

from edgebuild.export.failure import summary
from edgebuild.model.source import ModelSource

PROGRAM_FILE = "model.pt2"


def write_program(source: ModelSource, path: Path) -> str:
    """Writes the program.

    Returns:
        Why there is none, in one line; empty: it was written.
    """
    import torch

    from edgebuild.export.exporters.dynamo import export_program
    from edgebuild.export.flat import flat_module

    try:
        if isinstance(source.module, torch.jit.ScriptModule):
            from edgebuild.export.rewrites.interpreter import ScriptInterpreter

            flat = flat_module(source, ScriptInterpreter(source.module))
        else:
            flat = flat_module(source)
        program = export_program(flat, source, strict=False)
        # Writes show only in the functional form; as it is, the program has what the compiler fuses best.
        signature = program.run_decompositions({}).graph_signature
        if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
            return "it writes into its inputs, or into itself"
        torch.export.save(program, str(path))
    except Exception as error:  # whatever the exporter stumbles on; the TorchScript form is there
        path.unlink(missing_ok=True)
        return summary(error)
    return ""
