"""What both clients share: numbering requests, decoding answers, telling errors apart. No I/O."""

from typing import TypeVar, cast

from msgspec import UNSET

from container.intent import Endpoint, InstanceState
from vappc.errors import ProtocolError, ServerError
from vappc.protocol import Answer, Command, Failure, LineDecoder, decode_answer, encode_request

#: Answers are trusted more than requests: a list of ten thousand containers is a few MiB.
MAX_ANSWER_BYTES = 64 << 20
READ_BYTES = 1 << 18

T = TypeVar("T")


class Core:
    """One connection's state: the next request id, and the bytes of an unfinished answer."""

    def __init__(self) -> None:
        self._next_id = 0
        self._decoder = LineDecoder(max_bytes=MAX_ANSWER_BYTES)

    def request(self, command: Command) -> tuple[int, bytes]:
        """Return a fresh request id and the bytes to send."""
        self._next_id += 1
        return self._next_id, encode_request(command, self._next_id)

    def feed(self, data: bytes) -> list[Answer]:
        """Return the answers that `data` completes."""
        return [decode_answer(line) for line in self._decoder.feed(data)]


def check(answer: Answer, name: str, kind: type[T]) -> T:
    """Return the data of `answer`, which must be of type `name`.

    Raises:
        ServerError: it is an error of the daemon.
        ProtocolError: it is something else.
    """
    raise_failure(answer)
    if answer.type != name or not isinstance(answer.data, kind):
        raise _unexpected(name, answer)
    return answer.data


def check_state(answer: Answer) -> InstanceState:
    """Return the state of an OkState answer."""
    raise_failure(answer)
    if answer.type != "OkState":
        raise _unexpected("OkState", answer)
    return cast("InstanceState", answer.data)


def check_endpoint(answer: Answer) -> Endpoint:
    """Return the endpoint of an OkEndpoint answer."""
    raise_failure(answer)
    if answer.type != "OkEndpoint":
        raise _unexpected("OkEndpoint", answer)
    return cast("Endpoint", answer.data)


def check_unit(answer: Answer) -> None:
    """Make sure that `answer` is OkUnit."""
    raise_failure(answer)
    if answer.type != "OkUnit" or answer.data is not UNSET:
        raise _unexpected("OkUnit", answer)


def raise_failure(answer: Answer) -> None:
    """Raise the error that `answer` carries, if it is one."""
    if isinstance(answer.data, Failure):
        found = answer.data
        raise ServerError(
            found.message, found.hint, code=found.code, category=found.category, retryable=found.retryable
        )


def _unexpected(name: str, answer: Answer) -> ProtocolError:
    return ProtocolError(f"expected `{name}`, got `{answer.type}`", "is the daemon of another version?")
