"""What can go wrong in `vappc`, by the decision a caller can take.

VappcError
├── AddressError     the text is no address: correct it
├── ConnectError     nobody answers there: start the daemon
├── AccessError      this peer may not speak here
├── ProtocolError    the other side does not speak our protocol
│   └── LineTooLongError
├── ServerError      the daemon answered with an error; carries its code, category and hint
├── UsageError       a command line is wrong
└── DaemonError      the daemon cannot start

Errors never print; `vappc.cli` and `vappc.daemon.main` do.
"""


class VappcError(Exception):
    """Root of the tree; `str()` is the message alone, the hint is separate."""

    code = "vappc"
    category = "Internal"
    retryable = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class AddressError(VappcError):
    """A text is not the address of a daemon."""

    code = "bad-address"
    category = "Config"


class ConnectError(VappcError):
    """Nobody answers at the address, or the connection broke."""

    code = "connect"
    category = "Network"
    retryable = True


class AccessError(VappcError):
    """The peer may not use this daemon."""

    code = "access-denied"
    category = "Config"


class ProtocolError(VappcError):
    """Bytes are not a message of the protocol; the message names the field."""

    code = "bad-request"
    category = "Config"


class LineTooLongError(ProtocolError):
    """A line is longer than the protocol allows; the connection cannot be used further."""

    code = "line-too-long"


class UsageError(VappcError):
    """A command line is wrong."""

    code = "usage"
    category = "Config"


class DaemonError(VappcError):
    """The daemon cannot start or go on."""

    code = "daemon"
    category = "Config"


class ServerError(VappcError):
    """The daemon answered with an error; `code`, `category` and `retryable` are the answer's."""

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        code: str = "internal",
        category: str = "Internal",
        retryable: bool = False,
    ) -> None:
        super().__init__(message, hint)
        self.code = code
        self.category = category
        self.retryable = retryable
