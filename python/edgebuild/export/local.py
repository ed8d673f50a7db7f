"""Export in this process: settings that make it repeatable, then load and export."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgebuild.export.result import ExportedModel
from edgebuild.model.request import ModelRequest


@contextlib.contextmanager
def settled(seed: int) -> Iterator[None]:
    """One thread, fixed seeds, no autograd, torch's chatter off; what was changed is put back."""
    import torch

    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "torch", "onnxscript", "onnx_ir")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            torch.set_num_threads(threads)
            torch.set_rng_state(state)


def export_here(
    request: ModelRequest, directory: Path, *, module: Any = None, progress: Callable[[str], None] = lambda _: None
) -> ExportedModel:
    """Loads ``request``'s model (or takes ``module``), exports it and writes ``directory``, all in this process.

    Raises:
        EdgebuildError: As ``load`` and ``export_source`` say.
    """
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    with settled(request.seed):
        from edgebuild.export.stage import export_source
        from edgebuild.model.load import load

        progress("loading the model")
        source = load(request, module=module)
        if request.data is not None:
            from edgebuild.export.typical import with_data

            progress("running the original on calibration data")
            source = with_data(source, request.data)
        return export_source(source, request, directory, progress)
