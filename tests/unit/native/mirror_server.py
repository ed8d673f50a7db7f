"""A Debian mirror on this machine with one package, and what a download that failed leaves behind."""

import http.server
import threading
from collections.abc import Callable
from pathlib import Path

from deb_files import deb_bytes, file_member, package_of

from edgebuild.cache import Cache

DEB = deb_bytes(
    [file_member("./usr/bin/tool", b"program" * 5000, 0o755), file_member("./usr/share/doc/tool/copyright")]
)
PACKAGE = package_of(DEB)
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server:
    """A mirror on this machine: serves a folder, or whatever ``answer`` does; remembers what it was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.answer: Answer | None = None
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(root))  # type: ignore[arg-type]

            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if outer.answer:
                    outer.answer(self)
                else:
                    super().do_GET()

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def leftovers(cache: Cache) -> list[str]:
    """Everything below the cache that is no lock: nothing may stay of a download that failed."""
    return [path.name for path in (cache.root / "debian").rglob("*") if path.suffix not in (".lock", ".use")]
