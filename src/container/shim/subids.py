"""Which ids a user may map: /etc/subuid and /etc/subgid, and the tools that map them (subuid(5)).

Reading is PURE but for the files; nothing is mapped here (container.shim.node does). Out of scope:
ranges that only a name service knows (`subid:` in nsswitch.conf).
"""

import os
import stat

from container.linux.files import read_file
from container.network.program import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    #: (first id inside, first id outside, how many)
    Extent = tuple[int, int, int]

#: The tools and their files, users first.
TOOLS = {"newuidmap": "/etc/subuid", "newgidmap": "/etc/subgid"}

#: How many ids a user is usually given (useradd(8), SUB_UID_COUNT).
RANGE = 65536

# include/uapi/linux/capability.h, and struct vfs_cap_data: magic_etc, then the permitted set's low word.
CAP_SETGID = 6
CAP_SETUID = 7


def parse_ranges(text: str, uid: int, login: "str | None") -> "list[tuple[int, int]]":
    """Return the (first, count) ranges that belong to `uid`, by number or by login name. PURE."""
    found = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) != 3 or fields[0] not in (str(uid), login):
            continue
        if fields[1].isdigit() and fields[2].isdigit() and int(fields[2]) > 0:
            found.append((int(fields[1]), int(fields[2])))
    return list(dict.fromkeys(found))


def login_of(uid: int, passwd: str) -> "str | None":
    """Return the login name of `uid` in the text of a passwd file. PURE."""
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) > 3 and fields[2] == str(uid):
            return fields[0]
    return None


def extents(own: int, ranges: "list[tuple[int, int]]") -> "list[Extent]":
    """Return the map: 0 is `own`, and from 1 on the ranges one after the other. PURE."""
    found, inside = [(0, own, 1)], 1
    for first, count in ranges:
        found.append((inside, first, count))
        inside += count
    return found


def read_ranges(path: str, uid: int) -> "list[tuple[int, int]]":
    """Return the ranges of `uid` in the file `path`, none if there is no such file."""
    login = login_of(uid, read_text("/etc/passwd")) or os.environ.get("USER")
    return parse_ranges(read_text(path), uid, login)


def suggest_fix(uid: int) -> str:
    """Return the command that gives `uid` 65536 ids which nobody has in either file yet."""
    taken = [read_text(path) for path in TOOLS.values()]
    first = first_free("\n".join(taken))
    login = login_of(uid, read_text("/etc/passwd")) or str(uid)
    span = f"{first}-{first + RANGE - 1}"
    return f"`sudo usermod --add-subuids {span} --add-subgids {span} {login}`"


def first_free(text: str) -> int:
    """Return the first id behind all ranges in the text of the files, at least 100000. PURE."""
    ends = [100000]
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
            ends.append(int(fields[1]) + int(fields[2]))
    return max(ends)


def find_tool(name: str) -> "str | None":
    """Return the path of `newuidmap` or `newgidmap` if it is there and privileged."""
    path = find_program(name)
    wanted = CAP_SETUID if name == "newuidmap" else CAP_SETGID
    return path if path is not None and is_privileged(path, wanted) else None


def is_privileged(path: str, capability: int) -> bool:
    """Tell whether a program is setuid root or has `capability` as a file capability."""
    found = os.stat(path)
    if found.st_uid == 0 and found.st_mode & stat.S_ISUID:
        return True
    try:
        raw = os.getxattr(path, "security.capability")
    except OSError:
        return False
    return bool(int.from_bytes(raw[4:8], "little") >> capability & 1)


def read_text(path: str) -> str:
    """Return the text of a file, empty if it cannot be read."""
    try:
        return read_file(path).decode(errors="replace")
    except OSError:
        return ""
