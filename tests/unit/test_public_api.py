"""The names of the package mean the same however and however often they are asked for."""

import subprocess
import sys

import pytest

SAME_FUNCTION = [
    "import edgebuild; first = edgebuild.build; second = edgebuild.build",
    "from edgebuild import build as first; from edgebuild import build as second",
    "import edgebuild.build; first = edgebuild.build; second = edgebuild.build",
    "from edgebuild.build import build as first; import edgebuild; second = edgebuild.build",
    "import edgebuild; first = edgebuild.build; from edgebuild.build import build_from_request; second = edgebuild.build",
    "import importlib, edgebuild; importlib.import_module('edgebuild.build'); first = second = edgebuild.build",
]


@pytest.mark.parametrize("statements", SAME_FUNCTION)
def test_build_is_the_function_every_time(statements: str) -> None:
    script = f"{statements}\nimport types\nassert isinstance(first, types.FunctionType), first\nassert second is first, second"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_module_of_the_same_name_stays_within_reach() -> None:
    script = (
        "import edgebuild, sys\nfrom importlib import import_module\nedgebuild.build\n"
        "module = import_module('edgebuild.build')\n"
        "assert module is sys.modules['edgebuild.build'] and module.build is edgebuild.build"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_option_that_build_does_not_have_is_a_usage_error_with_the_nearest_one() -> None:
    import edgebuild
    from edgebuild.errors import UsageError

    with pytest.raises(UsageError, match="'deadline'") as caught:
        edgebuild.build("m.pt", target="x86-64", deadline=3)
    assert "deadline_s" in str(caught.value.hint)
    for name in ("int8", "calib"):
        with pytest.raises(UsageError, match=f"'{name}'") as caught:
            edgebuild.build("m.pt", target="x86-64", **{name: True})
        assert "quantize=edgebuild.options.QuantizeOptions(calib=...)" in str(caught.value.hint)


def test_every_public_name_is_there_and_an_unknown_one_is_an_attribute_error() -> None:
    script = (
        "import edgebuild\n"
        "assert all(getattr(edgebuild, name) is getattr(edgebuild, name) for name in edgebuild.__all__)\n"
        "assert sorted(edgebuild.__all__) == dir(edgebuild)\n"
        "try:\n    edgebuild.biuld\nexcept AttributeError as error:\n    assert 'biuld' in str(error)\nelse:\n    raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
