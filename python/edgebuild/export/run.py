"""The parent's side of the export stage: a model file is loaded and run in a child process only; never imports torch for one."""

import contextlib
import io
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgebuild
from edgebuild.errors import DeadlineError, EdgebuildError, ModelError, ResourceError, UsageError
from edgebuild.export.protocol import decode_error
from edgebuild.export.result import ExportedModel
from edgebuild.model.request import ModelRequest

_GRACE_S = 2.0  # between the polite and the last signal
_LOG_TAIL = 20_000  # characters of a worker's noise that an error carries


def export_model(
    request: ModelRequest,
    directory: Path,
    *,
    module: Any = None,
    deadline: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ExportedModel:
    """Exports one model into ``directory`` and proves that the result computes what the original does.

    A file or a factory goes to a child process, whose crash, endless loop or noise stays there; a Python object is exported in
    this process, where a deadline can't be enforced.

    Args:
        request: The model, and what the user said about it.
        directory: Is made; what it holds of an earlier export is overwritten.
        module: An ``nn.Module``, ``ScriptModule`` or ``ExportedProgram`` in place of the file.
        deadline: ``time.monotonic()`` by which it must be done; None: no limit.
        progress: Called with one short line at each step.

    Raises:
        ModelError: The model can't be loaded or exported; names operator and line.
        GateError: The exported model differs from the original.
        DeadlineError: The deadline passed; the child is gone.
        ResourceError: The child was killed for memory, or the disk is full.
        UsageError: Neither a file nor a factory nor a module.
    """
    directory = Path(directory)
    if module is not None:
        noise = io.StringIO()
        with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            from edgebuild.export.local import export_here

            try:
                return export_here(request, directory, module=module, progress=progress)
            except EdgebuildError as error:
                _attach(error, noise.getvalue())
                raise
    if request.path is None and request.factory is None:
        message = "no model was given"
        raise UsageError(message, hint="pass a model file, package.module:factory, or a module")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "exported.json").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgebuild-export-") as folder:
        request_file = Path(folder) / "request.json"
        request_file.write_text(json.dumps(request.to_json()), encoding="utf-8")
        _run_worker(request_file, directory, Path(folder) / "log", deadline, progress)
    return ExportedModel.read(directory)


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    package_root = str(Path(edgebuild.__file__).parent.parent)
    paths = [package_root, *filter(None, [environment.get("PYTHONPATH")])]
    environment.update(
        PYTHONPATH=os.pathsep.join(paths),
        PYTHONHASHSEED="0",  # sets of names in exporters would come in another order each time
        PYTHONUNBUFFERED="1",
        CUDA_VISIBLE_DEVICES="",
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        OPENBLAS_NUM_THREADS="1",
        TOKENIZERS_PARALLELISM="false",
        NO_COLOR="1",
    )
    return environment


def _run_worker(
    request: Path, directory: Path, log: Path, deadline: float | None, progress: Callable[[str], None]
) -> None:
    reader, writer = os.pipe()
    command = [
        sys.executable,
        "-P",  # or a json.py in the current folder would be run as part of us
        "-m",
        "edgebuild.export.worker",
        str(request),
        str(directory),
        "--progress-fd",
        str(writer),
    ]
    started = time.monotonic()
    with log.open("wb") as noise:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=noise,
            stderr=subprocess.STDOUT,
            env=_environment(),
            pass_fds=(writer,),
            start_new_session=True,  # a group of its own: what the model starts dies with it
        )
    os.close(writer)
    failure: EdgebuildError | None = None
    step = "starting"
    try:
        for record in _records(reader, child, deadline):
            if "progress" in record:
                step = str(record["progress"])
                progress(step)
            elif "error" in record:
                failure = decode_error(record["error"])
        code = child.wait(None if deadline is None else max(deadline - time.monotonic(), 0.01))
    except (subprocess.TimeoutExpired, TimeoutError):
        message = f"the deadline passed after {time.monotonic() - started:.0f} s while {step}"
        running = step not in ("starting", "loading torch", "loading the model")
        hint = "the model may loop without end; or give it more time with --deadline"
        raise DeadlineError(message, hint=hint if running else "give it more time with --deadline") from None
    finally:
        os.close(reader)
        _kill_group(child)
    if code == 0 and failure is None:
        return
    error = failure or _explain_exit(code, step)
    _attach(error, log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:])
    raise error


def _records(reader: int, child: "subprocess.Popen[bytes]", deadline: float | None) -> Any:
    """JSON records from the pipe until the worker has closed it or is gone; TimeoutError at the deadline."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while True:
            remaining = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
            if remaining <= 0:
                raise TimeoutError
            if not selector.select(remaining):
                if child.poll() is not None and not selector.select(0):
                    return
                continue
            chunk = os.read(reader, 65536)
            if not chunk:
                return
            pending += chunk
            *lines, pending = pending.split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # a model may have found the descriptor and written to it
                    record = json.loads(line)
                    if isinstance(record, dict):
                        yield record


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    """Ends the worker and everything in its group; returns when the worker is reaped."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _explain_exit(code: int, step: str) -> EdgebuildError:
    if code < 0:
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            return ResourceError(
                f"the export worker was killed while {step}: probably memory ran out",
                hint="free memory or build on a larger machine; the kernel's log says whether it was its OOM killer",
            )
        return ModelError(
            f"the model's process died of {name} while {step}",
            hint="the model file may be damaged, or it needs a native extension; -v shows what it printed",
        )
    return ModelError(f"the model's process ended with code {code} while {step}", hint="-v shows what it printed")


def _attach(error: EdgebuildError, log: str) -> None:
    if log.strip():
        error.add_note(log.strip())
