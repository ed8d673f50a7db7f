"""``edgebuild inspect``: what a bundle says about itself. Runs nothing of it, so any bundle may be looked at."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from edgebuild.cli import output
from edgebuild.cli.bundle_argument import open_bundle
from edgebuild.cli.options import common

if TYPE_CHECKING:
    from edgebuild.bundle.manifest import Variant
    from edgebuild.bundle.reader import Bundle

SCHEMA = "edgebuild.inspect/1"
_LABEL = 12


@click.command(name="inspect")
@click.argument("bundle", metavar="BUNDLE", type=click.Path())
@click.option("--state-dir", metavar="DIR", type=click.Path(), help="Where `tune` keeps what it measured.")
@click.option("--no-tuning", is_flag=True, help="The target's order, whatever `tune` kept.")
@common
def command(bundle: str, state_dir: str | None, no_tuning: bool, as_json: bool, verbose: bool) -> None:
    """Show what a bundle holds."""
    opened = open_bundle(bundle)
    order = _order(opened, state_dir, tuning=not no_tuning)
    if as_json:
        output.print_result(SCHEMA, describe(opened, bundle, order))
    else:
        _show(opened, order)


def _order(bundle: "Bundle", state_dir: str | None, *, tuning: bool) -> Mapping[str, Any]:
    """In which order a runner on this machine tries the variants, and why; the runner's own code says it."""
    from edgebuild import _runtime

    manifest = bundle.manifest
    names, tuned, why = _runtime.variant_order(
        bundle_id=bundle.id,
        arch=manifest.target.arch,
        names=[variant.name for variant in manifest.variants],
        state_dir=state_dir or "",
        threads=0,
        tuning=tuning,
    )
    return {"variants": names, "tuned": tuned, "why": why}


def describe(bundle: "Bundle", path: str, order: Mapping[str, Any]) -> Mapping[str, Any]:
    """The bundle as one JSON object, the same that ``edgerun inspect --json`` prints (docs/json-output.md)."""
    manifest = bundle.manifest
    variants = []
    for variant in manifest.variants:
        # What a reader of the report wants; the engine's names of inputs and outputs are the runner's business.
        data = {key: value for key, value in variant.to_json().items() if key not in ("inputs", "outputs", "numerics")}
        if data["engine"] is not None:  # what an engine needs stands among the files
            data["engine"] = {key: value for key, value in data["engine"].items() if key != "needed"}
        data["model_bytes"] = _model_bytes(bundle, variant)
        variants.append(data)
    return {
        "path": path,
        "id": bundle.id,
        "format": {"major": 1, "minor": manifest.minor},
        "name": manifest.name,
        "producer": dict(manifest.producer),
        "target": manifest.target.to_json(),
        "required_features": list(manifest.required_features),
        "optional_features": list(manifest.optional_features),
        "signature": manifest.signature.to_json(),
        "variants": variants,
        "order": order,
        "goldens": len(manifest.goldens),
        "size_bytes": _total_bytes(bundle),
        "files": {path: entry.to_json() for path, entry in sorted(manifest.files.items())},
    }


def _model_bytes(bundle: "Bundle", variant: "Variant") -> int:
    return sum(bundle.manifest.files[path].size for path in (variant.model, *variant.data))


def _total_bytes(bundle: "Bundle") -> int:
    return sum(entry.size for entry in bundle.manifest.files.values())


def _show(bundle: "Bundle", order: Mapping[str, Any]) -> None:
    manifest = bundle.manifest

    def field(name: str, text: str) -> None:
        for line in output.wrap(text, f"  {name:<{_LABEL}}", " " * (_LABEL + 2), output.width()):
            output.echo(line)

    output.echo(output.heading(f"{manifest.name}.{manifest.target.name}"))
    field("id", bundle.id)
    field("format", f"1.{manifest.minor}, {'an archive' if bundle.is_archive else 'a folder'}")
    field("target", f"{manifest.target.name} ({manifest.target.arch}, {manifest.target.triple})")
    field("inputs", ", ".join(str(spec) for spec in manifest.signature.inputs) or "none")
    field("outputs", ", ".join(str(spec) for spec in manifest.signature.outputs))
    for number, (name, sizes) in enumerate(sorted(manifest.signature.symbols.items())):
        top = "or more" if sizes.maximum is None else f"to {sizes.maximum}"
        steps = "" if sizes.step == 1 else f" in steps of {sizes.step}"
        field("" if number else "symbols", f"{name} = {sizes.minimum} {top}{steps}, best {sizes.best}")
    field("goldens", f"{len(manifest.goldens)} input sets with the original model's outputs")
    field("size", f"{output.size_text(_total_bytes(bundle))} in {len(manifest.files)} files")
    field("order", ", ".join(order["variants"]))
    field("", order["why"])
    field("made by", ", ".join(f"{name} {version}" for name, version in sorted(manifest.producer.items())))
    output.echo()
    rows = []
    for variant in manifest.variants:
        engine = variant.engine
        library = "-"
        if engine is not None:
            linkage = "bundled" if isinstance(engine.library, str) else "external"
            library = f"{engine.name} {engine.version}, {linkage}"
        needs = [*variant.requires.cpu_features]
        if variant.requires.glibc:
            needs.append(f"glibc {variant.requires.glibc}")
        if variant.requires.memory_bytes:
            needs.append(f"{output.size_text(variant.requires.memory_bytes)} memory")
        if variant.requires.compute_capability:
            needs.append(f"compute capability {variant.requires.compute_capability}")
        size = output.size_text(_model_bytes(bundle, variant))
        rows.append((variant.name, variant.precision, size, library, variant.speed, " ".join(needs) or "-"))
    for line in output.table(("variant", "precision", "model", "engine", "speed", "needs"), rows, right=(2,)):
        output.echo(line)
