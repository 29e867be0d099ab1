"""What goes over the wire, byte by byte, as clients of the first release and ill-behaved ones do it."""

import asyncio
import json

import pytest

from fakes.daemon import fake_daemon


@pytest.fixture
async def daemon(tmp_path):
    async with fake_daemon(tmp_path) as made:
        yield made


async def connect(daemon):
    return await asyncio.open_unix_connection(daemon.address)


async def test_an_early_client_gets_one_answer_per_request_without_newlines(daemon):
    reader, writer = await connect(daemon)
    for request, answer in [
        (b'{"cmd":"Ping"}', b'{"type":"OkUnit"}\n'),
        (
            (
                b'{"cmd":"RunContainer","data":{"spec":{"image":"demo","command":["/bin/sleep"],"args":["60"],'
                b'"env":null,"mounts":null,"instance_id":"a","privileged":false}}}'
            ),
            b'{"type":"OkHandle","data":{"instance_id":"a","endpoint":{"type":"Socket","value":"DIR/a"}}}\n',
        ),
        (b'{"cmd":"GetState","data":{"instance_id":"a"}}', b'{"type":"OkState","data":"Running"}\n'),
        (
            b'{"cmd":"GetEndpoint","data":{"instance_id":"a"}}',
            b'{"type":"OkEndpoint","data":{"type":"Socket","value":"DIR/a"}}\n',
        ),
        (
            b'{"cmd":"GetInterfaceIp","data":{"interface":"lo"}}',
            b'{"type":"OkInterfaceIp","data":{"interface":"lo","ip":"127.0.0.1"}}\n',
        ),
        (b'{"cmd":"Stop","data":{"instance_id":"a"}}', b'{"type":"OkUnit"}\n'),
        (b'{"cmd":"GetState","data":{"instance_id":"a"}}', b'{"type":"OkState","data":"Stopped"}\n'),
    ]:
        writer.write(request)
        directory = str(daemon.engine._records.root).encode()
        assert await reader.read(65536) == answer.replace(b"DIR", directory)
    writer.close()


async def test_requests_without_id_are_answered_in_order(daemon):
    reader, writer = await connect(daemon)
    daemon.images.gate = asyncio.Event()
    writer.write(b'{"cmd":"PullImage","data":{"reference":"demo"}}\n{"cmd":"Ping"}\n')
    writer.write(b'{"cmd":"Ping","id":1}\n')
    assert json.loads(await reader.readline()) == {"type": "OkUnit", "id": 1}
    daemon.images.gate.set()
    assert json.loads(await reader.readline())["type"] == "OkImage"
    assert json.loads(await reader.readline()) == {"type": "OkUnit"}
    writer.close()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"hello\n", "invalid command"),
        (b'{"cmd":"Bogus"}\n', "unknown command `Bogus`"),
        (b'{"cmd":"Stop","data":{"instance_id":7}}\n', "`$.data.instance_id`"),
        (b"\xff\xff\n", "invalid command"),
    ],
)
async def test_a_bad_line_is_one_error_and_the_connection_goes_on(daemon, line, words):
    reader, writer = await connect(daemon)
    writer.write(line + b'{"cmd":"Ping"}\n')
    error = json.loads(await reader.readline())
    assert error["type"] == "Err"
    assert words in error["data"]["message"]
    assert set(error["data"]) == {"message", "code", "category", "retryable", "hint"}
    assert await reader.readline() == b'{"type":"OkUnit"}\n'
    writer.close()


async def test_a_hundred_megabytes_in_one_line_are_refused_and_not_kept(daemon):
    reader, writer = await connect(daemon)
    try:
        for _ in range(100):
            writer.write(b"x" * (1 << 20))
            await writer.drain()
    except ConnectionError:
        pass  # it may hang up on us
    error = json.loads(await reader.readline())
    assert (error["type"], error["data"]["code"]) == ("Err", "line-too-long")
    writer.close()
    reader, writer = await connect(daemon)
    writer.write(b'{"cmd":"Ping"}\n')
    assert await reader.readline() == b'{"type":"OkUnit"}\n'
    writer.close()


async def test_an_id_in_use_is_refused(daemon):
    reader, writer = await connect(daemon)
    daemon.images.gate = asyncio.Event()
    writer.write(b'{"cmd":"PullImage","id":1,"data":{"reference":"demo"}}\n{"cmd":"Ping","id":1}\n')
    kinds = [json.loads(await reader.readline())["type"] for _ in range(2)]
    assert sorted(kinds) == ["Err", "Progress"]
    writer.close()


async def test_a_client_that_stops_sending_still_gets_its_answers(daemon):
    reader, writer = await connect(daemon)
    writer.write(b'{"cmd":"PullImage","data":{"reference":"demo"}}')
    writer.write_eof()
    assert json.loads(await reader.readline())["type"] == "OkImage"
    assert await reader.read() == b""
    writer.close()


async def test_work_goes_on_when_its_client_leaves(daemon):
    daemon.images.gate = asyncio.Event()
    reader, writer = await connect(daemon)
    writer.write(
        b'{"cmd":"RunContainer","id":1,"data":{"spec":{"image":"demo","command":["/bin/sleep"],"args":["60"],"instance_id":"a"}}}\n'
    )
    await reader.readline()
    writer.close()
    daemon.images.gate.set()
    reader, writer = await connect(daemon)
    writer.write(b'{"cmd":"Watch","id":1,"data":{"operation":"run:a"}}\n')
    while (answer := json.loads(await reader.readline()))["type"] == "Progress":
        pass
    assert answer["type"] == "OkHandle"
    writer.close()


async def test_input_for_nobody_is_an_error(daemon):
    reader, writer = await connect(daemon)
    writer.write(b'{"cmd":"Input","data":{"exec_id":"x","data":"aGk="}}\n')
    assert "no process `x`" in json.loads(await reader.readline())["data"]["message"]
    writer.close()


async def test_a_leaving_client_lets_go_of_its_exec(daemon):
    reader, writer = await connect(daemon)
    writer.write(
        b'{"cmd":"RunContainer","data":{"spec":{"image":"demo","command":["/bin/sleep"],"args":["60"],"instance_id":"a"}}}\n'
    )
    await reader.readline()
    writer.write(b'{"cmd":"Exec","id":2,"data":{"instance_id":"a","spec":{"argv":["/bin/cat"],"stdin":true}}}\n')
    assert json.loads(await reader.readline())["type"] == "Started"
    writer.close()
    await asyncio.wait_for(daemon.shim.last_exec.process.wait(), 5)
