"""The process that removes trees: `python -m container.images.remover PATH...`.

With `--leftovers DIRECTORY` it removes unfinished layers in a `layers` directory that nobody is working on.

In rootless mode it runs inside the node's user namespace: files of a container belong to subordinate ids
there, and nobody outside may remove them. Out: one line, as the unpacker's last.
"""

import os
import sys

from container.errors import ConfigError, ContainerError, HostError
from container.images import layers
from container.images.removal import remove_tree
from container.images.unpacker import describe, emit


def remove(paths: list[str]) -> None:
    """Remove the trees of `paths`; those that are gone already are fine.

    Raises:
        ConfigError: a path is not one that could be meant.
        HostError: a file cannot be removed; the other paths are tried all the same.
    """
    _check(paths)
    failed: HostError | None = None
    for path in paths:
        try:
            remove_tree(path)
        except OSError as error:
            failed = HostError(f"cannot remove `{path}`: {(error.strerror or '').lower()}")
            failed.__cause__ = error
    if failed is not None:
        raise failed


def remove_leftovers(directories: list[str]) -> None:
    """Remove unfinished layers below `directories`.

    Raises:
        ConfigError: a path is not one that could be meant.
        HostError: a file cannot be removed.
    """
    _check(directories)
    for directory in directories:
        try:
            layers.remove_leftovers(directory)
        except OSError as error:
            text = (error.strerror or "").lower()
            raise HostError(f"cannot remove leftovers in `{directory}`: {text}") from error


def _check(paths: list[str]) -> None:
    for path in paths:
        if not os.path.isabs(path) or os.path.normpath(path) != path or path.count("/") < 2:
            raise ConfigError(f"`{path}` is not a path to remove", "pass an absolute path without `..`")


def main() -> int:
    """Run the process."""
    try:
        if sys.argv[1:2] == ["--leftovers"]:
            remove_leftovers(sys.argv[2:])
        else:
            remove(sys.argv[1:])
        emit({"ok": {}})
    except ContainerError as error:
        emit(describe(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
