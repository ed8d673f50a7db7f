"""The TorchScript form inside the export stage: written, held against the original, or refused with a reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebuild.errors import EdgebuildError, GateError, ModelError
from edgebuild.export.arrays import Array
from edgebuild.export.failure import summary
from edgebuild.export.judge import compare_with_original
from edgebuild.export.parity import DisagreementError
from edgebuild.export.result import SCRIPT_FILE, ScriptForm
from edgebuild.export.script import ScriptEngine, relative_tolerances, write_script
from edgebuild.model.request import ModelRequest
from edgebuild.model.source import Inputs, ModelSource


@dataclass(frozen=True, kw_only=True)
class JudgedScript:
    """A TorchScript form that computes what the original does."""

    form: ScriptForm
    sized_by_data: bool
    keeps_state: bool
    notes: tuple[str, ...]


def make_script(
    source: ModelSource,
    request: ModelRequest,
    directory: Path,
    names: Sequence[str],
    expected: Sequence[Sequence[Array]],
    reference: Callable[[Inputs], list[Array]] | None,
) -> JudgedScript:
    """Writes ``model.ts`` into ``directory`` and proves it; arguments as ``compare_with_original`` takes them.

    Raises:
        ModelError: The model has no TorchScript form.
        GateError: The form does not compute what the original does.
    """
    script = write_script(source, directory / SCRIPT_FILE)
    inputs = [spec.name for spec in source.inputs]
    try:
        relative = relative_tolerances(ScriptEngine(script.path), names, inputs, source.samples)
        engine = ScriptEngine(script.path)  # with the state that the file holds
        parity, tolerances, notes = compare_with_original(
            source, request, names, expected, reference, engine.run, relative
        )
    except DisagreementError as error:
        msg = f"the TorchScript form does not compute what the original computes: {error}"
        raise GateError(
            msg, hint="if the difference is harmless, widen the tolerance with --parity-tol ATOL,RTOL"
        ) from error
    except (EdgebuildError, MemoryError):
        raise
    except Exception as error:  # whatever the model's own code does when it is run
        msg = f"the TorchScript form of {source.name} does not run: {summary(error)}"
        raise ModelError(msg, hint="see that the model runs after torch.jit.freeze") from error
    form = ScriptForm(
        origin=script.origin,
        inputs=script.inputs,
        outputs=tuple(str(index) for index in range(len(names))),
        precision=script.precision,
        parity=parity,
        tolerances=tolerances,
    )
    return JudgedScript(form=form, sized_by_data=script.sized_by_data, keeps_state=script.keeps_state, notes=notes)
