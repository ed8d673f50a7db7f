import random
import re
import tomllib
from pathlib import Path

import pytest

from edgebuild.errors import UsageError
from edgebuild.native.prebuilt import runner_settings
from edgebuild.targets import TargetSpec, list_targets, load_target, load_target_file, targets_folder, toml_table
from edgebuild.targets import file as target_file

FILES = sorted(targets_folder().glob("*.toml"))
BOARDS = [file for file in FILES if file.stem != "host"]

# A board that states every key, as a user would write it.
BOARD = """
schema_version = 1
description = "a board"
aliases = ["b1"]
portable = true
[soc]
arch = "aarch64"
cpu = "cortex-a72"
features = ["asimd", "fp"]
cores = 4
memory_mib = 2048
[os]
glibc = "2.31"
glibcxx = "3.4.28"
libraries = ["libc.so.6"]
[toolchain]
triple = "aarch64-linux-gnu"
cpu_flags = ["-mcpu=cortex_a72"]
[[runtime]]
name = "tensorrt"
version = "10.3"
opset_max = 20
[[runtime]]
name = "onnxruntime"
version = "1.31.1"
opset_max = 26
options = { intra_op_threads = "2" }
fused_operators = ["com.microsoft.Gelu", "com.microsoft.MultiHeadAttention"]
[accelerator]
kind = "cuda"
compute_capability = "8.7"
cuda = "12.6"
tensorrt = "10.3"
[precision]
supported = ["float32", "int8"]
default = "float32"
[[quantization.onnxruntime]]
activation = "uint8"
weight = "int8"
symmetric_activations = false
per_channel = true
reduce_range = true
cpu_features = ["asimddp"]
[limits]
workspace_mib = 256
size_mib = 512
"""


def write_board(folder: Path, old: str = "", new: str = "", name: str = "myboard") -> Path:
    assert BOARD.count(old) >= 1
    file = folder / f"{name}.toml"
    file.write_text(BOARD.replace(old, new, 1) if old else BOARD)
    return file


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_target_of_the_project_loads(file: Path) -> None:
    spec = load_target(file.stem)
    assert spec.name == file.stem
    assert spec.description
    assert spec.runtime
    assert spec.precision.default in spec.precision.supported


@pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.stem)
def test_target_values_hold_together(file: Path) -> None:
    spec = load_target_file(file)
    # What the engines' wheels need is promised by the board, unless the engine comes with its own C library.
    if any(b.name == "onnxruntime" and b.version == "1.31.1" for b in spec.runtime):
        assert version(spec.os.glibc) >= (2, 28)
        assert version(spec.os.glibcxx) >= (3, 4, 22)
    for schemes in spec.quantization.values():
        # Without conditions at the end: any board of this kind can run INT8.
        assert schemes[-1].cpu_features == ()
        assert len({s.cpu_features for s in schemes}) == len(schemes)
    for scheme in spec.quantization.get("tensorrt", ()):
        assert (scheme.activation, scheme.weight, scheme.symmetric_activations) == ("int8", "int8", True)
    if spec.accelerator is not None and spec.accelerator.tensorrt is not None:
        assert spec.backend("tensorrt").version == spec.accelerator.tensorrt
    root = file.parent.parent
    assert (root / "toolchains" / "zig" / f"{spec.toolchain.triple}.cmake").is_file()


def test_one_compiled_runner_serves_all_64_bit_arm_boards() -> None:
    boards = [spec for spec in list_targets() if spec.soc.arch == "aarch64" and spec.portable]
    assert len(boards) >= 6
    assert all(runner_settings(board) == runner_settings(boards[0]) for board in boards)


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def test_unconditional_u8s8_on_x86_keeps_sums_of_two_products_below_16_bits() -> None:
    for spec in list_targets():
        if spec.soc.arch != "x86_64" or not spec.portable:
            continue
        for scheme in spec.quantization.get("onnxruntime", ()):
            if scheme.activation == "uint8" and not any("vnni" in feature for feature in scheme.cpu_features):
                largest_weight = 64 if scheme.reduce_range else 128
                assert 2 * 255 * largest_weight <= 2**15 - 1


def test_names_and_aliases_are_unique_and_all_lead_to_their_target() -> None:
    seen: dict[str, str] = {}
    for file in FILES:
        for name in [file.stem, *tomllib.loads(file.read_text()).get("aliases", [])]:
            assert name not in seen, f"{name} is in {seen[name]} and {file.stem}"
            seen[name] = file.stem
            assert load_target(name).name == file.stem


def test_jetson_is_the_orin() -> None:
    assert load_target("jetson").name == "jetson-orin"


def test_every_file_cites_where_its_values_come_from() -> None:
    for file in FILES:
        assert sum(line.startswith("#") for line in file.read_text().splitlines()) >= 2, file.name


def test_a_board_of_ones_own_is_loaded_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_board(tmp_path)
    spec = load_target(str(file))
    assert spec.name == "myboard"
    assert spec.soc.memory_mib == 2048
    assert [b.name for b in spec.runtime] == ["tensorrt", "onnxruntime"]
    assert spec.runtime[1].options == {"intra_op_threads": "2"}
    assert spec.runtime[0].fused_operators == ()
    assert spec.runtime[1].fused_operators == ("com.microsoft.Gelu", "com.microsoft.MultiHeadAttention")
    assert spec.opset_max == 20
    assert spec.accelerator is not None
    assert spec.accelerator.compute_capability == "8.7"
    assert spec.limits.workspace_mib == 256
    assert spec.quantization["onnxruntime"][0].reduce_range
    monkeypatch.chdir(tmp_path)
    assert load_target("myboard.toml").source == Path("myboard.toml")


def test_optional_keys_may_be_left_out(tmp_path: Path) -> None:
    text = re.sub(
        r"(?m)^(cores|memory_mib|aliases|portable|cpu_flags|options|fused_operators|reduce_range|workspace_mib|size_mib).*\n",
        "",
        BOARD,
    )
    file = tmp_path / "small.toml"
    file.write_text(text.replace("[limits]\n", ""))
    spec = load_target(str(file))
    assert (spec.soc.cores, spec.soc.memory_mib, spec.aliases, spec.portable) == (None, None, (), True)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("rasberrypi4", "raspberrypi4"),
        ("x86_65", "x86-64"),
        ("jetsno", "jetson"),
        ("Raspberry-Pi-4", "raspberrypi4"),
        ("jetson-orni", "jetson-orin"),
        ("hsot", "host"),
        ("x8664", "x86-64"),
    ],
)
def test_an_unknown_target_suggests_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_target(typed)
    assert repr(typed) in caught.value.message
    assert caught.value.hint is not None
    suggested = re.search(r"did you mean (\S+)\?", caught.value.hint)
    assert suggested is not None
    assert load_target(suggested[1]).name == load_target(meant).name


def test_a_name_is_suggested_rather_than_an_alias_that_reads_the_same() -> None:
    with pytest.raises(UsageError) as caught:
        load_target("x8664")
    assert str(caught.value.hint).startswith("did you mean x86-64? ")


def test_an_unknown_target_far_from_all_suggests_nothing() -> None:
    with pytest.raises(UsageError) as caught:
        load_target("zzzzqqqq")
    assert "did you mean" not in str(caught.value)
    assert "edgebuild targets" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said", "hint"),
    [
        ("memory_mib = 2048", "memory_gb = 2", "unknown key soc.memory_gb", "memory_mib"),
        ("memory_mib = 2048", 'memory_mib = "2 GiB"', "soc.memory_mib: expected an integer of at least 1 in MiB", None),
        ("memory_mib = 2048", "memory_mib = 0", "soc.memory_mib: expected an integer of at least 1 in MiB, without the unit, got 0", None),
        ("cores = 4", "cores = true", "soc.cores: expected an integer of at least 1, got true", None),
        ("cores = 4", "cores = 4.0", "soc.cores: expected an integer of at least 1, got 4.0", None),
        ('arch = "aarch64"', 'arch = "arm64"', 'soc.arch: expected one of x86_64, aarch64, armv7l, riscv64, got the string "arm64"', "aarch64"),
        ('features = ["asimd", "fp"]', 'features = "asimd fp"', "soc.features: expected an array of strings, got the string", None),
        ('features = ["asimd", "fp"]', 'features = ["asimd", 3]', "soc.features[1]: expected a string, got 3", None),
        ('features = ["asimd", "fp"]', 'features = ["fp", "fp"]', "soc.features: expected each string once, got fp twice", None),
        ("[soc]", "[sco]", "soc is missing: expected a table", "sco"),
        ("[limits]", "[limit]", "unknown key limit", "limits"),
        ("aliases", "alias", "unknown key alias", "aliases"),
        ('glibc = "2.31"', "glibc = 2.31", 'os.glibc: expected a version such as "2.28", got 2.31', None),
        ('glibc = "2.31"', 'glibc = "new"', 'os.glibc: expected a version such as "2.28", got the string "new"', None),
        ('cpu = "cortex-a72"\n', "", "soc.cpu is missing", None),
        ('triple = "aarch64-linux-gnu"', 'triple = "x86_64-linux-gnu"', "toolchain.triple: expected aarch64-…", None),
        ('triple = "aarch64-linux-gnu"', 'triple = "aarch64"', "toolchain.triple: expected a GNU triple", None),
        ('"-mcpu=cortex_a72"', '"-mcpu=native"', "toolchain.cpu_flags: expected flags that name", None),
        ('name = "tensorrt"', 'name = "tensorflow"', "runtime[0].name: expected one of", "tensorrt"),
        ('name = "tensorrt"', 'name = "onnxruntime"', "runtime: expected each backend once", None),
        ("opset_max = 26", "opset_max = 3", "runtime[1].opset_max: expected an integer of at least 7, got 3", None),
        ("opset_max = 26", "opset = 26", "runtime[1].opset_max is missing", "opset"),
        ('intra_op_threads = "2"', "intra_op_threads = 2", "runtime[1].options.intra_op_threads: expected a string, got 2", None),
        ('"com.microsoft.Gelu"', '"com.microsoft.Gely"', "runtime[1].fused_operators[0]: expected one of", "com.microsoft.Gelu"),
        ('kind = "cuda"', 'kind = "npu"', "accelerator.kind: expected one of cuda", None),
        ('supported = ["float32", "int8"]', 'supported = ["float32", "fp16", "int8"]', "precision.supported[1]: expected one of", None),
        ('supported = ["float32", "int8"]', "supported = []", "precision.supported: expected at least one of", None),
        ('default = "float32"', 'default = "float16"', "precision.default: expected one of float32, int8", "float32"),
        ('supported = ["float32", "int8"]', 'supported = ["float32"]', "quantization: expected a scheme exactly if", None),
        ("[[quantization.onnxruntime]]", "[[quantization.onxruntime]]", "unknown key quantization.onxruntime", "onnxruntime"),
        ("[[quantization.onnxruntime]]", "[[quantization.libtorch]]", "unknown key quantization.libtorch", None),
        ('weight = "int8"', 'weight = "int4"', "quantization.onnxruntime[0].weight: expected one of", "int8"),
        ("[[quantization.onnxruntime]]", "[[quantization.tensorrt]]", "quantization.tensorrt[0].activation: expected symmetric int8", None),
        ("per_channel = true", "per_channel = 1", "quantization.onnxruntime[0].per_channel: expected true or false, got 1", None),
        ("per_channel = true", "per_chanel = true", "quantization.onnxruntime[0].per_channel is missing", "per_chanel"),
        ("schema_version = 1", "schema_version = 2", "schema_version: expected 1, got 2", "version"),
        ("portable = true", 'portable = "yes"', "portable: expected true or false", None),
        ('description = "a board"', 'description = ""', "description: expected a string", None),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_what_was_expected(
    tmp_path: Path, old: str, new: str, said: str, hint: str | None
) -> None:
    file = write_board(tmp_path, old, new)
    with pytest.raises(UsageError) as caught:
        load_target(str(file))
    assert str(file) in caught.value.message
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    if hint is not None:
        assert hint in (caught.value.hint or "")


def test_no_single_misspelt_key_passes(tmp_path: Path) -> None:
    """Every key of the file, misspelt in turn by one letter, is an error that names the file."""
    lines = BOARD.strip().splitlines()
    keys = [n for n, line in enumerate(lines) if re.match(r"[a-z_]+ = ", line) or line.startswith("[")]
    rng = random.Random(7)
    for number in keys:
        line = lines[number]
        place = rng.choice([i for i, c in enumerate(line.split("=")[0]) if c.isalpha()])
        changed = line[:place] + ("x" if line[place] != "x" else "y") + line[place + 1 :]
        file = tmp_path / "board.toml"
        file.write_text("\n".join([*lines[:number], changed, *lines[number + 1 :]]))
        with pytest.raises(UsageError, match=re.escape(str(file))):
            load_target(str(file))


@pytest.mark.parametrize("junk", ["= = =", "[soc", "\x00", "schema_version = 1\nschema_version = 1\n"])
def test_what_is_no_toml_is_said_so(tmp_path: Path, junk: str) -> None:
    file = tmp_path / "b.toml"
    file.write_text(junk)
    with pytest.raises(UsageError, match="not valid TOML"):
        load_target(str(file))


def test_bytes_that_are_no_utf8_are_said_so(tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_bytes(b'description = "\xff"')
    with pytest.raises(UsageError, match="not valid TOML"):
        load_target(str(file))


def test_a_missing_file_and_a_folder_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_target(str(tmp_path / "none.toml"))
    (tmp_path / "dir.toml").mkdir()
    with pytest.raises(UsageError, match="can't be read"):
        load_target(str(tmp_path / "dir.toml"))


def test_a_file_name_that_can_name_no_bundle_is_refused(tmp_path: Path) -> None:
    file = write_board(tmp_path, name="my board")
    with pytest.raises(UsageError, match="no target name"):
        load_target(str(file))


def test_an_unknown_backend_of_a_target_names_those_it_has() -> None:
    with pytest.raises(UsageError, match="it has onnxruntime") as caught:
        load_target("x86-64").backend("onnxrutime")
    assert caught.value.hint == "did you mean onnxruntime?"


def test_installed_data_is_found_before_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebuild import targets

    package = tmp_path / "site" / "edgebuild"
    (package / "_data" / "targets").mkdir(parents=True)
    monkeypatch.setattr(targets, "__file__", str(package / "targets" / "__init__.py"))
    assert targets.targets_folder() == package / "_data" / "targets"
    (package / "_data" / "targets").rmdir()
    with pytest.raises(UsageError, match="incomplete"):
        targets.targets_folder()


def test_json_of_a_target_holds_no_folder_of_this_machine(tmp_path: Path) -> None:
    data = load_target(str(write_board(tmp_path))).to_json()
    assert data["source"] == "myboard.toml"
    assert str(tmp_path) not in repr(data)
    assert data["quantization"]["onnxruntime"][0]["weight"] == "int8"


def test_specs_are_frozen() -> None:
    spec = load_target("x86-64")
    assert isinstance(spec, TargetSpec)
    with pytest.raises(AttributeError):
        spec.name = "other"  # type: ignore[misc]


def test_reading_never_writes_a_default_over_a_wrong_type() -> None:
    table = toml_table.Table({"n": None}, file="f")
    with pytest.raises(UsageError):
        table.integer("n", minimum=0, default=7)
    assert target_file.SCHEMA_VERSION == 1


def test_the_example_of_the_page_is_a_target_that_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "targets.md").read_text()
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert example is not None
    file = tmp_path / "mybox.toml"
    file.write_text(example[1])
    assert len(load_target_file(file).quantization["onnxruntime"]) == 2
    for target in FILES:
        name = re.sub(r"raspberrypi[45]", "raspberrypi3", target.stem)  # one row for the three
        assert f"`{name}`" in page
