"""Clients that cost little, so that servers are measured and not they: `python -m bench.load JOB`.

So many connections ask for one path, all at the same time, until so many requests are answered. Prints
`{"seconds": S, "requests": N, "bytes": B}`. Out of scope: checking what comes beyond status and length.
"""

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field

_BUFFER = bytearray(1 << 20)


@dataclass(frozen=True, slots=True)
class Job:
    """What to do: `count` requests over `connections`."""

    port: int
    path: str
    connections: int = 1
    count: int = 1
    accept: str = "*/*"


@dataclass(slots=True)
class Connection:
    """One connection with the answer that is coming in; `left` is None until its head has come."""

    sock: socket.socket
    head: bytearray = field(default_factory=bytearray)
    left: int | None = None

    def feed(self) -> tuple[int, bool]:
        """Read what is there; returns how many body bytes came, and whether the answer is complete."""
        size = self.sock.recv_into(_BUFFER)
        if size == 0:
            raise SystemExit(f"the server closed the connection after `{bytes(self.head[:200])!r}`")
        if self.left is None:
            size = self._feed_head(_BUFFER[:size])
        if self.left is None:
            return 0, False
        self.left -= size
        if self.left > 0:
            return size, False
        self.head.clear()
        self.left = None
        return size, True

    def _feed_head(self, data: bytearray) -> int:
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return 0
        lines = bytes(self.head[:end]).split(b"\r\n")
        if b" 200 " not in lines[0] + b" ":
            raise SystemExit(f"the server answered `{lines[0].decode(errors='replace')}`")
        fields = {key.strip().lower(): value.strip() for key, _, value in (line.partition(b":") for line in lines[1:])}
        self.left = int(fields[b"content-length"])
        return len(self.head) - end - 4


def run(job: Job) -> dict[str, float]:
    """Do the job and return what it took."""
    request = f"GET {job.path} HTTP/1.1\r\nHost: 127.0.0.1:{job.port}\r\nAccept: {job.accept}\r\n\r\n".encode()
    selector = selectors.DefaultSelector()
    sockets = [socket.create_connection(("127.0.0.1", job.port)) for _ in range(job.connections)]
    for sock in sockets:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(sock, selectors.EVENT_READ, Connection(sock))
    asked = done = received = 0
    begun = time.perf_counter()
    for sock in sockets:
        sock.sendall(request)
        asked += 1
    while done < asked:
        for key, _ in selector.select():
            size, complete = key.data.feed()
            received += size
            if complete:
                done += 1
                if asked < job.count:
                    key.data.sock.sendall(request)
                    asked += 1
    taken = time.perf_counter() - begun
    for sock in sockets:
        sock.close()
    return {"seconds": taken, "requests": done, "bytes": received}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(Job(**json.loads(sys.argv[1])))) + "\n")
