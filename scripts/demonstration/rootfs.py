"""A root file system out of what this machine has: busybox and the links that make it a hundred programs.

Out of scope: making an image of it, which `docker-proxy-server load` does.
"""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from demonstration.errors import DemoError

_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUP = "root:x:0:\nnogroup:x:65534:\n"
_DIRECTORIES = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "proc": 0o555, "root": 0o700, "sys": 0o555, "tmp": 0o1777}


def write_rootfs(path: Path) -> int:
    """Write the tar and return how many programs are in it.

    Raises:
        DemoError: there is no busybox that runs without shared libraries.
    """
    busybox = shutil.which("busybox")
    if busybox is None:
        raise DemoError("`busybox` is not installed", "`sudo apt install busybox-static`")
    if _is_dynamic(Path(busybox)):
        raise DemoError(f"`{busybox}` needs shared libraries", "`sudo apt install busybox-static`")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    names = [name for name in applets if name != "busybox"]
    with tarfile.open(path, "w") as tar:
        for name, mode in _DIRECTORIES.items():
            tar.addfile(_entry(name, tarfile.DIRTYPE, mode))
        _add_file(tar, "bin/busybox", Path(busybox).read_bytes(), 0o755)
        for name in names:
            link = _entry(f"bin/{name}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            tar.addfile(link)
        _add_file(tar, "etc/passwd", _PASSWD.encode(), 0o644)
        _add_file(tar, "etc/group", _GROUP.encode(), 0o644)
    return len(names)


def _is_dynamic(program: Path) -> bool:
    """Tell whether an ELF file names a loader: its program headers then hold a path that ends in `ld-…so…`."""
    head = program.read_bytes()[:4096]
    return b"/ld-" in head


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = mode
    return entry


def _add_file(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = _entry(name, tarfile.REGTYPE, mode)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
