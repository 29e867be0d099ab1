"""A container's terminal: made from the container's own devpts, handed out as a descriptor.

The slave is reached by TIOCGPTPEER on the master and mounted from that descriptor, never by its
path, which the image could have replaced (CVE-2025-52565).
"""

import fcntl
import os
import struct
import termios

from container.linux import mount
from container.runtime import paths

# include/uapi/asm-generic/ioctls.h
TIOCGPTPEER = 0x5441
TIOCSPTLCK = 0x40045431


def open_console(root: int, rows: int, columns: int, uid: int, mounted: bool = True) -> "tuple[int, int]":
    """Return (master, slave) of a new terminal in the devpts of the container.

    With `mounted` it also becomes /dev/console, as the init's terminal does.
    """
    # Not by /dev/ptmx: that is the image's until the links are made, and a link afterwards.
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if rows and columns:
        set_size(master, rows, columns)
    os.fchown(slave, uid, -1)
    os.fchmod(slave, 0o620)
    if mounted:
        _mount_console(root, slave)
    return master, slave


def _mount_console(root: int, slave: int) -> None:
    target = paths.open_file(root, "/dev/console")
    tree = mount.clone_fd(slave)
    mount.attach(tree, target)
    os.close(tree)
    os.close(target)


def set_size(master: int, rows: int, columns: int) -> None:
    """Tell the terminal its size in characters: TIOCSWINSZ (ioctl_tty(2))."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def take(slave: int) -> None:
    """Make `slave` the controlling terminal and the stdio of this session leader."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
