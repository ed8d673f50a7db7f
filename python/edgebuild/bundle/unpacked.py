"""Copies of archives that the cache unpacked: a program may be started from one only as long as its files are those of the archive."""

import shutil

from edgebuild.bundle.reader import Bundle, cache_folder
from edgebuild.errors import BundleError


def drop_damaged_copy(bundle: Bundle) -> bool:
    """Removes what was once unpacked of an archive if a file of it no longer has its hash: the next use unpacks it anew.

    Opening a copy looks at its names and sizes alone, since hashing all of it would cost every start of a runner.

    Returns:
        Whether there was a damaged copy.
    """
    if not bundle.is_archive:
        return False
    home = cache_folder() / bundle.id
    folder = home / bundle.manifest.top
    try:
        if folder.exists():
            Bundle.open(folder).verify_files()
        return False
    except BundleError:
        shutil.rmtree(home, ignore_errors=True)
        return True
