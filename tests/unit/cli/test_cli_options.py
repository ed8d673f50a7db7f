"""Sizes on the command line."""

import click
import pytest

from edgebuild.cli.options import ByteSize


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("40000000", 40_000_000),
        ("1B", 1),
        ("40MiB", 40 * 2**20),
        ("40M", 40 * 2**20),
        ("40m", 40 * 2**20),
        ("40MB", 40_000_000),
        ("1.5GiB", 3 * 2**29),
        (" 512 KiB ", 512 * 1024),
    ],
)
def test_a_size_is_read_in_every_usual_spelling(text: str, size: int) -> None:
    assert ByteSize().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "0", "0.1", "-1", "forty", "40X", "40MiBs", "1e3", "nan", "4 0", "40iB", "4٣"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected a size such as 40MiB"):
        ByteSize().convert(text, None, None)
