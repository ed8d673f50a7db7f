"""What is said of an inferred input: the flag that overrides it has a letter of its own for each size that was guessed."""

import pytest

from edgebuild.model.announce import sentence
from edgebuild.model.guess import Guess


@pytest.mark.parametrize(
    ("axes", "shape", "flag"),
    [
        (("batch", 3, "space", "space"), (1, 3, 224, 224), "N,3,H,W"),
        (("batch", "space", "space", 3), (1, 224, 224, 3), "N,H,W,3"),
        (("batch", 1, "space", "space", "space"), (1, 1, 8, 8, 8), "N,1,D,H,W"),
        (("batch", 4, "space"), (1, 4, 64), "N,4,L"),
        (("batch", "sequence", "sequence"), (1, 16, 16), "N,T,T2"),
        ((7, 2), (7, 2), "7,2"),
    ],
)
def test_the_override_names_each_guessed_size(axes: tuple[int | str, ...], shape: tuple[int, ...], flag: str) -> None:
    said = sentence("x", Guess(axes=axes, dtype="uint8", reason="channels"), shape)
    assert said.endswith(f"override with --input 'x:uint8[{flag}]'")
    assert f"'x' is uint8[{','.join(map(str, shape))}]: channels" in said


def test_a_guess_without_a_reason_says_so() -> None:
    said = sentence("memory", Guess(axes=("batch", "sequence"), dtype="float32", reason=""), (1, 16))
    assert "float32[1,16]: nothing says its shape; axis 1 = 16 was tried and accepted" in said
