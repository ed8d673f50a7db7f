"""Where Debian packages come from: the configured mirror, or one of apt's; and how they are downloaded.

The first of these that applies: ``EDGEBUILD_DEBIAN_MIRROR``, the address of a mirror or a folder of .deb files; the Debian mirrors
of apt's own configuration, read through apt's downloader (so its proxies, certificates and passwords are in force). There is no address
beside these. Nothing here is trusted: the caller compares hashes.
"""

import errno
import http.client
import os
import queue
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from edgebuild.errors import ToolError, UsageError

VARIABLE = "EDGEBUILD_DEBIAN_MIRROR"
_APT_HELPER = Path("/usr/lib/apt/apt-helper")
_APT_LISTS = Path("/var/lib/apt/lists")
_APT_ESCAPED = '\\|{}[]<>"^~_=!@#$%&*'
_HEAD_LINES = 20
_RELEASES = (
    *("buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"),
    *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
)
_SNAPSHOT = re.compile(r"\d{8}t\d{6}z")
_MAIN_ARCHIVE = re.compile(r"debian([-_.](remote|proxy|mirror|main|archive|cache))*")
_SCHEMES = ("http", "https", "file")
_TIME_LIMIT_S = 900
_SILENCE_LIMIT_S = 60
_TRIES = 3
_PAUSE_S = 1.0
_CHUNK_BYTES = 2**18


class Missing(Exception):
    """The mirror answers, and does not have the file."""


class Failed(Exception):
    """The download did not work; the reason in one line."""


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """A mirror's address without a final slash, and apt's downloader if it is apt that knows how to reach it."""

    uri: str
    apt_helper: Path | None = None


def configured_mirrors(etc: Path = Path("/etc/apt"), apt_helper: Path = _APT_HELPER) -> list[Mirror] | Path:
    """Mirrors in the order in which they are asked, or the folder of packages that the user named.

    Raises:
        UsageError: ``EDGEBUILD_DEBIAN_MIRROR`` is neither an address nor a folder.
    """
    named = os.environ.get(VARIABLE, "")
    if named:
        if urlsplit(named).scheme in _SCHEMES:
            return [Mirror(uri=named.rstrip("/"))]
        if Path(named).is_dir():
            return Path(named)
        msg = f"{VARIABLE} is {named!r}, expected the address of a Debian mirror or a folder with .deb files"
        raise UsageError(msg)
    helper = apt_helper if apt_helper.is_file() else None
    return [Mirror(uri=uri, apt_helper=helper) for uri in apt_mirrors(etc)]


def apt_mirrors(etc: Path, lists: Path = _APT_LISTS) -> list[str]:
    """Addresses of the Debian archives in apt's configuration, each once; none is no error.

    First those that apt's own lists know to be Debian's, then those whose address and suite look like it and of which there are no
    lists. Archives of others, of security updates and of sources are passed over: what is pinned lies in Debian's main archive.
    """
    known: dict[str, None] = {}
    likely: dict[str, None] = {}
    for uri, suite in _apt_entries(etc):
        origin = _origin(lists, uri, suite)
        if origin == ("Debian", "Debian"):
            known[uri] = None
        elif origin is None and _looks_like_debian(uri, suite):
            likely[uri] = None
    return list(known | likely)


def _apt_entries(etc: Path) -> Iterator[tuple[str, str]]:
    """Address and suite of every entry for packages of a component "main"."""
    one_line = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    for text in map(_text, one_line):
        for line in text.splitlines():
            entry = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line)
            if entry and "main" in entry[3].split():
                yield from ((uri, entry[2]) for uri in _addresses(entry[1]))
    for text in map(_text, sorted((etc / "sources.list.d").glob("*.sources"))):
        for stanza in re.split(r"\n\s*\n", text):
            fields = _fields(stanza)
            if fields.get("enabled", "yes").strip().lower() in ("no", "false", "0", "off", "without", "disable"):
                continue
            if "deb" in fields.get("types", "").split() and "main" in fields.get("components", "").split():
                for uri in fields.get("uris", "").split():
                    yield from ((a, suite) for a in _addresses(uri) for suite in fields.get("suites", "").split())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fields(stanza: str) -> dict[str, str]:
    """Fields of a deb822 stanza by their names in lower case; lines that begin with a space continue the one before."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[name] = fields.get(name, "") + " " + line
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value
    return fields


def _addresses(uri: str) -> Iterator[str]:
    """The address itself, or those of the list that ``mirror+file:`` names (Debian's cloud images have one)."""
    if uri.startswith("mirror+file:"):
        listed = Path(re.sub("^/+", "/", uri.removeprefix("mirror+file:")))
        for line in _text(listed).splitlines():
            if line.strip() and not line.startswith("#"):
                yield from _addresses(line.split()[0])
    elif urlsplit(uri).scheme in _SCHEMES:
        yield uri.rstrip("/")


def _origin(lists: Path, uri: str, suite: str) -> tuple[str, str] | None:
    """Origin and label of an archive as apt last saw its index; None: it did not, or the lists were removed."""
    parts = urlsplit(uri)
    # The file's name is made as apt makes it: of the address without its scheme and password, some characters escaped.
    name = "".join(
        f"%{ord(c):02x}" if c in _APT_ESCAPED else c
        for c in f"{parts.netloc.rpartition('@')[2]}{parts.path}/dists/{suite}"
    ).replace("/", "_")
    for kind in ("InRelease", "Release"):
        fields = _fields("\n".join(_text(lists / f"{name}_{kind}").splitlines()[:_HEAD_LINES]))
        if "origin" in fields:
            return fields["origin"].strip(), fields.get("label", "").strip()
    return None


def _looks_like_debian(uri: str, suite: str) -> bool:
    """Whether an address may be one of Debian's main archive: a folder ``debian``, that of a proxy for it, a snapshot of it."""
    parts = urlsplit(uri.lower())
    folders = [part for part in parts.path.split("/") if part and not _SNAPSHOT.fullmatch(part)]
    name = folders[-1] if folders else next((label for label in parts.netloc.split(".") if label == "debian"), "")
    release = re.sub("-(updates|proposed-updates|backports|backports-sloppy)$", "", suite)
    return bool(_MAIN_ARCHIVE.fullmatch(name)) and release in _RELEASES


def download(
    mirror: Mirror, path: str, destination: Path, size: int, advance: Callable[[int], None] | None = None
) -> str:
    """Downloads a file of the archive; its bytes are not checked, but never more than ``size`` + 1 are taken.

    Args:
        mirror: Whom to ask.
        path: Below the mirror's address, e.g. ``pool/main/z/zlib/zlib1g_1.3_armhf.deb``.
        destination: The file that is written; one that is there is replaced.
        size: Expected, in bytes.
        advance: Hears how many bytes are there.

    Returns:
        The address that it came from.

    Raises:
        Missing: The mirror does not have it.
        Failed: The mirror can't be reached or broke off, three times; or all of them together took longer than a quarter of an hour.
    """
    # A tilde must stay as it is, and so must what apt escapes itself.
    url = f"{mirror.uri}/{quote(path, safe='/~+')}"
    deadline = time.monotonic() + _TIME_LIMIT_S
    for left in reversed(range(_TRIES)):
        try:
            if mirror.apt_helper:
                _through_apt(mirror.apt_helper, url, destination, size, deadline)
            else:
                _through_urllib(url, destination, size, advance, deadline)
        except Failed:
            if not left or time.monotonic() + _PAUSE_S >= deadline:
                raise
            time.sleep(_PAUSE_S)
        else:
            break
    return url


def _through_urllib(
    url: str, destination: Path, size: int, advance: Callable[[int], None] | None, deadline: float
) -> None:
    with _opened(url, deadline) as answer, destination.open("wb") as target:
        taken = 0
        while taken <= size:
            try:
                # What is there: `read` would wait for a whole chunk, however slowly a server drips.
                data = answer.read1(min(_CHUNK_BYTES, size + 1 - taken))
            except (OSError, http.client.HTTPException) as error:  # the server's; writing is outside
                raise Failed(_reason(error)) from None
            if not data:
                break
            target.write(data)
            taken += len(data)
            if advance:
                advance(min(taken, size))
            if time.monotonic() > deadline:
                raise _too_slow()
    if taken < size:
        msg = f"it ended after {taken} bytes, expected {size}"
        raise Failed(msg)


def _opened(url: str, deadline: float) -> Any:
    """The server's answer, its headers read. Raises as ``download``."""
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "edgebuild"})
            results.put(urllib.request.urlopen(request, timeout=_SILENCE_LIMIT_S))
        except Exception as error:
            results.put(error)

    # The socket's limit is one of silence: headers that drip would take for ever. Such a thread is left behind, it ends with us.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = results.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise _too_slow() from None
    match answer:
        case urllib.error.HTTPError(code=code, reason=reason):
            answer.close()
            if code in (404, 410):
                raise Missing
            msg = f"the server answered {code} {reason}"
            raise Failed(msg)
        case urllib.error.URLError(reason=FileNotFoundError()):
            raise Missing
        case urllib.error.URLError(reason=reason):
            raise Failed(_reason(reason))
        case OSError() | ValueError() | http.client.HTTPException():
            raise Failed(_reason(answer))
        case Exception():
            raise answer
    return answer


def _too_slow() -> Failed:
    return Failed(f"it took longer than {_TIME_LIMIT_S} s")


def _reason(error: object) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _through_apt(helper: Path, url: str, destination: Path, size: int, deadline: float) -> None:
    # The shell bounds what a mirror can make it write (blocks of 512 bytes); apt's downloader has no such option.
    command = ["sh", "-c", 'ulimit -f "$1" && shift && exec "$@"', "sh", str(size // 512 + 2048)]
    command += [str(helper), "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=0", "download-file", url]
    destination.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [*command, str(destination)],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=max(0.0, deadline - time.monotonic()),
            env=os.environ | {"LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _too_slow() from None
    except OSError as error:
        msg = f"apt's downloader does not start: {error.strerror}"
        raise ToolError(msg) from error
    if done.returncode == 0 and destination.is_file():
        return
    said = [line[2:].strip() for line in done.stderr.splitlines() if line.startswith("E:")]
    reason = next((line for line in said if line.startswith("Failed to fetch")), said[0] if said else "")
    if re.search(r"\b404\b|File not found", reason):
        raise Missing
    free_bytes = os.statvfs(destination.parent).f_bavail * os.statvfs(destination.parent).f_frsize
    if free_bytes < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(destination))
    raise Failed(reason.removeprefix("Failed to fetch").replace(url, "").strip() or f"exit code {done.returncode}")
