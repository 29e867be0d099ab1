"""The C library and the one way to call it.

Every foreign function gets its `argtypes` here, once. `check` turns a negative result into a
`SyscallError` that names the call and the path. Nothing in this package may import more than
ctypes, errno, os, socket, struct and sys: it runs in processes that are about to become a container,
where an import would read the image's files.
"""

import ctypes
import os

#: PyDLL, not CDLL: it keeps the GIL during the call. The processes that use this have one thread, and
#: between clone and exec there must be no point at which the interpreter could switch.
libc = ctypes.PyDLL(None, use_errno=True)

c_int, c_long, c_ulong, c_char_p, c_void_p = (
    ctypes.c_int,
    ctypes.c_long,
    ctypes.c_ulong,
    ctypes.c_char_p,
    ctypes.c_void_p,
)

libc.syscall.restype = c_long
#: Six arguments whatever the call takes: the kernel looks at those it knows, and conversion is set up once.
libc.syscall.argtypes = (c_long, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)
libc.mount.argtypes = (c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
libc.umount2.argtypes = (c_char_p, c_int)
libc.unshare.argtypes = (c_int,)
libc.setns.argtypes = (c_int, c_int)
libc.prctl.argtypes = (c_int, c_ulong, c_ulong, c_ulong, c_ulong)
libc.sethostname.argtypes = (c_char_p, ctypes.c_size_t)
libc.setdomainname.argtypes = (c_char_p, ctypes.c_size_t)
libc.personality.argtypes = (c_ulong,)

_syscall = libc.syscall
_PADDING = tuple((None,) * (6 - count) for count in range(7))


class SyscallError(OSError):
    """A system call failed: `errno` and `strerror` as in OSError, `call` is its name, `filename` its path."""

    def __init__(self, call: str, number: int, path: str | None = None) -> None:
        super().__init__(number, os.strerror(number), path)
        self.call = call

    def __str__(self) -> str:
        where = f" `{self.filename}`" if self.filename else ""
        return f"{self.call}{where}: {(self.strerror or '').lower()}"


def check(result: int, call: str, path: "bytes | str | None" = None) -> int:
    """Return `result` unless it is negative; then raise SyscallError with the current errno."""
    if result < 0:
        number = ctypes.get_errno()
        raise SyscallError(call, number, os.fsdecode(path) if path is not None else None)
    return result


def syscall(
    number: int,
    call: str,
    *args: "int | bytes | ctypes.Array[ctypes.c_char] | object | None",
    path: "bytes | str | None" = None,
) -> int:
    """Make system call `number`; integers go as they are, bytes and structures by address."""
    return check(_syscall(number, *args, *_PADDING[len(args)]), call, path)


def pointer(structure: ctypes.Structure) -> object:
    """Return the address of `structure` as an argument for `syscall`."""
    return ctypes.byref(structure)
