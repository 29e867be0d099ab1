"""Lines to typed requests and answers, and back. No I/O.

On the wire a request is `{"cmd": NAME, "data": {...}, "id": ID}` and an answer is
`{"type": NAME, "data": ..., "id": ID}`. `data` is left out where there is none and `id` where the
request had none, so that the lines for a first-release client are those it knows.
"""

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from container.errors import ContainerError
from vappc.errors import ProtocolError, VappcError
from vappc.protocol.answers import ANSWERS, Answer, Failure, RequestId
from vappc.protocol.commands import COMMANDS, Command, Request


class _RequestEnvelope(Struct, omit_defaults=True):
    cmd: str
    data: Raw | UnsetType = UNSET
    id: RequestId = None


class _AnswerEnvelope(Struct):
    type: str
    data: Raw = Raw(b"")
    id: RequestId = None


class _IdOnly(Struct):
    id: RequestId = None


_encoder = msgspec.json.Encoder()
_requests = msgspec.json.Decoder(_RequestEnvelope)
_answers = msgspec.json.Decoder(_AnswerEnvelope)


class BadRequest(ProtocolError):
    """A request that cannot be understood; `id` is its id as far as that was readable."""

    def __init__(self, message: str, hint: str = "", request_id: RequestId = None) -> None:
        super().__init__(message, hint)
        self.id = request_id


def encode_request(command: Command, request_id: RequestId = None) -> bytes:
    """Return the line of a request."""
    data = _encoder.encode(command)
    envelope = _RequestEnvelope(type(command).__name__, UNSET if data == b"{}" else Raw(data), request_id)
    return _encoder.encode(envelope) + b"\n"


def decode_request(line: bytes) -> Request:
    """Read a request.

    Raises:
        BadRequest: it is no JSON object, names no command, or a field is wrong; the text names it.
    """
    try:
        envelope = _requests.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"invalid command: {_text(error)}", "see docs/protocol.md", _id_of(line)) from error
    kind = COMMANDS.get(envelope.cmd)
    if kind is None:
        known = ", ".join(sorted(COMMANDS))
        raise BadRequest(f"unknown command `{envelope.cmd[:64]}`", f"known are {known}", envelope.id)
    data = b"{}" if isinstance(envelope.data, UnsetType) else bytes(envelope.data)
    if data == b"null":
        data = b"{}"
    try:
        return Request(msgspec.json.decode(data, type=kind), envelope.id)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text = _text(error)
        text = text.replace("`$", "`$.data") if "`$" in text else f"{text} - at `$.data`"
        raise BadRequest(f"invalid `{envelope.cmd}`: {text}", "", envelope.id) from error


def encode_answer(answer: Answer) -> bytes:
    """Return the line of an answer."""
    return _encoder.encode(answer) + b"\n"


def decode_answer(line: bytes) -> Answer:
    """Read an answer.

    Raises:
        ProtocolError: it is none.
    """
    try:
        envelope = _answers.decode(line)
        kind = ANSWERS[envelope.type]
        data = UNSET if kind is None else msgspec.json.decode(envelope.data, type=kind)
    except KeyError as error:
        raise ProtocolError(f"unknown answer {error}", "the daemon is newer than this client") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"invalid answer: {_text(error)}", "is this a vappc daemon's socket?") from error
    return Answer(envelope.type, data, envelope.id)


def failure(error: ContainerError | VappcError) -> Failure:
    """Return what the wire says about `error`."""
    return Failure(error.message, error.code, error.category, error.retryable, error.hint)


def _id_of(line: bytes) -> RequestId:
    try:
        return msgspec.json.decode(line, type=_IdOnly).id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _text(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]
