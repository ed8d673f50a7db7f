import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.errors import UsageError
from edgebuild.model.request import DynamicRequest, InputRequest, ModelRequest
from edgebuild.model.signature import DTYPES
from edgebuild.model.spec import parse_argument, parse_arguments, parse_dynamic, parse_input


@given(
    name=st.none() | st.from_regex(r"[A-Za-z_][A-Za-z0-9_.:]*[a-z]", fullmatch=True),
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=st.lists(st.integers(0, 10**9), max_size=6),
)
def test_inputs_round_trip(name: str | None, dtype: str, shape: list[int]) -> None:
    text = ("" if name is None else f"{name}:") + f"{dtype}[{','.join(map(str, shape))}]"
    assert parse_input(text) == InputRequest(name=name, dtype=dtype, shape=tuple(shape))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x:float32", "column 10"),
        ("x:float32[1,2", "expected ']'"),
        ("x:flot32[1]", "did you mean 'float32'? at column 3"),
        ("x:float32[1,b]", "got 'b' at column 13"),
        ("x:float32[1,-1]", "got '-1' at column 13"),
        ("x:float32[1,,2]", "expected a size at column 13"),
        (":float32[1]", "is empty at column 1"),
        ("x:[1]", "expected a dtype at column 3"),
        ("x:float32[1]y", "unexpected 'y' at column 13"),
        ("", "column 1"),
    ],
)
def test_input_errors_show_the_place_and_an_example(text: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_input(text)
    assert what in str(caught.value)
    assert "float32[1,3,224,224]" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x:0=batch", (0, "batch", None, None, None)),
        ("x:-1=t[1..8..32]", (-1, "t", 1, 8, 32)),
        ("x:0=n[2..]", (0, "n", 2, None, None)),
        ("x:0=n[1..4..]", (0, "n", 1, 4, None)),
        ("x:0=n[1..9]", (0, "n", 1, None, 9)),
    ],
)
def test_dynamic_axes(text: str, expected: tuple[object, ...]) -> None:
    axis, symbol, low, best, high = expected
    got = parse_dynamic(text)
    assert got == DynamicRequest(input="x", axis=axis, symbol=symbol, minimum=low, best=best, maximum=high)  # type: ignore[arg-type]
    assert parse_dynamic(f"a:{text}").input == "a:x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x:2=h[32..64..128/16]", (32, 64, 128, 16)),
        ("x:2=h[32..128/16]", (32, None, 128, 16)),
        ("x:2=h[..64../ 32 ]", (None, 64, None, 32)),
        ("x:2=h[/8]", (None, None, None, 8)),
        ("x:2=h[1..2..3/1]", (1, 2, 3, 1)),
    ],
)
def test_a_step_after_the_range(text: str, expected: tuple[int | None, ...]) -> None:
    low, best, high, step = expected
    wanted = DynamicRequest(input="x", axis=2, symbol="h", minimum=low, best=best, maximum=high, step=step)
    assert parse_dynamic(text) == wanted
    request = ModelRequest(path="m", dynamic=(wanted,))
    assert ModelRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x:0=n[1..2..3/0]", "a step of 1 or more after '/'"),
        ("x:0=n[16..65..128/16]", "expected multiples of 16"),
        ("x:0=n[]", "expected '[min..best..max]'"),
        ("x:0=n[1..2/]", "expected '[min..best..max]'"),
        ("x", "expected '=symbol' at column 2"),
        ("x=n", "expected ':axis'"),
        ("x:a=n", "got 'a' at column 3"),
        ("x:0=", "expected a symbol"),
        (":0=n", "column 1"),
        ("x:0=n[3..2..1]", "min <= best <= max"),
        ("x:0=n[1]", "expected '[min..best..max]'"),
    ],
)
def test_dynamic_errors_show_the_place_and_an_example(text: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_dynamic(text)
    assert what in str(caught.value)
    assert "x:0=batch" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=-2", -2),
        ("a=1e3", 1000.0),
        ("a=true", True),
        ("a=none", None),
        ("a=same", "same"),
        ("a='1'", "1"),
        ("a=b=c", "b=c"),
    ],
)
def test_argument_values(text: str, value: object) -> None:
    name, got = parse_argument(text)
    assert name == "a"
    assert got == value
    assert type(got) is type(value)


def test_argument_errors() -> None:
    for text in ("a", "=1", "a=inf"):
        with pytest.raises(UsageError, match="sr=16000"):
            parse_argument(text)
    with pytest.raises(UsageError, match="twice"):
        parse_arguments(["a=1", "a=2"])
