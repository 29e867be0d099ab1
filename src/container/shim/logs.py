"""From a container's stdout and stderr to its log file, losing nothing when this process is killed.

A plain read from a pipe followed by a write to a file loses what was read if a SIGKILL comes in
between. Here every byte is at any moment either in the pipe or in a file:

1.  The container writes to a FIFO in the state directory, which it holds open for reading and writing:
    without any reader it blocks when the FIFO is full, and never gets SIGPIPE. The daemon holds a
    copy of our end, so what an exited container left in it survives us.
2.  splice(2) moves what is there to a spool file in the same directory (a tmpfs). The kernel takes from the
    pipe exactly what it has put in the file, however the call ends.
3.  The spool is formatted (CRI log format) and written to the log at a known offset, then the progress is
    recorded in `pos`: how much of each spool is formatted, how long the log is. Killed before that
    record, the successor cuts the log back to the recorded length and formats the same bytes again.

A terminal has no FIFO; its output is read and stored by two calls, a window of some microseconds.
"""

import errno
import os
import stat
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Longest text in one line of the log; longer ones are cut and all parts but the last tagged P (CRI).
MAX_LINE = 16 << 10

#: A spool is emptied when it is all formatted and has grown beyond this.
_SPOOL_KEEP = 256 << 10

#: How much may wait in the spool when the log's disk is full; then the container is held back.
_SPOOL_LIMIT = 4 << 20

_POSITION = struct.Struct("<QQQ")
_STREAMS = ("stdout", "stderr")


class Stream:
    """One of stdout and stderr: where it comes from, and how far it is formatted."""

    __slots__ = ("done", "end", "index", "name", "source", "spool")

    def __init__(self, index: int, spool: int) -> None:
        self.index = index
        self.name = _STREAMS[index].encode()
        self.spool = spool
        self.end = os.fstat(spool).st_size
        self.done = 0
        self.source = -1


class Pump:
    """The log of one container.

    Attributes:
        stuck: the log cannot be written (disk full); `retry` tries again.
    """

    __slots__ = ("_length", "_log", "_position", "_stamp", "directory", "log_path", "streams", "stuck", "terminal")

    def __init__(self, directory: str, log_path: str, terminal: bool) -> None:
        self.directory = directory
        self.log_path = log_path
        self.terminal = terminal
        self.stuck = False
        self._stamp = (0, b"")
        self._position = self._open("pos")
        names = _STREAMS[:1] if terminal else _STREAMS
        self.streams = [Stream(index, self._open(f"{name}.spool")) for index, name in enumerate(names)]
        self._log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._length = 0
        self._recover()

    def _open(self, name: str) -> int:
        return os.open(f"{self.directory}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _recover(self) -> None:
        recorded = os.pread(self._position, _POSITION.size, 0)
        if len(recorded) == _POSITION.size:
            out, err, self._length = _POSITION.unpack(recorded)
            for stream, done in zip(self.streams, (out, err), strict=False):
                # Shorter than recorded: it was emptied, and the record of that was not written any more.
                stream.done = done if done <= stream.end else 0
        else:
            self._length = os.fstat(self._log).st_size
        if stat.S_ISREG(os.fstat(self._log).st_mode):  # it may be /dev/null
            os.ftruncate(self._log, self._length)
        self._record()

    def make_fifos(self) -> "tuple[int, int]":
        """Make both FIFOs and return the container's ends."""
        ends = []
        for stream, name in zip(self.streams, _STREAMS, strict=True):
            path = f"{self.directory}/{name}.fifo"
            os.mkfifo(path, 0o600)
            ends.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            stream.source = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return ends[0], ends[1]

    def open_fifos(self) -> None:
        """Open the FIFOs that a predecessor made."""
        for stream, name in zip(self.streams, _STREAMS, strict=True):
            stream.source = os.open(f"{self.directory}/{name}.fifo", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def attach(self, master: int) -> None:
        """Take the output of the terminal `master`, which stays the caller's."""
        source = os.dup(master)
        os.set_blocking(source, False)
        self.streams[0].source = source

    def take(self, stream: Stream) -> bool:
        """Move what is there now; False at the end of the stream."""
        try:
            moved = self._read_terminal(stream) if self.terminal else self._splice(stream)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno == errno.EIO:  # the last process with this terminal is gone
                return False
            if error.errno != errno.ENOSPC:
                raise
            self.stuck = True
            return True
        stream.end += moved
        self._format(stream)
        return moved > 0

    def _splice(self, stream: Stream) -> int:
        return os.splice(stream.source, stream.spool, 1 << 20, offset_dst=stream.end)

    def _read_terminal(self, stream: Stream) -> int:
        data = os.read(stream.source, 65536)
        return os.pwrite(stream.spool, data, stream.end)

    def drain(self) -> None:
        """Take all that is there, when the container has ended, and write the unfinished last lines."""
        for stream in self.streams:
            while stream.source >= 0 and self._has_more(stream):
                pass
            self._format(stream, final=True)

    def _has_more(self, stream: Stream) -> bool:
        before = stream.end
        return self.take(stream) and stream.end > before and not self.stuck

    def retry(self) -> None:
        """Try to write what could not be written."""
        self.stuck = False
        for stream in self.streams:
            self._format(stream)

    def is_full(self) -> bool:
        """Tell whether no more may be taken from the container until the log can be written."""
        return self.stuck and any(stream.end - stream.done > _SPOOL_LIMIT for stream in self.streams)

    def reopen(self) -> None:
        """Go on in a new file at the same path, after a rotation."""
        os.close(self._log)
        self._log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._length = os.fstat(self._log).st_size
        self._record()

    def close(self) -> None:
        """Close everything."""
        for fd in (self._log, self._position, *(stream.spool for stream in self.streams)):
            os.close(fd)
        for stream in self.streams:
            self.close_source(stream)

    def close_source(self, stream: Stream) -> None:
        """Stop taking from `stream`."""
        if stream.source >= 0:
            os.close(stream.source)
            stream.source = -1

    def _format(self, stream: Stream, final: bool = False) -> None:
        while stream.done < stream.end:
            data = os.pread(stream.spool, min(stream.end - stream.done, 1 << 20), stream.done)
            text, used = format_lines(data, self._timestamp() + stream.name, final or self.terminal)
            if not used or not self._append(text):
                return
            stream.done += used
            self._length += len(text)
            self._record()
        if stream.end > _SPOOL_KEEP:
            os.ftruncate(stream.spool, 0)
            stream.done = stream.end = 0
            self._record()

    def _append(self, text: bytes) -> bool:
        written = 0
        try:
            while written < len(text):
                written += os.pwrite(self._log, text[written:], self._length + written)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.stuck = True
            return False
        return True

    def _record(self) -> None:
        done = [stream.done for stream in self.streams] + [0]
        os.pwrite(self._position, _POSITION.pack(done[0], done[1], self._length), 0)

    def _timestamp(self) -> bytes:
        now = time.time_ns()
        second = now // 1_000_000_000
        if self._stamp[0] != second:
            self._stamp = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode())
        return b"%s.%09dZ " % (self._stamp[1], now % 1_000_000_000)


def format_lines(data: bytes, prefix: bytes, partial: bool) -> "tuple[bytes, int]":
    """Return (text in CRI log format, how many bytes of `data` it covers).

    Each line gets `prefix`, the tag F, or P where the line goes on, and its text. What has no end of line yet is
    left, unless `partial` says to write it or it is longer than a line may be.
    """
    parts = []
    full, cut = prefix + b" F ", prefix + b" P "
    last = data.rfind(b"\n") + 1
    for line in data[:last].split(b"\n")[:-1] if last else ():
        while len(line) > MAX_LINE:
            parts.append(cut + line[:MAX_LINE])
            line = line[MAX_LINE:]
        parts.append(full + line)
    used = last
    while len(data) - used > MAX_LINE or (partial and used < len(data)):
        piece = data[used : used + MAX_LINE]
        parts.append(cut + piece)
        used += len(piece)
    if not parts:
        return b"", 0
    return b"\n".join(parts) + b"\n", used


def watch(pump: Pump, add: "Callable[[int, Callable[[int], None]], None]", ready: "Callable[[Stream], None]") -> None:
    """Register every source of `pump` with `add`; `ready(stream)` is called when it has something."""
    for stream in pump.streams:
        if stream.source >= 0:
            add(stream.source, lambda _events, stream=stream: ready(stream))  # type: ignore[misc] # bound per stream
