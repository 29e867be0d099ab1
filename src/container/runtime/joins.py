"""Which namespaces an init gets: new ones by clone, existing ones by their files, and in which order.

Where clone alone cannot do it an intermediate process, the stage, enters what exists and clones the init as
its sibling. Out of scope: id maps (container.runtime.idmap) and what happens inside (container.runtime.init).
"""

import fcntl
import os

from container.errors import ConfigError
from container.linux import namespaces
from container.linux.namespaces import FLAGS
from container.linux.process import CLONE_PARENT, clone3
from container.runtime import channel as wire
from container.runtime import process
from container.runtime.init import Init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from container.spec.types import Config

# include/uapi/linux/nsfs.h: _IO(0xb7, 3)
NS_GET_NSTYPE = 0xB703

#: The order in which existing namespaces must be entered: the user namespace first, it gives the right to
#: enter the others; mount last, it changes what paths mean.
_ORDER = ("user", "ipc", "uts", "network", "pid", "cgroup", "time", "mount")

_NEEDS_STAGE = namespaces.CLONE_NEWPID | namespaces.CLONE_NEWUSER


def plan(init: Init, config: "Config") -> "set[str]":
    """Put into `init` what `linux.namespaces` asks for, existing ones opened; returns those that are not ours.

    Raises:
        ConfigError: a path is not a namespace of the kind it is named for.
    """
    linux = config.get("linux") or {}
    wanted = {namespace["type"]: namespace.get("path") for namespace in linux.get("namespaces") or ()}
    for kind in _ORDER:
        if kind not in wanted:
            continue
        path = wanted[kind]
        if not path:
            init.new |= FLAGS[kind]
        elif (fd := open_namespace(kind, path)) is not None:
            init.joins.append((fd, FLAGS[kind]))
        else:
            del wanted[kind]
    init.late = init.new & namespaces.CLONE_NEWCGROUP
    init.time = bool(init.new & namespaces.CLONE_NEWTIME)
    init.new &= ~(namespaces.CLONE_NEWCGROUP | namespaces.CLONE_NEWTIME)
    return set(wanted)


def open_namespace(kind: str, path: str) -> "int | None":
    """Return a descriptor of the namespace file `path`; None if this process is in it already."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(kind, path, error) from error
    try:
        found = fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError as error:
        os.close(fd)
        raise _unusable(kind, path, error) from error
    if found != FLAGS[kind]:
        os.close(fd)
        raise ConfigError(f"`{path}` is not a {kind} namespace", "the path must be of the type it is listed under")
    if os.path.samestat(os.stat(f"/proc/self/ns/{namespaces.PROC_NAMES[kind]}"), os.fstat(fd)):
        os.close(fd)
        return None
    return fd


def _unusable(kind: str, path: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot join {kind} namespace `{path}`: {(error.strerror or '').lower()}",
        "the path must be a namespace file such as /proc/PID/ns/net",
    )


def needs_stage(init: Init) -> bool:
    """Tell whether an intermediate process must enter namespaces before the init can be cloned.

    A pid namespace is entered by one's children only; a process may enter a user namespace but not clone
    into it and into others of its at once; and once in a new user namespace it has no rights over the
    existing namespaces that it should join.
    """
    joined = 0
    for _, flag in init.joins:
        joined |= flag
    return bool(joined & _NEEDS_STAGE or (joined and init.new & namespaces.CLONE_NEWUSER))


def run_stage(init: Init, cgroup_fd: "int | None") -> "NoReturn":
    """Enter existing namespaces, clone the init as a sibling, and leave."""
    try:
        process.seal_imports()
        init.let_go(*(() if cgroup_fd is None else (cgroup_fd,)))
        for fd, flag in init.joins:
            namespaces.setns(fd, flag)
            if flag == namespaces.CLONE_NEWUSER:
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
        init.joins = []
        pid, pidfd = clone3(init.new | CLONE_PARENT, cgroup_fd)
        if pid == 0:
            init.run()
        init.channel.send(wire.STAGED, str(pid).encode(), (pidfd,))
    except Exception as error:  # nobody is above us: what is not sent is lost
        init.channel.send_error(error)
    finally:
        os._exit(0)


def in_user_namespace() -> bool:
    """Tell whether this process is in a user namespace other than the first (whose map is the identity)."""
    with open("/proc/self/uid_map", "rb") as file:
        return file.read().split() != [b"0", b"0", b"4294967295"]
