"""Who a container's process is: `name:group` and the like to numbers, by the image's own passwd and group.

`resolve` is pure. `read_text` looks into image layers, whose content nobody vouches for: paths are
resolved by the kernel with the layer as root, only regular files are read, and only so much of them.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from container.errors import ConfigError
from container.linux.files import open_in_root

#: No sane passwd file is larger; an image cannot make us read more.
_MOST_BYTES = 1 << 20
#: The kernel's largest id; -1 means "unchanged" to its calls.
_MOST_ID = 0xFFFFFFFE


@dataclass(frozen=True, slots=True)
class User:
    """Numbers for the process, and the home for its environment."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


ROOT = User()


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    uid: int
    gid: int
    home: str


def resolve(text: str, passwd: str, group: str) -> User:
    """Return the user that `text` (`user`, `uid`, `user:group`, `uid:gid` or empty) names.

    Raises:
        ConfigError: a name is in neither file, or a number is out of range.
    """
    wanted, _, wanted_group = (text or "0").partition(":")
    account = _find(wanted or "0", passwd)
    gid = _group_id(wanted_group, group) if wanted_group else account.gid
    groups = () if wanted_group else tuple(_memberships(account.name, group))
    return User(account.uid, gid, tuple(found for found in groups if found != gid), account.home)


def read_text(layers: Sequence[Path], name: str) -> str:
    """Return the text of file `name` in the topmost of `layers` (top first) that has it, or nothing."""
    for layer in layers:
        found = _read_below(layer, name)
        if found is not None:
            return found
    return ""


def _find(wanted: str, passwd: str) -> _Account:
    accounts = list(_accounts(passwd))
    for account in accounts:
        if account.name == wanted:
            return account
    if not _is_number(wanted):
        raise ConfigError(
            f"user `{wanted}` is not in the /etc/passwd of the image", "give a numeric id such as `1000:1000`"
        )
    uid = _checked(wanted)
    for account in accounts:
        if account.uid == uid:
            return account
    return _Account("", uid, 0, "/root" if uid == 0 else "/")


def _group_id(wanted: str, group: str) -> int:
    for name, gid, _ in _groups(group):
        if name == wanted:
            return gid
    if not _is_number(wanted):
        raise ConfigError(
            f"group `{wanted}` is not in the /etc/group of the image", "give a numeric id such as `1000:1000`"
        )
    return _checked(wanted)


def _memberships(user: str, group: str) -> Iterator[int]:
    for _, gid, members in _groups(group):
        if user and user in members:
            yield gid


def _accounts(passwd: str) -> Iterator[_Account]:
    for line in passwd.splitlines():
        parts = line.split(":")
        if len(parts) >= 6 and _is_number(parts[2]) and _is_number(parts[3]):
            yield _Account(parts[0], int(parts[2]), int(parts[3]), parts[5] or "/")


def _groups(group: str) -> Iterator[tuple[str, int, list[str]]]:
    for line in group.splitlines():
        parts = line.split(":")
        if len(parts) >= 3 and _is_number(parts[2]):
            yield parts[0], int(parts[2]), parts[3].split(",") if len(parts) > 3 else []


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _checked(text: str) -> int:
    number = int(text)
    if number > _MOST_ID:
        raise ConfigError(f"id `{text}` is larger than {_MOST_ID}", "")
    return number


def _read_below(layer: Path, name: str) -> str | None:
    """Return the text, nothing where a whiteout or something else hides it, None where the layer has none."""
    root = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # O_PATH first: opening a device or FIFO of the image could do or block anything.
        handle = open_in_root(root, name, os.O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
    finally:
        os.close(root)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return ""
        with open(f"/proc/self/fd/{handle}", "rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    finally:
        os.close(handle)
