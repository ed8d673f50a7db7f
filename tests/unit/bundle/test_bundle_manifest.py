import importlib.resources
import json
import random

import jsonschema
import pytest
from bundle_corpus import mutations
from bundle_manifest_cases import _BAD_PATHS, _EDITS, OK, edited, file_entry, manifest_cases, missing_keys
from bundle_parts import dump, sound_manifest
from bundle_preprocessing_cases import preprocessing_manifests
from bundle_verdicts import manifest_verdict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebuild.bundle import manifest as m
from edgebuild.bundle.paths import find_conflict, is_path, is_segment, to_segment
from edgebuild.errors import BundleError, EdgebuildError
from edgebuild.model.signature import DTYPES, ContainerType, Signature, SymbolRange, TensorType, ValueSpec, tensor_bytes


def test_every_manifest_of_the_corpus_gets_its_exit_code() -> None:
    cases = list(manifest_cases())
    assert len(cases) > 300
    assert len({name for name, _, _ in cases}) == len(cases)
    wrong = [(name, code, got) for name, data, code in cases if (got := manifest_verdict(data)) != code]
    assert not wrong


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("variants", 0, "speed"), "fast", ["variants[0].speed", "measured", "'fast'"]),
        (("files", "model/tiny.onnx", "size"), -1, ["files['model/tiny.onnx'].size", "0 or more", "-1"]),
        (("goldens", 0, "inputs", "x", "shape"), [2, 4], ["goldens[0].inputs['x'].file", "32 bytes", "24 bytes"]),
        (("signature", "inputs", 0, "type", "dtype"), "real", ["signature.inputs[0].type.dtype", "float32", "'real'"]),
        (("variants", 1, "tolerances"), {}, ["variants[1].tolerances", "'sum'"]),
    ],
)
def test_message_names_the_key_what_was_expected_and_what_came(
    where: tuple[str | int, ...], value: object, words: list[str]
) -> None:
    with pytest.raises(BundleError) as caught:
        m.Manifest.from_bytes(dump(edited(*where, to=value)))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_damaged_manifests_raise_nothing_but_our_errors_and_mostly_are_refused() -> None:
    verdicts = [manifest_verdict(data) for data in mutations(1500, 11)]
    assert set(verdicts) <= {0, 3, 5}
    assert verdicts.count(3) > 750
    assert verdicts.count(0) > 50


def test_sound_manifest_survives_the_round_trip_through_values() -> None:
    expected = sound_manifest()
    for variant in expected["variants"]:
        for tolerance in variant["tolerances"].values():
            tolerance["rtol"] = 0.0
    parsed = m.Manifest.from_bytes(dump(sound_manifest()))
    assert parsed.to_json() == expected
    assert m.Manifest.from_bytes(parsed.to_bytes()) == parsed


def test_canonical_bytes_do_not_depend_on_the_order_of_keys() -> None:
    def shuffled(value: object) -> object:
        if isinstance(value, dict):
            items = list(value.items())
            random.Random(3).shuffle(items)
            return {key: shuffled(item) for key, item in items}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    one, other = sound_manifest(), shuffled(sound_manifest())
    assert list(one) != list(other)  # type: ignore[call-overload]
    assert m.Manifest.from_json(one).to_bytes() == m.Manifest.from_json(other).to_bytes()


# Schema

# Rules that a JSON Schema can't state (references, sizes, counts that depend on other keys, bytes, spelling of numbers).
_BEYOND_SCHEMA = {
    "major-real", "name-too-long-with-target", "name-line-break", "input-name-twice", "input-shape-real", "input-type-too-deep",
    "symbol-best-below-min", "symbol-best-above-max", "symbol-step-real", "symbol-step-not-best", "symbol-name-1025-bytes", "structure-output-unused", "structure-index-too-large",
    "variant-name-twice", "variant-model-not-listed", "variant-data-not-listed", "variant-data-twice", "variant-data-unreferred",
    "variant-inputs-short", "variant-inputs-long", "variant-outputs-short", "variant-plugin-not-listed", "requires-glibc-line-break",
    "tolerance-missing", "tolerance-extra", "golden-none-at-all", "golden-input-missing", "golden-input-extra", "golden-file-not-listed",
    "golden-file-other-size", "golden-shape-other-size", "golden-shape-overflow-to-24-bytes", "golden-shape-overflow",
    "golden-shape-overflow-behind-zero", "golden-shape-overflow-before-zero", "golden-shape-bits-2-63", "golden-string-too-many",
    "golden-packed-size", "files-size-real", "engine-needed-twice", "engine-needed-as-the-engine", "engine-needed-size-real",
    "engine-bundled-needed-not-listed", "engine-bundled-needed-twice", "loader-program-not-listed", "loader-program-not-executable",
    "loader-program-elsewhere", "loader-library-elsewhere", "loader-library-not-listed", "loader-library-twice", "loader-library-is-program",
}  # fmt: skip
_PATHS_BEYOND_SCHEMA = {
    "Manifest.SHA256", "manifest.json/x", "BIN/edgerun", "Bin/EDGERUN", "bin/edgerun/x", "bin/EdgeRun/x", "bin", "elsewhere/x",
    "lib/x\n", "Lib/x", "manifest.txt",
}  # fmt: skip


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    text = importlib.resources.files("edgebuild.bundle").joinpath("manifest.schema.json").read_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    return jsonschema.Draft202012Validator(json.loads(text))


def test_schema_and_reader_agree_but_for_rules_that_a_schema_can_not_state(
    schema: jsonschema.Draft202012Validator,
) -> None:
    accepted = {name for name, where, value, code in _EDITS if schema.is_valid(edited(*where, to=value)) and code != OK}
    refused = {
        name for name, where, value, code in _EDITS if not schema.is_valid(edited(*where, to=value)) and code == OK
    }
    assert accepted == _BEYOND_SCHEMA
    assert not refused
    for name, data, code in missing_keys():
        assert schema.is_valid(data) == (code == OK or _is_name(name)), name
    for name, data, code, stated in preprocessing_manifests():
        assert schema.is_valid(data) == (code == OK or not stated), name
    assert {
        path for path in _BAD_PATHS if schema.is_valid(edited("files", path, to=file_entry(b"")))
    } == _PATHS_BEYOND_SCHEMA


def _is_name(case: str) -> bool:
    """Whether the key that ``without-…`` takes out is a name of the signature."""
    path = case.removeprefix("without-").split(".")
    holder = path[-2:-1]
    return holder == ["tolerances"] or (path[0] == "goldens" and holder in (["inputs"], ["outputs"]))


def test_schema_accepts_whatever_the_reader_accepts(schema: jsonschema.Draft202012Validator) -> None:
    accepted = [data for data in mutations(1500, 12) if manifest_verdict(data) == 0]
    assert accepted
    for data in accepted:
        schema.validate(json.loads(data))


def test_schema_knows_the_same_dtypes() -> None:
    text = importlib.resources.files("edgebuild.bundle").joinpath("manifest.schema.json").read_text()
    assert set(json.loads(text)["$defs"]["dtype"]["enum"]) == set(DTYPES)


# Random manifests

_names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12)
_segments = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True)
_sizes = st.integers(0, 2**53 - 1)
_dtypes = st.sampled_from(sorted(DTYPES))
_types = st.recursive(
    st.builds(
        TensorType, dtype=_dtypes, shape=st.none() | st.lists(st.none() | _names | _sizes, max_size=16).map(tuple)
    ),
    lambda inner: st.builds(ContainerType, kind=st.sampled_from(["sequence", "optional"]), element=inner),
    max_leaves=3,
)
_json = st.dictionaries(
    _names, st.none() | st.booleans() | _sizes | _names | st.floats(allow_nan=False, allow_infinity=False), max_size=3
)
_magnitudes = st.floats(0, allow_infinity=False)
_versions = st.from_regex(r"[0-9]{1,4}\.[0-9]{1,4}", fullmatch=True)


@st.composite
def _manifests(draw: st.DrawFn) -> m.Manifest:
    def specs() -> tuple[ValueSpec, ...]:
        names = draw(st.lists(_names, max_size=4, unique=True))
        return tuple(ValueSpec(name=name, type=draw(_types), layout=draw(st.none() | _names)) for name in names)

    inputs, outputs = specs(), specs()
    files = {"model/0": m.FileEntry(size=draw(_sizes), sha256=f"{draw(st.integers(0, 2**256 - 1)):064x}")}

    def golden(stem: str) -> m.GoldenValue:
        kind = draw(st.integers(0, 4))
        if kind == 0:
            return m.GoldenNone()
        if kind == 1:
            return m.GoldenSequence(items=tuple(golden(f"{stem}.{i}") for i in range(draw(st.integers(0, 2)))))
        dtype, shape = draw(_dtypes), tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
        size = (
            tensor_bytes(dtype, shape)
            if dtype != "string"
            else 4 * tensor_bytes("int8", shape) + draw(st.integers(0, 9))
        )
        files[f"golden/{stem}"] = m.FileEntry(size=size, sha256="0" * 64, executable=draw(st.booleans()))
        return m.GoldenTensor(dtype=dtype, shape=shape, file=f"golden/{stem}")

    def variant(name: str) -> m.Variant:
        library = draw(
            st.just("model/0") | st.builds(m.ExternalLibrary, file=_segments, size=_sizes, sha256=st.just("a" * 64))
        )
        return m.Variant(
            name=name,
            backend=draw(_segments),
            precision=draw(_names),
            model="model/0",
            data=draw(st.sampled_from([(), ("model/0",)])),
            inputs=tuple(draw(st.none() | _names) for _ in inputs),
            outputs=tuple(draw(_names) for _ in outputs),
            tolerances={spec.name: m.Tolerance(atol=draw(_magnitudes), rtol=draw(_magnitudes)) for spec in outputs},
            engine=draw(st.none() | st.builds(m.Engine, name=_names, version=_names, library=st.just(library))),
            plugin=draw(st.sampled_from([None, "model/0"])),
            options=draw(st.dictionaries(_names, _names, max_size=2)),
            requires=draw(
                st.builds(
                    m.Requirements,
                    cpu_features=st.lists(_names, max_size=2).map(tuple),
                    glibc=st.none() | _versions,
                    memory_bytes=st.none() | _sizes,
                    compute_capability=st.none() | _versions,
                )
            ),
            speed=draw(st.sampled_from(["measured", "unproved"])),
            numerics=draw(st.none() | _json),
        )

    minimum, best = sorted((draw(_sizes), draw(_sizes)))
    return m.Manifest(
        name=draw(_segments),
        target=m.Target(name=draw(_segments), arch=draw(_segments), triple=draw(_names)),
        signature=Signature(
            inputs=inputs,
            outputs=outputs,
            symbols={draw(_names): SymbolRange(minimum=minimum, best=best, maximum=draw(st.none() | st.just(best)))},
            output_structure={"dict": [[draw(_names), {"tensor": i}] for i in range(len(outputs))]},
        ),
        variants=tuple(variant(name) for name in draw(st.lists(_segments, min_size=1, max_size=3, unique=True))),
        goldens=tuple(
            m.Golden(
                inputs={spec.name: golden(f"{g}.in.{i}") for i, spec in enumerate(inputs)},
                outputs={spec.name: golden(f"{g}.out.{i}") for i, spec in enumerate(outputs)},
            )
            for g in range(draw(st.integers(0, 2)))
        ),
        files=files,
        producer=draw(st.dictionaries(_names, _names, max_size=2)),
        optional_features=tuple(draw(st.lists(_names, max_size=2))),
        quantization=draw(st.none() | _json),
        placement=draw(st.none() | _json),
        minor=draw(st.integers(0, 9)),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(_manifests())
def test_random_sound_manifests_survive_the_round_trip(manifest: m.Manifest) -> None:
    data = manifest.to_bytes()
    assert m.Manifest.from_bytes(data) == manifest
    assert m.Manifest.from_bytes(data).to_bytes() == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_are_refused_with_our_error(data: bytes) -> None:
    with pytest.raises(EdgebuildError):
        m.Manifest.from_bytes(data)


# Paths


@given(st.text(max_size=120))
def test_any_text_becomes_a_segment(text: str) -> None:
    assert is_segment(to_segment(text))
    assert len(to_segment(text)) <= 48


@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,40}[A-Za-z0-9]", fullmatch=True))
def test_a_plain_stem_stays_as_it_is(text: str) -> None:
    assert to_segment(text.strip("_.-")) == text.strip("_.-") or not text.strip("_.-")


def test_path_limits() -> None:
    assert is_path("/".join("a" * 16))
    assert not is_path("/".join("a" * 17))
    assert is_path("/".join(["a" * 79, "b" * 79, "c" * 80]))
    assert not is_path("/".join(["a" * 79, "b" * 80, "c" * 80]))
    assert not is_path("/".join(["a" * 101]))


@pytest.mark.parametrize(
    ("paths", "clash"),
    [
        (["a/b", "a/c", "a.b"], False),
        (["a/b", "A/c"], False),
        (["a/b", "A/B"], True),
        (["a", "a/b"], True),
        (["a/b", "a"], True),
        (["a/b/c", "A/B"], True),
        (["a/bc", "a/b"], False),
    ],
)
def test_conflicts_disregard_case(paths: list[str], clash: bool) -> None:
    assert (find_conflict(paths) is not None) == clash
