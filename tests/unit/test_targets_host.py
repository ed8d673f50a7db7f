"""The target `host`: this very machine."""

import re
from pathlib import Path

import pytest

from edgebuild import machine as this_host
from edgebuild.errors import IncompatibleError, UsageError
from edgebuild.targets import file as target_file
from edgebuild.targets import list_targets, load_target, load_target_file, targets_folder

FILES = sorted(targets_folder().glob("*.toml"))


def machine(arch: str, features: tuple[str, ...], glibc: str | None = "2.36") -> this_host.Machine:
    return this_host.Machine(arch=arch, cpu_name="Test CPU", features=features, cores=3, memory_mib=999, glibc=glibc)


def test_host_is_filled_in_from_the_machine_and_not_portable(monkeypatch: pytest.MonkeyPatch) -> None:
    features = ("avx2", "avx_vnni", "sse4_2")
    monkeypatch.setattr(target_file, "this_machine", lambda: machine("x86_64", features))
    host, base = load_target("host"), load_target("x86-64")
    assert not host.portable
    assert "not portable" in host.description
    assert (host.soc.features, host.soc.cores, host.soc.memory_mib) == (features, 3, 999)
    assert host.runtime == base.runtime
    assert host.os.glibc == base.os.glibc  # older than the machine's, so the base's runner serves
    assert [s.cpu_features for s in host.quantization["onnxruntime"]] == [("avx2", "avx_vnni"), ()]


@pytest.mark.parametrize(("glibc", "expected"), [("2.17", "2.17"), ("2.28", "2.28"), ("2.100", "2.28"), (None, "2.28")])
def test_host_takes_the_older_c_library(monkeypatch: pytest.MonkeyPatch, glibc: str | None, expected: str) -> None:
    monkeypatch.setattr(target_file, "this_machine", lambda: machine("x86_64", (), glibc))
    assert load_target("host").os.glibc == expected


def test_host_follows_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_file, "this_machine", lambda: machine("aarch64", ("asimd", "fp")))
    assert load_target("host").toolchain.triple == "aarch64-linux-gnu"
    monkeypatch.setattr(target_file, "this_machine", lambda: machine("riscv64", ()))
    with pytest.raises(IncompatibleError, match="this machine is riscv64"):
        load_target("host")
    assert "host" not in [spec.name for spec in list_targets()]
    assert len(list_targets()) == len(FILES) - 1


def test_host_on_this_very_machine_has_the_features_of_its_cpuinfo() -> None:
    spec = load_target("host")
    text = Path("/proc/cpuinfo").read_text()
    assert spec.soc.features
    for feature in spec.soc.features:
        assert re.search(rf"\b{re.escape(feature)}\b", text)


def test_cpuinfo_of_every_architecture_is_understood() -> None:
    x86 = "model name\t: A CPU\nflags\t\t: sse2 avx2\nprocessor: 1\nmodel name\t: A CPU\nflags\t\t: sse2\n"
    assert this_host.parse_cpuinfo(x86) == ("A CPU", ("sse2",))
    arm = "processor : 0\nFeatures : fp asimd crc32\nCPU part : 0xd08\n\nModel : Raspberry Pi 4 Model B\n"
    assert this_host.parse_cpuinfo(arm) == ("Raspberry Pi 4 Model B", ("asimd", "crc32", "fp"))
    riscv = "hart : 0\nisa : rv64imafdc_zba_zbb\nuarch : sifive,u74-mc\n"
    assert this_host.parse_cpuinfo(riscv) == ("sifive,u74-mc", ("a", "c", "d", "f", "i", "m", "zba", "zbb"))
    assert this_host.parse_cpuinfo("isa : RV64GC_Zba\n") == ("", ("a", "c", "d", "f", "i", "m", "zba"))
    assert this_host.parse_cpuinfo("isa : rv64i2p1m2p0_zicsr2p0_zvl128b_sv39\n")[1] == (
        "i",
        "m",
        "sv39",
        "zicsr",
        "zvl128b",
    )
    assert this_host.parse_cpuinfo("nonsense") == ("", ())


def test_a_host_template_refuses_an_unknown_architecture_key(tmp_path: Path) -> None:
    file = tmp_path / "host2.toml"
    file.write_text('schema_version = 1\ndescription = "d"\n[host]\nx86-64 = "x86-64"\n')
    with pytest.raises(UsageError, match=r"unknown key host\.x86-64"):
        load_target_file(file)
