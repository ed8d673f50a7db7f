"""The native runner's reader against the Python one, over the whole corpus."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bundle_corpus import Case, all_cases, archive_case, mutations
from bundle_parts import contents, entries, tar
from bundle_verdicts import verify_verdict

_BUILT = Path(__file__).parents[3] / "build/dev/cpp/apps/edgerun/edgerun"


@pytest.fixture(scope="module")
def edgerun() -> Path:
    path = Path(os.environ.get("EDGEBUILD_TEST_EDGERUN", _BUILT))
    if not path.is_file():
        pytest.skip(f"{path} is not built (set EDGEBUILD_TEST_EDGERUN to a built edgerun)")
    return path


def _mutated(folder: Path) -> Iterator[Case]:
    place = folder / "judged.edge"
    for number, manifest in enumerate(mutations(200, 21)):
        data = tar(entries(contents(manifest)))
        place.write_bytes(data)  # the whole bundle is judged: a sound manifest may list other sizes or hashes
        yield archive_case(f"mutated-{number}", data, verify_verdict(place))


def _wrong(edgerun: Path, command: str, cases: list[Case], folder: Path) -> list[tuple[str, int, int, str]]:
    """Cases for which ``edgerun COMMAND`` does not exit as it must: name, expected, got, last line of its message."""
    environment = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(folder / "cache")}

    def run(case: Case) -> tuple[str, int, int, str] | None:
        place = folder / case.name
        case.write(place)
        done = subprocess.run(
            [edgerun, command, place],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=60,
        )
        one_line = len(done.stderr.strip().splitlines()) <= 1 or done.returncode == 0
        # After all hashes, `verify` runs the goldens; the corpus holds no real model, so a sound bundle ends there.
        unrunnable = done.returncode in (2, 5) and "variant " in done.stderr
        if command == "verify" and case.exit_code == 0 and unrunnable:
            return None
        if done.returncode != case.exit_code or not one_line:
            return case.name, case.exit_code, done.returncode, done.stderr[-300:]
        return None

    with ThreadPoolExecutor(2) as pool:
        return [found for found in pool.map(run, cases) if found is not None]


def test_edgerun_verify_gives_the_exit_code_of_every_case(edgerun: Path, tmp_path: Path) -> None:
    cases = [*all_cases(), *_mutated(tmp_path)]
    assert len(cases) > 1200
    assert _wrong(edgerun, "verify", cases, tmp_path) == []


def test_edgerun_inspect_refuses_what_opening_alone_shows(edgerun: Path, tmp_path: Path) -> None:
    cases = [case for case in all_cases() if case.at_open]
    assert _wrong(edgerun, "inspect", cases, tmp_path) == []
