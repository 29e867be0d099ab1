"""A procfs that no mount of an image can cover, and the writes that must reach the kernel and nothing else."""

import errno
import os

from container.errors import LaunchError
from container.linux import mount
from container.linux._libc import SyscallError
from container.linux.files import PROC_SUPER_MAGIC, filesystem_type, open_in_root, write_all
from container.runtime.paths import O_PATH


def private_proc(whole: bool = False) -> int:
    """Return a detached procfs of our own (CVE-2019-16884).

    With `whole` it has /proc/sys; otherwise only processes.
    """
    try:
        fd = mount.new_mount("proc", [] if whole else [("subset", "pid")])
    except SyscallError as error:
        # A user namespace under a masked /proc may not mount one: the visible one will do if it is procfs.
        if error.errno != errno.EPERM:
            raise
        fd = os.open("/proc", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if filesystem_type(fd) != PROC_SUPER_MAGIC:
        os.close(fd)
        raise LaunchError("`/proc` in the container is not procfs", "mount `proc` there in config.json")
    return fd


def set_sysctls(values: "dict[str, str]") -> None:
    """Set every sysctl of `values` in the namespaces of this process."""
    if not values:
        return
    proc = private_proc(whole=True)
    try:
        for name, value in values.items():
            _set_sysctl(proc, name, value)
    finally:
        os.close(proc)


def _set_sysctl(proc: int, name: str, value: str) -> None:
    # Slashes stay slashes: names of interfaces may contain dots (sysctl.d(5)).
    path = "sys/" + (name if "/" in name else name.replace(".", "/"))
    try:
        _write(proc, path, value)
    except OSError as error:
        raise LaunchError(
            f"cannot set sysctl `{name}` to `{value}`: {(error.strerror or '').lower()}",
            "check `linux.sysctl`: this kernel lacks it, or refuses the value",
            errno=error.errno or 0,
        ) from error


def set_security_label(proc: int, profile: "str | None", label: "str | None") -> None:
    """Set the AppArmor profile and SELinux label of the coming exec, through the procfs handle `proc`.

    Raises:
        LaunchError: a label is asked for and the host has no such module.
    """
    if profile and profile != "unconfined":
        _set_attribute(proc, "self/attr/apparmor/exec", f"exec {profile}", f"AppArmor profile `{profile}`")
    if label:
        _set_attribute(proc, "self/attr/exec", label, f"SELinux label `{label}`")


def _set_attribute(proc: int, path: str, text: str, what: str) -> None:
    try:
        _write(proc, path, text)
    except OSError as error:
        raise LaunchError(
            f"cannot set {what}: {(error.strerror or '').lower()}",
            "this host does not run that security module, or the name is not loaded",
            error.errno or 0,
        ) from error


def _write(proc: int, path: str, text: str) -> None:
    fd = open_in_root(proc, path, os.O_WRONLY)
    try:
        write_all(fd, text.encode())
    finally:
        os.close(fd)
