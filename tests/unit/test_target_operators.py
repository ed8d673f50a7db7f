"""Target files name operators outside the standard; the pinned engine has kernels for each."""

from edgebuild.quantize.fused_rows import OPERATORS
from edgebuild.targets import load_target, targets_folder

FILES = sorted(targets_folder().glob("*.toml"))


def test_fused_operators_are_those_that_the_pinned_engine_has_kernels_for() -> None:
    import onnxruntime
    from onnxruntime.capi import _pybind_state

    kernels = {
        f"{definition.domain or 'ai.onnx'}.{definition.op_name}"
        for definition in _pybind_state.get_all_opkernel_def()
        if definition.provider == "CPUExecutionProvider"
    }
    checked = 0
    for file in FILES:
        for backend in load_target(str(file)).runtime:
            assert backend.name == "onnxruntime" or not backend.fused_operators, file.name
            if backend.version == onnxruntime.__version__:
                assert set(backend.fused_operators) - set(OPERATORS) <= kernels, file.name
                checked += len(backend.fused_operators)
    assert checked
