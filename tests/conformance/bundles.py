"""A conformance case as a thin bundle in its directory form: no export, no optimisation, just the model and its signature."""

from pathlib import Path

from edgebuild.bundle.reader import Bundle
from edgebuild.devices.scratch import write_scratch_bundle

from .cases import Case


def write_thin_bundle(case: Case, library: Path, folder: Path) -> Bundle:
    """The case as a bundle directory in ``folder`` that takes the engine from the runtime path."""
    return write_scratch_bundle(case.model, folder, engine=library, options={})
