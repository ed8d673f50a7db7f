"""The cache: complete or absent, made once, held to its hashes, bounded, and never pulled away from under a user."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebuild.bundle import reader
from edgebuild.cache import SECTIONS, Cache, content_key, user_cache_folder
from edgebuild.errors import ResourceError, ToolError, UsageError

DAY = 24 * 3600.0


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def writes(data: bytes, calls: list[int] | None = None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        if calls is not None:
            calls.append(1)
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_bytes(data)

    return make


def age(path: Path, seconds: float) -> None:
    status = path.stat()
    os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))


def test_an_entry_is_made_once_and_then_found(cache: Cache) -> None:
    calls: list[int] = []
    first, hit = cache.find_or_make("export", "k", writes(b"1", calls))
    again, hit_again = cache.find_or_make("export", "k", writes(b"2", calls))
    assert (hit, hit_again, len(calls)) == (False, True, 1)
    assert again == first
    assert (again / "sub" / "file").read_bytes() == b"1"


def test_a_maker_that_fails_leaves_nothing(cache: Cache) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get_or_make("export", "k", make)
    assert cache.get("export", "k") is None
    assert [p.name for p in (cache.root / "export").iterdir() if p.is_dir()] == []


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte": lambda entry: (entry / "sub/file").write_bytes(b"gooe"),
    "a cut file": lambda entry: (entry / "sub/file").write_bytes(b"goo"),
    "a file that is gone": lambda entry: (entry / "sub/file").unlink(),
    "a folder in place of a file": lambda entry: ((entry / "sub/file").unlink(), (entry / "sub/file").mkdir()),
    "a file more": lambda entry: (entry / "sub/licence-more").write_bytes(b"packed by its name"),
    "a program that is none": lambda entry: (entry / "sub/program").chmod(0o644),
    "a link that is gone": lambda entry: (entry / "lib").unlink(),
    "a link to elsewhere": lambda entry: ((entry / "lib").unlink(), (entry / "lib").symlink_to(".")),
    "an index that is none": lambda entry: (entry / ".entry.json").write_text("{", encoding="utf-8"),
    "an index of something else": lambda entry: (entry / ".entry.json").write_text("[1]", encoding="utf-8"),
    "an index that is a folder": lambda entry: ((entry / ".entry.json").unlink(), (entry / ".entry.json").mkdir()),
    "an index that is gone": lambda entry: (entry / ".entry.json").unlink(),
    "nothing at all": lambda entry: (shutil.rmtree(entry), entry.mkdir()),
    "a file in place of all": lambda entry: (shutil.rmtree(entry), entry.write_bytes(b"")),
    "a link in place of all": lambda entry: (shutil.rmtree(entry), entry.symlink_to("/")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_anew(cache: Cache, damage: str) -> None:
    def make(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub/file").write_bytes(b"good")
        (folder / "sub/program").write_bytes(b"run")
        (folder / "sub/program").chmod(0o755)
        (folder / "lib").symlink_to("sub")

    entry = cache.get_or_make("native", "k", make)
    assert cache.find_or_make("native", "k", make) == (entry, True)
    DAMAGES[damage](entry)
    assert cache.get("native", "k") is None
    made, hit = cache.find_or_make("native", "k", make)
    assert not hit
    assert not made.is_symlink()
    assert (made / "lib/file").read_bytes() == b"good"
    assert os.access(made / "sub/program", os.X_OK)
    assert cache.find_or_make("native", "k", make) == (made, True)


def test_two_threads_and_two_caches_do_the_work_once(tmp_path: Path) -> None:
    calls: list[int] = []
    begun = threading.Barrier(4)

    def build() -> None:
        begun.wait()
        Cache(tmp_path).get_or_make("export", "k", writes(b"x" * 100_000, calls))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_killed_maker_leaves_no_entry_and_its_lock_is_free(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from edgebuild.cache import Cache
        def make(folder):
            (folder / "half").write_bytes(b"x")
            os.kill(os.getpid(), signal.SIGKILL)
        Cache(Path(sys.argv[1])).get_or_make("export", "k", make)
        """
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False, timeout=60)
    assert done.returncode == -9
    cache = Cache(tmp_path)
    assert cache.get("export", "k") is None
    left = [p for p in (tmp_path / "export").iterdir() if p.is_dir()]
    assert len(left) == 1
    assert (cache.get_or_make("export", "k", writes(b"1")) / "sub" / "file").read_bytes() == b"1"
    cache.trim()
    assert left[0].exists(), "it might be a living build's"
    age(left[0], 2 * DAY)
    cache.trim()
    assert not left[0].exists()


def test_an_error_of_what_is_made_is_not_blamed_on_the_cache(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        cache.get_or_make("export", "k", lambda _: (tmp_path / "elsewhere").open())  # type: ignore[arg-type, return-value]


def test_a_full_disk_is_said_with_what_to_do(cache: Cache) -> None:
    def make(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ResourceError, match="no space left for the cache") as caught:
        cache.get_or_make("export", "k", make)
    assert "cache clean" in str(caught.value.hint)


def test_a_root_that_can_not_be_used_is_the_environments_fault_and_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("", encoding="utf-8")
    for root in (tmp_path / "f", tmp_path / "f" / "below", Path("/proc/none")):
        with pytest.raises(ToolError, match="can't be used") as caught:
            Cache(root).get_or_make("export", "k", writes(b""))
        assert "XDG_CACHE_HOME" in str(caught.value.hint)
        with pytest.raises(ToolError, match="can't be used"):
            Cache(root).staging_folder()


def test_trim_removes_what_was_unused_for_longest_until_the_limit_holds(tmp_path: Path) -> None:
    maker = Cache(tmp_path)
    for number, key in enumerate("abc"):
        age(maker.get_or_make("export", key, writes(bytes(1000))) / ".entry.json", 1000.0 * (3 - number))
    del maker
    Cache(tmp_path, limit_bytes=2500).trim()
    assert [key for key in "abc" if Cache(tmp_path).get("export", key)] == ["b", "c"]


def test_trim_passes_over_what_another_instance_uses(tmp_path: Path) -> None:
    user = Cache(tmp_path)
    user.get_or_make("export", "k", writes(bytes(1000)))
    other = Cache(tmp_path, limit_bytes=0)
    other.trim()
    assert user.get("export", "k") is not None
    del user
    other.trim()
    assert Cache(tmp_path).get("export", "k") is None


def test_trim_bounds_unpacked_bundles_but_not_todays(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / "bundles" / name / "m.board").mkdir(parents=True)
        (tmp_path / "bundles" / name / "m.board" / "manifest.json").write_bytes(bytes(1000))
    age(tmp_path / "bundles" / "old", 2 * DAY)
    Cache(tmp_path, limit_bytes=0).trim()
    assert [p.name for p in (tmp_path / "bundles").iterdir() if not p.name.startswith(".")] == ["new"]


def test_trim_and_info_survive_entries_that_vanish_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, limit_bytes=0)
    cache.get_or_make("export", "k", writes(b"1"))
    original = os.lstat

    def lstat(path: object, **_: object) -> os.stat_result:
        if str(path).endswith("file"):
            raise FileNotFoundError(errno.ENOENT, "gone", str(path))
        return original(path)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "lstat", lstat)
    cache.trim()
    assert {section.name for section in cache.info()} == set(SECTIONS)


def test_clean_says_what_it_freed_and_knows_its_sections(tmp_path: Path) -> None:
    Cache(tmp_path).get_or_make("export", "k", writes(bytes(5000)))
    Cache(tmp_path).get_or_make("lower", "k", writes(bytes(7000)))
    cache = Cache(tmp_path)
    assert 5000 < cache.clean("export").freed_bytes < 6000
    assert list((tmp_path / "export").iterdir()) == []
    assert cache.get("export", "k") is None
    cleaned = cache.clean()
    assert 7000 < cleaned.freed_bytes < 8000
    assert cleaned.kept == 0
    assert cache.clean().freed_bytes == 0
    with pytest.raises(UsageError, match="no section 'exports'"):
        cache.clean("exports")


def test_clean_leaves_entries_that_an_instance_uses_and_takes_them_when_it_is_gone(tmp_path: Path) -> None:
    user = Cache(tmp_path)
    used = user.get_or_make("export", "used", writes(b"1"))
    Cache(tmp_path).get_or_make("export", "unused", writes(b"2"))
    assert Cache(tmp_path).clean().kept == 1
    assert (used / "sub" / "file").read_bytes() == b"1"
    assert not (tmp_path / "export" / "unused").exists()
    del user
    assert Cache(tmp_path).clean().kept == 0
    assert not used.exists()


def test_clean_does_not_touch_what_another_process_makes_stages_or_compiles(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from edgebuild.cache import Cache
        cache = Cache(Path(sys.argv[1]))
        staged = cache.staging_folder()
        def make(folder):
            (folder / "half").write_bytes(b"x")
            print("making", flush=True)
            sys.stdin.read()
            (folder / "rest").write_bytes(b"y")
        entry = cache.get_or_make("native", "k", make)
        assert sorted(p.name for p in entry.iterdir()) == [".entry.json", "half", "rest"]
        assert staged.is_dir()
        """
    )
    (tmp_path / "zig" / "global").mkdir(parents=True)
    (tmp_path / "zig" / "global" / "libcxx.a").write_bytes(bytes(1000))
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        assert builder.stdin is not None
        builder.stdout.readline()
        cleaned = Cache(tmp_path).clean()
        builder.stdin.close()
        assert builder.wait(60) == 0
    assert (cleaned.freed_bytes, cleaned.kept) == (0, 3)
    assert Cache(tmp_path).clean().freed_bytes > 1000
    assert [p.name for s in ("native", "staging", "zig") for p in tmp_path.glob(f"{s}/*")] == []


def test_clean_leaves_an_unpacked_bundle_whose_program_runs(tmp_path: Path) -> None:
    program = tmp_path / "bundles" / "running" / "m.board" / "sleep"
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/sleep", program)
    (tmp_path / "bundles" / "idle" / "m.board").mkdir(parents=True)
    with subprocess.Popen([program, "60"]) as running:
        try:
            cleaned = Cache(tmp_path).clean("bundles")
        finally:
            running.kill()
    assert cleaned.kept == 1
    assert [p.name for p in (tmp_path / "bundles").iterdir()] == ["running"]


def test_an_entry_made_while_its_lock_file_is_cleaned_away_is_still_made_once(tmp_path: Path) -> None:
    calls: list[int] = []
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            Cache(tmp_path).clean("export")

    def build(key: str) -> None:
        cache = Cache(tmp_path)
        for number in range(20):
            entry = cache.get_or_make("export", f"{key}{number}", writes(b"x", calls))
            assert (entry / "sub" / "file").read_bytes() == b"x"

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    builders = [threading.Thread(target=build, args=("k",)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    stop.set()
    sweeper.join()
    assert len(calls) >= 20


@pytest.mark.parametrize(
    ("base", "expected"), [("/x/y", "/x/y/edgebuild"), ("", "/h/.cache/edgebuild"), ("relative", "/h/.cache/edgebuild")]
)
def test_every_reader_finds_the_same_folder(base: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    assert str(user_cache_folder()) == expected
    assert Cache.default().root == user_cache_folder()
    assert reader.cache_folder() == user_cache_folder() / "bundles"


@pytest.mark.parametrize("limit", ["", "-1", "1.5", "many", "²"])
def test_a_limit_that_is_no_number_is_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBUILD_CACHE_LIMIT_MIB", limit)
    with pytest.raises(UsageError, match="EDGEBUILD_CACHE_LIMIT_MIB"):
        Cache.default()


def test_keys_differ_with_structure_and_not_with_the_order_of_mappings() -> None:
    assert content_key("a", {"x": 1, "y": 2}) == content_key("a", {"y": 2, "x": 1})
    keys = {content_key("a", "b"), content_key("ab"), content_key(["a", "b"]), content_key("a", None), content_key("a")}
    assert len(keys) == 5
