"""A folder of the cache for data that can be read only once; gone at the latest when the process ends."""

import errno
import itertools
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgebuild.cache import Cache
from edgebuild.errors import ResourceError


class Spool:
    """Made on first use; removed by ``close``, when nobody holds it any more, or when the process ends, also by Ctrl-C.

    What a killed process leaves is removed by the next ``Cache.trim``.
    """

    def __init__(self, cache: Cache | None) -> None:
        self._cache = cache
        self._root: Path | None = None
        self._numbers = itertools.count()
        self._remove: Callable[[], object] | None = None

    def folder(self) -> Path:
        """A new folder.

        Raises:
            ResourceError: The cache can't be written.
        """
        if self._root is None:
            self._root = (self._cache or Cache.default()).staging_folder()
            self._remove = weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
        path = self._root / f"{next(self._numbers):08d}"
        with self.storage_errors():
            path.mkdir()
        return path

    def close(self) -> None:
        """Removes it all; what was spooled can't be read any more."""
        if self._remove is not None:
            self._remove()
            self._remove = self._root = None

    @contextmanager
    def storage_errors(self) -> Iterator[None]:
        """Turns a full disk into a ResourceError that says what to do."""
        try:
            yield
        except OSError as error:
            # NumPy says without a number that it could not write everything.
            if error.errno not in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
                raise
            msg = f"no space left to keep calibration data in {self._root}: {error.strerror}"
            raise ResourceError(msg, hint="use fewer samples, or point XDG_CACHE_HOME at a larger disk") from None
