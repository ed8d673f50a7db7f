"""Every model of the corpus is exported; EDGEBUILD_TEST_WHOLE_CORPUS=1 takes it in all its forms, else in one."""

import hashlib
import io
import os
import warnings

import models_attention
import models_control
import models_layers
import models_tensors
import numpy as np
import onnx
import pytest
import torch
from export_case import CASES, Case
from export_sources import make_source

from edgebuild.export.local import settled
from edgebuild.export.stage import export_source
from edgebuild.model.request import ModelRequest

assert all((models_attention, models_control, models_layers, models_tensors))  # they register their models
FORMS = {"t": "traced", "s": "scripted", "e": "module"}
WHOLE_CORPUS = os.environ.get("EDGEBUILD_TEST_WHOLE_CORPUS", "") not in ("", "0")


def chosen_forms(case: Case) -> str:
    """One of the model's forms, by a hash of its name: the same in every run, spread over the corpus."""
    if WHOLE_CORPUS:
        return case.forms
    return case.forms[hashlib.sha256(case.name.encode()).digest()[0] % len(case.forms)]


def parameters():
    for case in CASES:
        for form in chosen_forms(case):
            yield pytest.param(case, form, id=f"{case.name}-{FORMS[form]}")


def load(case: Case, form: str, inputs):
    torch.manual_seed(0)
    module = case.build().eval()
    if form == "e":
        return module
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "t":
            tensors = tuple(torch.from_numpy(np.array(array)) for array in inputs)
            script = torch.jit.trace(module, tensors, check_trace=False, strict=False)
        else:
            script = torch.jit.script(module)
        buffer = io.BytesIO()
        torch.jit.save(script, buffer)
        buffer.seek(0)
        return torch.jit.load(buffer)


@pytest.mark.parametrize(("case", "form"), list(parameters()))
def test_model_is_exported_and_computes_the_same(case, form, tmp_path, capfd):
    samples = [case.draw(np.random.default_rng(seed), size) for seed, size in enumerate((3, 3, 5))]
    dynamic = {(index, axis): symbol for index, axis, symbol in case.dynamic}
    source = make_source(load(case, form, samples[0]), samples, dynamic=dynamic)
    with settled(0):
        result = export_source(source, ModelRequest(path=None), tmp_path, lambda _: None)
    assert all(parity.passed for parity in result.parity)
    assert result.attempts[-1].error is None
    model = onnx.load(result.onnx)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == list(result.engine_outputs)
    assert [value.name for value in model.graph.input] == [name for name in result.engine_inputs if name]
    for sample in samples:  # the tolerance means something: doubled outputs would not pass it
        for array, spec in zip(source.reference(dict(zip([s.name for s in source.inputs], sample, strict=True)))[0],
                               result.signature.outputs, strict=True):  # fmt: skip
            finite = np.abs(array[np.isfinite(array)]) if array.dtype.kind == "f" else np.zeros(0)
            atol, rtol = result.tolerances[spec.name]
            if finite.size and finite.max() > 0:
                assert atol + rtol * finite.max() < 0.5 * finite.max()
