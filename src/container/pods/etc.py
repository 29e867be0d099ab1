"""The files of /etc that depend on the host and the container: resolv.conf, hosts, hostname.

The texts are pure functions; `write` puts them beside the container's config.json.
"""

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

#: Where systemd-resolved keeps the servers that it asks; /etc/resolv.conf then names only its stub.
_UPSTREAM = Path("/run/systemd/resolve/resolv.conf")
_RESOLV_CONF = Path("/etc/resolv.conf")


def resolv_conf(texts: list[str], *, keep_loopback: bool) -> str:
    """Return the first of `texts` that names a usable server, without what a container cannot reach.

    Args:
        texts: candidates in order, content of resolv.conf files.
        keep_loopback: the container shares the host's network, so a server on loopback is reachable.
    """
    for text in texts:
        kept = [line for line in text.splitlines() if keep_loopback or not _is_loopback_server(line)]
        if any(_server(line) for line in kept):
            return "".join(f"{line}\n" for line in kept)
    return ""


def hosts(hostname: str) -> str:
    """Return /etc/hosts: loopback, and the container's own name on it."""
    return (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::0\tip6-localnet\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n"
        f"127.0.1.1\t{hostname}\n"
    )


def write(directory: Path, hostname: str, *, keep_loopback: bool) -> None:
    """Write the three files into `directory`."""
    texts = {
        "resolv.conf": resolv_conf(list(_host_texts()), keep_loopback=keep_loopback),
        "hosts": hosts(hostname),
        "hostname": f"{hostname}\n",
    }
    for name, text in texts.items():
        fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with open(fd, "w") as file:
            file.write(text)
            # Whoever the container's user is must be able to read them, whatever our umask says.
            os.fchmod(fd, 0o644)


def _host_texts() -> Iterator[str]:
    for path in (_RESOLV_CONF, _UPSTREAM):
        try:
            yield path.read_text(errors="replace")
        except OSError:
            continue


def _server(line: str) -> str:
    words = line.split()
    return words[1] if len(words) >= 2 and words[0] == "nameserver" else ""


def _is_loopback_server(line: str) -> bool:
    try:
        return ipaddress.ip_address(_server(line).partition("%")[0]).is_loopback
    except ValueError:
        return False
