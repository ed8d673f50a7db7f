"""``--preprocess``: the text form of a Preprocess.

What is done with the pixels is C++ (``cpp/src/preprocess/``), which the runner uses too; here is only what it is told.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from edgebuild.data.image_spec import CHANNELS, DTYPES, INTERPOLATIONS, LAYOUTS
from edgebuild.data.image_spec import Preprocess as Preprocess
from edgebuild.errors import UsageError

_ALIASES = {
    "interp": "interpolation",
    "order": "channels",
    "color": "channels",
    "size": "resize",
    "center_crop": "crop",
}

_IMAGENET = "mean=0.485;0.456;0.406,std=0.229;0.224;0.225"
_CLIP = "mean=0.48145466;0.4578275;0.40821073,std=0.26862954;0.26130258;0.27577711"
PRESETS: Mapping[str, str] = {
    "imagenet": f"resize=256,crop=224,interpolation=bilinear,{_IMAGENET}",
    "inception": "resize=256,crop=224,interpolation=bicubic,mean=0.5,std=0.5",
    "clip": f"resize=224,crop=224,interpolation=bicubic,{_CLIP}",
    "totensor": "scale=1/255",
    "none": "scale=1",
}
"""Names that stand for settings; what is written after one replaces its own."""

_EXAMPLE = f"for example --preprocess imagenet, or --preprocess 'resize=256,crop=224,{_IMAGENET}'"


def parse_preprocess(text: str) -> Preprocess:
    """Reads ``[INPUT:] [PRESET][,KEY=VALUE…]``, e.g. ``imagenet`` or ``resize=256,crop=224,mean=0.5,std=0.5``.

    Numbers of a list are joined by ``;`` or ``,``. Sizes are one number, or HxW.

    Raises:
        UsageError: A key, preset or value is unknown or impossible; says the nearest known one.
    """
    name, settings = _split_name(text)
    given = _pairs(settings, text)
    values: dict[str, Any] = {"input": name}
    preset = given.pop("preset", None)
    if preset is not None:
        values |= {key: _value(key, value) for key, value in _pairs(PRESETS[preset], preset).items()}
    values |= {key: _value(key, value) for key, value in given.items()}
    said = {"resize", "crop"} & set(given)
    made = Preprocess(**values, preset=preset if preset is not None and not said else None)
    if made.scale is None and max(map(abs, (*made.mean, *made.std))) > 1:
        largest = max((*made.mean, *made.std), key=abs)
        msg = f"--preprocess {text}: mean or std of {largest:g} is for pixels from 0 to 255, which are scaled to 0 to 1"
        raise UsageError(msg, hint="write scale=1 for pixels from 0 to 255, or divide mean and std by 255")
    return made.checked()


def _split_name(text: str) -> tuple[str | None, str]:
    before, colon, after = text.partition(":")
    if not colon or "=" in before or "," in before:
        return None, text
    name = before.strip()
    if not name:
        msg = f"--preprocess {text}: expected an input's name before ':'"
        raise UsageError(msg, hint=_EXAMPLE)
    return name, after


def _pairs(text: str, whole: str) -> dict[str, str]:
    """Keys and values as text. What has no ``=`` is a preset, or goes on with the list before it."""
    found: dict[str, str] = {}
    last = None
    for token in (part.strip() for part in text.split(",")):
        key, equals, value = token.partition("=")
        key = key.strip().lower()
        if not equals:
            if last is not None and re.fullmatch(r"[-+\d.eE/()\[\] ;]+", token):
                found[last] += ";" + token
                continue
            if not found and key in PRESETS:
                found["preset"] = key
                continue
            known = [*PRESETS, *_keys()]
            near = difflib.get_close_matches(key, known, 1)
            msg = f"--preprocess {whole}: '{token}' is neither a preset nor KEY=VALUE"
            raise UsageError(msg, hint=f"did you mean '{near[0]}'?" if near else _EXAMPLE)
        key = _ALIASES.get(key, key)
        if key not in _keys():
            near = difflib.get_close_matches(key, [*_keys(), *_ALIASES], 1)
            msg = f"--preprocess {whole}: unknown key '{key}'; it has {', '.join(_keys())}"
            raise UsageError(msg, hint=f"did you mean '{near[0]}'?" if near else _EXAMPLE)
        if key in found:
            msg = f"--preprocess {whole}: '{key}' is given twice"
            raise UsageError(msg, hint="keep one of them")
        found[key] = value.strip()
        last = key
    return found


def _keys() -> list[str]:
    return [f.name for f in fields(Preprocess) if f.name not in ("input", "preset")]


def _value(key: str, text: str) -> Any:
    choices = {"interpolation": INTERPOLATIONS, "channels": CHANNELS, "layout": LAYOUTS, "dtype": DTYPES}
    if key in choices:
        if text.lower() in choices[key]:
            return text.lower()
        near = difflib.get_close_matches(text.lower(), choices[key], 1)
        msg = f"--preprocess: {key}={text}: expected {', '.join(choices[key])}"
        raise UsageError(msg, hint=f"did you mean '{near[0]}'?" if near else _EXAMPLE)
    plain = re.sub(r"[()\[\]\s]", "", text)
    if key in ("resize", "crop"):
        sizes = [int(part) for part in re.split("[x;]", plain.lower()) if part.isascii() and part.isdigit()]
        if len(sizes) != len(re.split("[x;]", plain.lower())) or len(sizes) not in (1, 2):
            msg = f"--preprocess: {key}={text}: expected a number of pixels, or HxW"
            raise UsageError(msg, hint="for example resize=256 (the shorter side), crop=224, resize=320x320")
        if len(sizes) == 2:
            return (sizes[0], sizes[1])
        return sizes[0] if key == "resize" else (sizes[0], sizes[0])
    try:
        numbers = tuple(_number(part) for part in plain.split(";"))
    except (ValueError, ZeroDivisionError):
        msg = f"--preprocess: {key}={text}: expected numbers, joined by ';'"
        raise UsageError(msg, hint="for example mean=0.485;0.456;0.406, std=0.5, scale=1/255") from None
    if key != "scale":
        return numbers
    if len(numbers) != 1:
        msg = f"--preprocess: scale={text}: expected one number"
        raise UsageError(msg, hint="for example scale=1/255")
    return numbers[0]


def _number(text: str) -> float:
    above, slash, below = text.partition("/")
    return float(above) / float(below) if slash else float(above)
