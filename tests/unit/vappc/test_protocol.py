import itertools
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vappc.protocol
from container.intent import (
    ContainerRunSpec,
    ExecSpec,
    Failed,
    InstanceHandle,
    MountSpec,
    Provisioning,
    SocketEndpoint,
    StateDetail,
    TcpEndpoint,
    VsockAddress,
    VsockEndpoint,
)
from vappc.errors import LineTooLongError, ProtocolError
from vappc.protocol import (
    ANSWERS,
    COMMANDS,
    MAX_LINE_BYTES,
    Answer,
    BadRequest,
    Failure,
    Interface,
    LineDecoder,
    commands,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    output,
    output_bytes,
)
from vappc.protocol.schema import render

ROOT = Path(__file__).parents[3]


def test_public_names_are_exactly_all():
    public = {name for name in vars(vappc.protocol) if not name.startswith("_")}
    modules = {"answers", "codec", "commands", "framing", "schema"}
    assert set(vappc.protocol.__all__) == public - modules
    assert vappc.protocol.__all__ == sorted(
        vappc.protocol.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)
    )


def test_committed_schema_is_current():
    assert (ROOT / "docs" / "protocol.schema.json").read_text() == render()


# The lines that clients of the first release send and understand.


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b'{"cmd":"Ping"}', commands.Ping()),
        (b'{"cmd":"Ping","data":null}', commands.Ping()),
        (b'{"data":{"instance_id":"vapp-1"},"cmd":"Stop"}', commands.Stop("vapp-1")),
        (b'{"cmd":"GetState","data":{"instance_id":"vapp-1","extra":1}}', commands.GetState("vapp-1")),
        (b'{"cmd":"GetEndpoint","data":{"instance_id":"vapp-1"}}', commands.GetEndpoint("vapp-1")),
        (b'{"cmd":"GetInterfaceIp","data":{"interface":"eth0"}}', commands.GetInterfaceIp("eth0")),
        (
            (
                b'{"cmd":"RunContainer","data":{"spec":{"image":"alpine:latest","command":["sh"],"args":["-c","id"],'
                b'"env":["A=b"],"mounts":[{"host_path":"/a","container_path":"/b","read_only":false}],'
                b'"instance_id":null,"privileged":false}}}'
            ),
            commands.RunContainer(
                ContainerRunSpec(
                    "alpine:latest", ["sh"], ["-c", "id"], ["A=b"], [MountSpec("/a", "/b")], None, privileged=False
                )
            ),
        ),
        (b'{"cmd":"RunContainer","data":{"spec":{"image":"a"}}}', commands.RunContainer(ContainerRunSpec("a"))),
    ],
)
def test_first_release_requests_are_understood(line, command):
    assert decode_request(line).command == command


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (Answer("OkUnit"), b'{"type":"OkUnit"}\n'),
        (
            Answer("OkHandle", InstanceHandle("vapp-1", SocketEndpoint("/s"))),
            b'{"type":"OkHandle","data":{"instance_id":"vapp-1","endpoint":{"type":"Socket","value":"/s"}}}\n',
        ),
        (Answer("OkState", "Running"), b'{"type":"OkState","data":"Running"}\n'),
        (
            Answer("OkState", StateDetail(provisioning=Provisioning(50))),
            b'{"type":"OkState","data":{"Provisioning":{"progress":50}}}\n',
        ),
        (
            Answer("OkState", StateDetail(failed=Failed("OOM"))),
            b'{"type":"OkState","data":{"Failed":{"reason":"OOM"}}}\n',
        ),
        (
            Answer("OkEndpoint", TcpEndpoint("h:1")),
            b'{"type":"OkEndpoint","data":{"type":"Tcp","value":"h:1"}}\n',
        ),
        (
            Answer("OkEndpoint", VsockEndpoint(VsockAddress(3, 49163))),
            b'{"type":"OkEndpoint","data":{"type":"Vsock","value":{"cid":3,"port":49163}}}\n',
        ),
        (
            Answer("OkInterfaceIp", Interface("eth0", None)),
            b'{"type":"OkInterfaceIp","data":{"interface":"eth0","ip":null}}\n',
        ),
    ],
)
def test_first_release_answers_keep_their_shape(answer, line):
    assert encode_answer(answer) == line
    assert decode_answer(line.strip()) == answer


def test_an_error_answer_begins_with_its_message():
    line = encode_answer(Answer("Err", Failure("no", "not-found", "Runtime", hint="look")))
    assert json.loads(line)["data"]["message"] == "no"
    assert decode_answer(line).data == Failure("no", "not-found", "Runtime", hint="look")


def test_ids_are_echoed_numbers_or_texts():
    for request_id in (7, "seven"):
        assert decode_request(encode_request(commands.Ping(), request_id)).id == request_id
        assert decode_answer(encode_answer(Answer("OkUnit", id=request_id))).id == request_id


EXAMPLES = {
    "RunContainer": {"spec": {"image": "a"}},
    "Exec": {"instance_id": "a", "spec": {"argv": ["ls"]}},
    "Resize": {"exec_id": "e", "rows": 1, "cols": 2},
    "Input": {"exec_id": "e", "data": "aGk="},
    "GetInterfaceIp": {"interface": "lo"},
    "PullImage": {"reference": "a"},
    "LoadImage": {"path": "/a"},
    "InspectImage": {"name": "a"},
    "RemoveImage": {"name": "a"},
    "Watch": {"operation": "run:a"},
    "Cancel": {"operation": "run:a"},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_survives_a_round_trip(name):
    data = EXAMPLES.get(name, {"instance_id": "a"})
    request = decode_request(json.dumps({"cmd": name, "data": data, "id": 1}).encode())
    assert decode_request(encode_request(request.command, 1)) == request


@pytest.mark.parametrize(
    ("line", "words", "request_id"),
    [
        (b'{"cmd":"Dance","id":5}', ["unknown command `Dance`"], 5),
        (b'{"cmd":"Stop","id":"x"}', ["Stop", "instance_id"], "x"),
        (b'{"cmd":"Stop","data":{"instance_id":5}}', ["`$.data.instance_id`", "str"], None),
        (b'{"cmd":"Stop","data":{"instance_id":"../x"}}', ["`$.data.instance_id`"], None),
        (b'{"cmd":"Stop","data":{"instance_id":"a\\n"}}', ["`$.data.instance_id`"], None),
        (b'{"cmd":"Stop","data":{"instance_id":"' + b"a" * 129 + b'"}}', ["`$.data.instance_id`"], None),
        (b'{"cmd":"Stop","data":[]}', ["`$.data`"], None),
        (b'{"cmd":7,"id":1}', ["`$.cmd`"], 1),
        (b'{"cmd":"RunContainer","data":{"spec":{"image":"a","env":[1]}}}', ["`$.data.spec.env[0]`"], None),
        (b'{"cmd":"RunContainer","data":{"spec":{"image":"a","pull":"maybe"}}}', ["`$.data.spec.pull`"], None),
        (b'{"cmd":"Exec","data":{"instance_id":"a","spec":{"argv":[]}}}', ["`$.data.spec.argv`"], None),
        (b'{"cmd":', ["invalid command"], None),
        (b"[]", ["invalid command"], None),
        (b"\xff\xfe", ["invalid command"], None),
        (b'{"cmd":"Ping"}{"cmd":"Ping"}', ["invalid command"], None),
    ],
)
def test_a_bad_request_names_what_is_wrong(line, words, request_id):
    with pytest.raises(BadRequest) as caught:
        decode_request(line)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.id == request_id


@pytest.mark.parametrize("line", [b'{"type":"Bogus"}', b"nonsense", b'{"type":"OkState","data":5}', b"{}"])
def test_what_is_no_answer_is_a_protocol_error(line):
    with pytest.raises(ProtocolError):
        decode_answer(line)


@given(st.binary())
def test_output_of_any_bytes_arrives_unchanged(chunk):
    line = encode_answer(Answer("Output", output("stderr", chunk)))
    found = decode_answer(line).data
    assert (found.stream, output_bytes(found)) == ("stderr", chunk)


def test_every_answer_type_is_documented_in_the_schema():
    schema = json.loads(render())
    named = {found["properties"]["type"]["const"] for found in schema["$defs"]["answer"]["oneOf"]}
    assert named == set(ANSWERS)


# Framing.


def feed_all(chunks):
    decoder = LineDecoder()
    return [line for chunk in chunks for line in decoder.feed(chunk)]


def cut(data, places):
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


objects = st.sampled_from(
    [{}, {"a": "}"}, {"cmd": "Ping", "id": 1}, {"a": {"b": '"}\\'}}, {"é": "☃\n"}, {"a": [{}, {"b": "{"}]}, {"": " "}]
)


@given(st.lists(objects, max_size=5), st.booleans(), st.data())
def test_any_split_of_the_stream_gives_the_same_messages(messages, last_newline, data):
    lines = [json.dumps(found).encode() for found in messages]
    stream = b"\n".join(lines) + (b"\n" if last_newline else b"")
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    assert feed_all(cut(stream, places)) == lines


@given(st.binary(max_size=200), st.data())
def test_any_bytes_give_lines_or_nothing(stream, data):
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    lines = feed_all(cut(stream, places))
    assert all(b"\n" not in line and line.strip() == line != b"" for line in lines)


def test_an_object_without_newline_is_a_message():
    assert feed_all([b'{"cmd":', b'"Ping"}']) == [b'{"cmd":"Ping"}']


def test_carriage_returns_and_empty_lines_are_nothing():
    assert feed_all([b'\r\n\n  \n{"a":1}\r\n']) == [b'{"a":1}']


def test_a_line_of_exactly_the_limit_passes():
    line = b"x" * MAX_LINE_BYTES
    assert feed_all([line, b"\n"]) == [line]


@pytest.mark.parametrize("tail", [b"", b"\n"])
def test_a_longer_line_is_refused(tail):
    with pytest.raises(LineTooLongError):
        feed_all([b"x" * (MAX_LINE_BYTES + 1) + tail])


def test_a_huge_line_is_never_buffered():
    decoder = LineDecoder()
    list(decoder.feed(b"x" * MAX_LINE_BYTES))
    with pytest.raises(LineTooLongError):
        list(decoder.feed(b"x" * MAX_LINE_BYTES))
    assert decoder.buffered == 0


def test_specs_reject_what_cannot_be():
    for bad in ({"cpus": 0}, {"memory_bytes": -1}, {"pids_limit": 0}, {"hostname": ""}, {"network": "bridge"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"image": "a", **bad}, ContainerRunSpec)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"argv": ["a"], "rows": 70000}, ExecSpec)
