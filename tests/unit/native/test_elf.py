"""ELF files: read as binutils read them, never with a traceback, and refused where the board's loader would refuse them."""

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from elf_craft import MACHINES, craft_elf
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.errors import IncompatibleError, ToolError
from edgebuild.native.elf import ElfError, parse_elf, read_elf
from edgebuild.native.elf_check import NativeFile, check_native_files, newest_versions
from edgebuild.targets import TargetSpec, load_target

PI = load_target("raspberrypi4")  # aarch64, glibc 2.31, GLIBCXX 3.4.28
LOADER = "/lib/ld-linux-aarch64.so.1"
Check = Callable[..., None]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Checks files, given as bytes by their path in the bundle, against a target."""

    def run(files: dict[str, bytes], target: TargetSpec = PI) -> None:
        natives = []
        for number, (path, data) in enumerate(files.items()):
            source = tmp_path / f"{number}"
            source.write_bytes(data)
            natives.append(NativeFile(path=path, source=source))
        check_native_files(natives, target)

    return run


def program(**how: Any) -> bytes:
    return craft_elf(**{"interpreter": LOADER, "needed": ["libc.so.6"], **how})


def test_what_fits_the_board_passes(check: Check) -> None:
    wants = {"libc.so.6": [("GLIBC_2.17", "read"), ("GLIBC_2.31", "pthread_clockjoin_np")]}
    library = craft_elf(
        soname="libonnxruntime.so.1",
        needed=["libstdc++.so.6", "libc.so.6", "ld-linux-aarch64.so.1", "libown.so.2"],
        wants={
            "libstdc++.so.6": [("GLIBCXX_3.4.28", "_Zx"), ("CXXABI_1.3.12", "_Zy")],
            "libown.so.2": [("OWN_1", "f")],
        },
        runpath="$ORIGIN:${ORIGIN}/more",
    )
    own = craft_elf(soname="libown.so.2", offers=["libown.so.2", "OWN_1"])
    check({"bin/edgerun": program(wants=wants), "lib/libonnxruntime.so.1": library, "lib/libown.so.2": own})
    check({"bin/edgerun": program(runpath="$ORIGIN/../lib")})
    check({"bin/edgerun": craft_elf()})  # a static program


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (program(arch="x86_64"), "it is for x86_64, 64 bits, little-endian; expected aarch64"),
        (program(arch="armv7l"), "it is for armv7l, 32 bits"),
        (program(wide=False), "it is for aarch64, 32 bits"),
        (program(big_endian=True), "64 bits, big-endian"),
        (program(interpreter="/lib/ld-musl-aarch64.so.1"), "asks for the loader /lib/ld-musl-aarch64.so.1"),
        (
            program(wants={"libc.so.6": [("GLIBC_2.17", "read"), ("GLIBC_2.34", "dlsym"), ("GLIBC_2.32", "x")]}),
            r"dlsym@GLIBC_2\.34 of libc\.so\.6, raspberrypi4 has GLIBC 2\.31 at the oldest",
        ),
        (program(wants={"libc.so.6": [("GLIBC_ABI_DT_RELR", "")]}), r"GLIBC_ABI_DT_RELR of libc\.so\.6"),
        (program(wants={"libc.so.6": [("GLIBC_PRIVATE", "__x")]}), "__x@GLIBC_PRIVATE of .* no two releases share"),
        (
            program(wants={"libstdc++.so.6": [("GLIBCXX_3.4.29", "_Zf")]}),
            r"_Zf@GLIBCXX_3\.4\.29 .* has GLIBCXX 3\.4\.28 at the oldest",
        ),
        (program(wants={"libstdc++.so.6": [("CXXABI_1.3.13", "_Zf")]}), r"CXXABI_1\.3\.13 .* has CXXABI 1\.3\.12"),
        (program(needed=["libgomp.so.1"]), r"needs libgomp\.so\.1, which is neither in the bundle nor in the target's"),
        (program(runpath="/usr/local/lib"), "looks for libraries in '/usr/local/lib'"),
        (program(rpath="$ORIGIN:lib"), "looks for libraries in 'lib'"),
        (program(runpath="$ORIGIN/../../lib"), "looks for libraries in '.ORIGIN/../../lib'"),
        (program(runpath="$ORIGIN/$LIB"), r"looks for libraries in '.ORIGIN/.LIB'"),
        (program(runpath="$ORIGINAL"), "looks for libraries in '.ORIGINAL'"),
        (program(runpath="$ORIGIN:"), "looks for libraries in ''"),
    ],
)
def test_what_the_board_would_refuse_is_named_with_file_symbol_and_floor(check: Check, data: bytes, said: str) -> None:
    with pytest.raises(IncompatibleError, match=said) as caught:
        check({"bin/edgerun": data})
    assert caught.value.message.startswith("bin/edgerun can't run on raspberrypi4: ")
    assert "\n" not in caught.value.message


def test_a_weak_version_need_is_no_reason_to_refuse(check: Check) -> None:
    check({"bin/edgerun": program(wants={"libc.so.6": [("GLIBC_2.39", "new")]}, weak=True)})


def test_libraries_are_held_to_the_bundled_ones_and_programs_to_the_system(check: Check) -> None:
    # An armhf bundle brings its own C library: its libraries may be newer than the board, the program may not.
    libc = craft_elf(soname="libc.so.6", offers=["libc.so.6", "GLIBC_2.38"])
    wants = {"libc.so.6": [("GLIBC_2.38", "strtol")]}
    library = craft_elf(soname="liba.so", needed=["libc.so.6"], wants=wants)
    check({"bin/edgerun": program(), "lib/liba.so": library, "lib/libc.so.6": libc})
    with pytest.raises(IncompatibleError, match=r"lib/liba\.so .* strtol@GLIBC_2\.38 of libc\.so\.6, raspberrypi4 has"):
        check({"bin/edgerun": program(), "lib/liba.so": library})
    with pytest.raises(IncompatibleError, match=r"bin/edgerun can't run"):
        check({"bin/edgerun": program(wants=wants), "lib/libc.so.6": libc})
    newer = craft_elf(soname="liba.so", needed=["libc.so.6"], wants={"libc.so.6": [("GLIBC_2.41", "f")]})
    with pytest.raises(IncompatibleError, match=r"f@GLIBC_2\.41 of libc\.so\.6, which the bundled one does not have"):
        check({"lib/liba.so": newer, "lib/libc.so.6": libc})


def test_float_abis_of_arm_and_risc_v_are_told_apart(check: Check) -> None:
    pi2, riscv = load_target("raspberrypi2"), load_target("generic-riscv64")
    check({"lib/a.so": craft_elf(arch="armv7l"), "lib/b.so": craft_elf(arch="armv7l", flags=0x5000000)}, pi2)
    check({"lib/a.so": craft_elf(arch="riscv64")}, riscv)
    with pytest.raises(IncompatibleError, match="armel"):
        check({"lib/a.so": craft_elf(arch="armv7l", flags=0x5000200)}, pi2)
    with pytest.raises(IncompatibleError, match="lp64d"):
        check({"lib/a.so": craft_elf(arch="riscv64", flags=0)}, riscv)


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01", program()[:100], program()[:-1]])
def test_a_damaged_file_is_an_error_of_the_environment(check: Check, data: bytes) -> None:
    with pytest.raises(ToolError, match=r"lib/a\.so can't be used on raspberrypi4"):
        check({"lib/a.so": data})


@pytest.mark.parametrize("arch", sorted(MACHINES))
@pytest.mark.parametrize("big_endian", [False, True])
def test_every_field_is_read_in_both_sizes_and_orders(arch: str, big_endian: bool) -> None:
    data = craft_elf(
        arch=arch,
        big_endian=big_endian,
        interpreter="/lib/loader",
        soname="libself.so.1",
        needed=["libb.so", "liba.so"],
        rpath="/r",
        runpath="$ORIGIN:/s",
        wants={"liba.so": [("A_1", "one"), ("A_2.5", "two")], "libb.so": [("B_3", "three")]},
        offers=["libself.so.1", "SELF_2"],
    )
    file = parse_elf(data)
    assert (file.machine, file.bits, file.little_endian) == (
        MACHINES[arch],
        32 if arch == "armv7l" else 64,
        not big_endian,
    )
    assert (file.interpreter, file.soname, file.needed) == ("/lib/loader", "libself.so.1", ("libb.so", "liba.so"))
    assert file.search == ("/r", "$ORIGIN", "/s")
    assert [(n.library, n.version, n.symbol) for n in file.version_needs] == [
        ("liba.so", "A_1", "one"),
        ("liba.so", "A_2.5", "two"),
        ("libb.so", "B_3", "three"),
    ]
    assert file.version_definitions == {"libself.so.1", "SELF_2"}
    assert newest_versions(file) == {"A": "2.5", "B": "3"}


def real_files() -> list[Path]:
    """Programs and libraries of this machine, of many makers."""
    import numpy
    import onnxruntime

    numeric = sorted(Path(numpy.__file__).parent.rglob("*.so"))[:4]
    engine = [p for p in Path(onnxruntime.__file__).parent.glob("capi/*.so*") if p.stat().st_size > 10_000][:2]
    system = [Path(p).resolve() for p in ("/bin/ls", "/bin/sh", sys.executable) if Path(p).exists()]
    libraries = sorted(p for folder in Path("/lib").glob("*-linux-gnu*") for p in folder.glob("lib[cgms]*.so.*"))
    return [p.resolve() for p in [*numeric, *engine, *system, *libraries[:12]]]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf (binutils)")
def test_real_files_are_read_as_binutils_read_them() -> None:
    files = real_files()
    assert len(files) > 8
    for path in files:
        file = read_elf(path)
        said = subprocess.run(
            ["readelf", "--dynamic", "--version-info", "--wide", path], capture_output=True, text=True, check=True
        ).stdout
        assert list(file.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", said), path
        search = [folder for text in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", said) for folder in text.split(":")]
        assert list(file.search) == search, path
        needs = said.partition("Version needs section")[2]
        wanted: set[tuple[str, str]] = set()
        library = ""
        for line in needs.splitlines():
            if match := re.search(r"File: (\S+)", line):
                library = match[1]
            elif match := re.search(r"Name: (\S+)", line):
                wanted.add((library, match[1]))
        assert {(n.library, n.version) for n in file.version_needs} == wanted, path
        definitions = said.partition("Version definition section")[2].partition("Version needs section")[0]
        offered = set(re.findall(r"Index: \d+ .*Name: (\S+)", definitions))
        assert file.version_definitions == offered, path


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf (binutils)")
def test_the_named_symbol_is_one_that_wants_this_version() -> None:
    path = next(path for path in real_files() if read_elf(path).version_needs)
    said = subprocess.run(["readelf", "--dyn-syms", "--wide", path], capture_output=True, text=True, check=True).stdout
    for need in read_elf(path).version_needs:
        assert need.symbol
        assert re.search(rf"UND {re.escape(need.symbol)}@{re.escape(need.version)} ", said), need


def test_every_cut_of_a_file_is_read_or_refused() -> None:
    data = program(wants={"libc.so.6": [("GLIBC_2.34", "dlsym")]}, offers=["SELF_1"], soname="a", runpath="$ORIGIN")
    for size in range(len(data)):
        with pytest.raises(ElfError):
            parse_elf(data[:size])


def test_random_damage_of_files_never_ends_in_anything_but_our_error() -> None:
    generator = random.Random(3)
    small = program(wants={"libc.so.6": [("GLIBC_2.34", "dlsym")]}, offers=["A", "B"], soname="a", runpath="$ORIGIN")
    real = min((p for p in real_files() if p.stat().st_size < 400_000), key=lambda p: p.stat().st_size).read_bytes()
    refused = 0
    for data, count in ((small, 4000), (real, 400)):
        for _ in range(count):
            damaged = bytearray(data)
            for _ in range(generator.randint(1, 8)):
                # Most of what matters lies in front and, where it is small, everywhere.
                place = generator.randrange(min(len(data), 4096) if generator.random() < 0.7 else len(data))
                damaged[place] = generator.choice([0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)])
            try:
                parse_elf(bytes(damaged))
            except ElfError:
                refused += 1
    assert refused > 100


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_behind_the_magic_are_read_or_refused(tail: bytes) -> None:
    for data in (tail, b"\x7fELF" + tail, b"\x7fELF\x02\x01\x01" + bytes(9) + tail):
        with suppress(ElfError):
            parse_elf(data)


def test_a_chain_that_leads_out_of_the_file_is_refused() -> None:
    data = bytearray(program(wants={"libc.so.6": [("GLIBC_2.34", "dlsym")], "libm.so.6": [("GLIBC_2.34", "exp")]}))
    at = bytes(data).find(b"\x01\x00\x01\x00")
    data[at + 12 : at + 16] = b"\xff\xff\xff\xff"
    with pytest.raises(ElfError):
        parse_elf(bytes(data))


def test_the_targets_own_floor_decides(check: Check) -> None:
    data = program(wants={"libc.so.6": [("GLIBC_2.34", "dlsym")]})
    check({"bin/edgerun": data}, replace(PI, os=replace(PI.os, glibc="2.34")))
    with pytest.raises(IncompatibleError):
        check({"bin/edgerun": data}, replace(PI, os=replace(PI.os, glibc="2.33")))
