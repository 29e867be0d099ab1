"""Session keyrings: a container must not inherit the keys of who started it (keyctl(2))."""

import os

from container.linux._libc import syscall

# include/uapi/linux/keyctl.h
KEYCTL_JOIN_SESSION_KEYRING = 1

_NR_KEYCTL = {"x86_64": 250, "aarch64": 219}


def join_session_keyring(name: "str | None" = None) -> int:
    """Join the session keyring `name`, made if there is none; without a name a new one. Returns its serial.

    Raises:
        SyscallError: EDQUOT where the user has too many keys, ENOSYS where the kernel has no keys.
    """
    number = _NR_KEYCTL[os.uname().machine]
    raw = None if name is None else name.encode()
    return syscall(number, "keyctl join_session_keyring", KEYCTL_JOIN_SESSION_KEYRING, raw)
