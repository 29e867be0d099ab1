"""Writing the id maps of a user namespace from outside of it (user_namespaces(7)).

Root writes the maps itself. Anybody else may map only their own id that way; ranges from /etc/subuid
need the setuid helpers newuidmap(1) and newgidmap(1).
"""

import os
import select

from container.errors import HostError
from container.linux import namespaces
from container.linux.files import write_file
from container.linux.process import clone3
from container.runtime.signals import SIGKILL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.spec.types import IDMapping


def write_maps(pid: int, uids: "list[IDMapping]", gids: "list[IDMapping]") -> None:
    """Map ids in the user namespace of `pid`.

    Raises:
        HostError: this user may not map these ids.
    """
    _write(pid, "uid", uids)
    if denies_setgroups(gids):
        # One may map one's own group only after giving up setgroups(2).
        write_file(f"/proc/{pid}/setgroups", b"deny")
    _write(pid, "gid", gids)


def denies_setgroups(gids: "list[IDMapping]") -> bool:
    """Tell whether `write_maps` with these has to deny setgroups(2) inside."""
    return len(gids) == 1 and gids[0]["size"] == 1 and os.geteuid() != 0


def own_map(kind: str) -> "list[IDMapping]":
    """Return the map that gives a new user namespace all that this process has: as root every id, else its own."""
    if os.geteuid() != 0:
        return [{"containerID": 0, "hostID": os.getuid() if kind == "uid" else os.getgid(), "size": 1}]
    with open(f"/proc/self/{kind}_map", "rb") as file:
        rows = [[int(field) for field in line.split()] for line in file]
    return [{"containerID": inside, "hostID": inside, "size": size} for inside, _, size in rows]


def open_namespace(uids: "list[IDMapping]", gids: "list[IDMapping]") -> int:
    """Return a descriptor of a new user namespace with these maps, for an idmapped mount."""
    pid, pidfd = clone3(namespaces.CLONE_NEWUSER)
    if pid == 0:
        select.poll().poll()
        os._exit(0)
    try:
        write_maps(pid, uids, gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)


def _write(pid: int, kind: str, mappings: "list[IDMapping]") -> None:
    lines = [f"{m['containerID']} {m['hostID']} {m['size']}" for m in mappings]
    try:
        write_file(f"/proc/{pid}/{kind}_map", "\n".join(lines).encode() + b"\n")
    except PermissionError:
        _use_helper(f"new{kind}map", pid, lines)
    except OSError as error:
        raise HostError(
            f"cannot map {kind}s {', '.join(f'`{line}`' for line in lines)}: {(error.strerror or '').lower()}",
            "every range must lie inside one range of the user namespace this runs in",
        ) from error


def _use_helper(helper: str, pid: int, lines: "list[str]") -> None:
    path = find_helper(helper)
    if path is None:
        raise HostError(f"cannot map id ranges: `{helper}` not found", "install the `uidmap` package")
    arguments = [helper, str(pid), *" ".join(lines).split()]
    complaints, stderr = os.pipe2(os.O_CLOEXEC)
    child = os.posix_spawn(path, arguments, {"PATH": "/usr/bin:/bin"}, file_actions=[(os.POSIX_SPAWN_DUP2, stderr, 2)])
    os.close(stderr)
    text = os.read(complaints, 4096).decode(errors="replace").strip()
    os.close(complaints)
    _, status = os.waitpid(child, 0)
    if status:
        raise HostError(
            f"{helper} refused to map {', '.join(f'`{line}`' for line in lines)}: {text}",
            "give the user ranges in /etc/subuid and /etc/subgid: `usermod --add-subuids 100000-165535 "
            "--add-subgids 100000-165535 USER`",
        )


def find_helper(name: str) -> "str | None":
    """Return the path of `newuidmap` or `newgidmap`, None if it is not installed."""
    for directory in ("/usr/bin", "/bin", "/usr/local/bin", "/sbin", "/usr/sbin"):
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    return None
