"""The shim's event loop: descriptors and what to do when they are ready. One thread, no futures.

asyncio would triple the size of the process that forks, and forking time grows with size.
"""

import errno
import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int], None]

READ = select.EPOLLIN
HANGUP = select.EPOLLHUP | select.EPOLLERR


class Loop:
    """Runs handlers until `stop`."""

    __slots__ = ("_epoll", "_handlers", "_last", "_stopped", "_timers")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: dict[int, tuple[float, Callable[[], None]]] = {}
        self._last = 0
        self._stopped = False

    def add(self, fd: int, handler: "Handler", events: int = READ) -> None:
        """Call `handler(events)` whenever `fd` is ready."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def remove(self, fd: int) -> None:
        """Forget `fd`; must come before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, action: "Callable[[], None]") -> int:
        """Call `action` once, after `seconds`; returns the number by which to `cancel` it."""
        self._last += 1
        self._timers[self._last] = (time.monotonic() + seconds, action)
        return self._last

    def cancel(self, timer: int) -> None:
        """Forget a timer, and with it what its action holds on to; one that has fired is fine."""
        self._timers.pop(timer, None)

    def on_signals(self, numbers: "tuple[int, ...]", action: "Callable[[bytes], None]") -> None:
        """Call `action(numbers)` after any of the signals `numbers` arrived."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _ignore)
        self.add(reader, lambda _events: action(os.read(reader, 4096)))

    def stop(self) -> None:
        """Let `run` return after the current handlers."""
        self._stopped = True

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopped:
            for fd, events in self._wait():
                handler = self._handlers.get(fd)
                if handler is not None:  # an earlier handler of this round may have removed it
                    handler(events)
            self._run_timers()

    def _wait(self) -> "list[tuple[int, int]]":
        timeout = None
        if self._timers:
            timeout = max(0.0, min(when for when, _ in self._timers.values()) - time.monotonic())
        try:
            return self._epoll.poll(timeout)
        except OSError as error:
            if error.errno != errno.EINTR:
                raise
            return []

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        for timer, (when, action) in list(self._timers.items()):
            if when <= now and timer in self._timers:  # an earlier action may have cancelled it
                del self._timers[timer]
                action()


def _ignore(_number: int, _frame: object) -> None:
    """Exist, so that the signal interrupts and is written to the wakeup descriptor."""
