"""Which backends a bundle gets: the usual ones, those that are named, or the one that takes what ONNX can't express."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from edgebuild import backend_choice
from edgebuild.backend_choice import takers, wanted_torchscript
from edgebuild.backends import libtorch
from edgebuild.cache import Cache
from edgebuild.errors import UsageError
from edgebuild.native.sources import find_sources
from edgebuild.targets import BackendSpec, TargetSpec, load_target
from edgebuild.targets.spec import lowest_opset

TARGET = load_target("x86-64")


def choose_backends(target: TargetSpec, named: list[str]) -> tuple[BackendSpec, ...]:
    return backend_choice.choose_backends(target, named, {}, Cache.default()).specs


def names(specs: Any) -> list[str]:
    return [spec.name for spec in specs]


def test_a_backend_on_demand_is_in_a_bundle_only_if_it_is_named() -> None:
    assert names(choose_backends(TARGET, [])) == ["onnxruntime"]
    assert names(choose_backends(TARGET, ["libtorch", "onnxruntime"])) == ["libtorch", "onnxruntime"]
    with pytest.raises(UsageError, match="may be named once"):
        choose_backends(TARGET, ["libtorch", "libtorch"])


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ([], "fallback"),
        (["onnxruntime"], "never"),
        (["libtorch"], "only"),
        (["onnxruntime", "libtorch"], "also"),
    ],
)
def test_torchscript_is_asked_for_as_the_backends_need_it(named: list[str], wanted: str) -> None:
    assert wanted_torchscript(TARGET, choose_backends(TARGET, named), named=bool(named)) == wanted


def test_a_target_without_libtorch_has_nothing_to_fall_back_to() -> None:
    bare = load_target("raspberrypi4")
    assert wanted_torchscript(bare, choose_backends(bare, []), named=False) == "never"


def test_without_a_graph_libtorch_takes_the_place_of_what_needs_one() -> None:
    graph, none = SimpleNamespace(opset=20), SimpleNamespace(opset=None)
    options = {"memory_arena": "0", "intra_op_threads": "2"}
    for named in ([], ["onnxruntime", "libtorch"]):
        chosen = backend_choice.choose_backends(TARGET, named, options, Cache.default())
        assert takers(chosen, TARGET, graph, options) is chosen  # type: ignore[arg-type]
        taker = takers(chosen, TARGET, none, options)  # type: ignore[arg-type]
        assert names(taker.specs) == ["libtorch"]
        assert taker.options == {"libtorch": {"intra_op_threads": "2"}}  # the other is ONNX Runtime's


def test_a_backend_that_loads_no_onnx_sets_no_limit_on_the_opset() -> None:
    usual, torchscript = (TARGET.backend(name) for name in ("onnxruntime", "libtorch"))
    assert lowest_opset([usual, torchscript]) == usual.opset_max == TARGET.opset_max
    assert lowest_opset([replace(usual, opset_max=17), usual, torchscript]) == 17
    assert lowest_opset([torchscript]) == 26


def test_the_options_of_libtorch_are_those_of_its_plugin() -> None:
    code = (find_sources().root / "cpp/backends/libtorch/model.cpp").read_text(encoding="utf-8")
    (known,) = re.findall(r"it knows ([\w, ]+)\"", code)
    assert known.split(", ") == list(libtorch.OPTIONS)
    assert [value for value in libtorch.OPTIONS["graph_optimization"] if f'value != "{value}"' in code] == [
        "basic",
        "all",
    ]
