import asyncio
import json
import os
import socket
import subprocess
import sys

import pytest

import vappc.client
from container.intent import ContainerRunSpec, ExecSpec
from fakes.daemon import fake_daemon
from fakes.shim import FakeShim
from vappc.client import AsyncClient, Client, ConnectError, ServerError, ping_over_stream
from vappc.protocol import output_bytes
from vappc.transport.address import TcpAddress


def spec(script="sleep 60", **fields):
    return ContainerRunSpec(image="demo", command=["/bin/sh", "-c", script], **fields)


@pytest.fixture
async def daemon(tmp_path):
    async with fake_daemon(tmp_path) as made:
        yield made


def blocking(test):
    """Run the body of a test with a blocking client in a thread beside the daemon."""

    async def run(daemon):
        def body():
            with Client(daemon.address) as client:
                test(client, daemon)

        await asyncio.to_thread(body)

    run.__name__ = test.__name__
    return run


def test_importing_the_client_brings_only_msgspec_and_the_standard_library():
    script = (
        "import sys, json; from vappc.client import Client;"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    found = set(json.loads(subprocess.check_output([sys.executable, "-I", "-c", script])))
    foreign = found - set(sys.stdlib_module_names) - {"__main__", "__mp_main__", "_distutils_hack", "sitecustomize"}
    # msgspec itself takes typing_extensions where it finds them.
    assert foreign - {"typing_extensions"} == {"msgspec", "container", "vappc"}
    assert "asyncio" not in found


def test_public_names_of_the_client_exist():
    assert all(hasattr(vappc.client, name) for name in vappc.client.__all__)
    with pytest.raises(AttributeError):
        vappc.client.Nothing  # noqa: B018


@blocking
def test_ping_and_hello(client, daemon):
    client.ping()
    found = client.hello()
    assert (found.server, found.protocol, found.rootless, found.findings) == ("vappc", 1, True, ["no cgroup"])


@blocking
def test_shutdown_is_refused_while_a_container_runs(client, daemon):
    client.run_container(spec("sleep 100", instance_id="a"))
    with pytest.raises(ServerError, match="1 containers run, among them `a`"):
        client.shutdown()
    assert not daemon.ended.is_set()
    client.shutdown(force=True)
    assert daemon.ended.is_set()


@blocking
def test_a_container_lives_and_ends(client, daemon):
    steps = []
    handle = client.run_container(spec("exit 7", instance_id="a"), steps.append)
    assert handle.instance_id == "a"
    assert [step.percentage for step in steps] == sorted(step.percentage for step in steps)
    assert steps[-1].percentage == 100
    assert {step.operation for step in steps} == {"run:a"}
    assert client.wait("a").code == 7
    assert client.state("a") == "Stopped"
    assert [found.id for found in client.list_containers()] == ["a"]
    client.remove("a")
    assert client.list_containers() == []


@blocking
def test_stop_ends_a_container_and_may_be_repeated(client, daemon):
    client.run_container(spec(instance_id="a"))
    assert client.state("a") == "Running"
    client.stop("a", 5)
    client.stop("a", 5)
    assert client.wait("a").signal == 15


@blocking
def test_pause_resume_kill(client, daemon):
    client.run_container(spec(instance_id="a"))
    client.pause("a")
    assert client.list_containers()[0].status == "paused"
    client.resume("a")
    client.kill("a", "9")
    assert client.wait("a").code == 137


@blocking
def test_logs_are_what_was_written(client, daemon):
    client.run_container(spec("echo one; echo two >&2; printf three", instance_id="a"))
    client.wait("a")
    found = {(entry.stream, entry.text) for entry in client.logs("a", timestamps=True)}
    assert found == {("stdout", "one\n"), ("stderr", "two\n"), ("stdout", "three")}
    assert [entry.time for entry in client.logs("a", tail=1)] == [None]


@blocking
def test_followed_logs_end_with_the_container(client, daemon):
    client.run_container(spec("echo one; read line; echo $line", instance_id="a", stdin=True))
    entries = client.logs("a", follow=True)
    assert next(entries).text == "one\n"
    os.write(daemon.shim.containers["a"].stdin, b"two\n")
    assert [entry.text for entry in entries] == ["two\n"]


@blocking
def test_exec_returns_code_and_output(client, daemon):
    client.run_container(spec(instance_id="a"))
    found = client.exec("a", ["/bin/sh", "-c", "echo $X; echo err >&2; exit 3"], env=["X=y"])
    assert (found.code, found.stdout, found.stderr) == (3, b"y\n", b"err\n")


@blocking
def test_exec_passes_more_stdin_than_any_buffer_holds(client, daemon):
    client.run_container(spec(instance_id="a"))
    data = bytes(range(256)) * 8192
    assert client.exec("a", ["/bin/cat"], stdin=data).stdout == data


@blocking
def test_exec_of_a_missing_program_is_an_error_with_a_code(client, daemon):
    client.run_container(spec(instance_id="a"))
    with pytest.raises(ServerError, match="no such file") as caught:
        client.exec("a", ["/no/such"])
    assert caught.value.code == "launch"
    client.ping()


@blocking
def test_attached_run_is_output_and_exit(client, daemon):
    with client.run_attached(spec("echo out; exit 4", instance_id="a", remove=True)) as process:
        assert process.wait_started().instance_id == "a"
        assert [output_bytes(found) for found in process] == [b"out\n"]
        assert process.exit.code == 4


async def test_a_container_to_be_removed_is_gone_after_its_end(daemon):
    async with AsyncClient(daemon.address) as client:
        async with await client.run_attached(spec("true", instance_id="a", remove=True)) as process:
            async for _ in process:
                pass
        async with asyncio.timeout(5):
            while await client.list_containers():  # noqa: ASYNC110 - the daemon announces no removals
                await asyncio.sleep(0.01)


@blocking
def test_images_are_pulled_listed_inspected_removed(client, daemon):
    steps = []
    image = client.pull_image("demo", on_progress=steps.append)
    assert [step.bytes_total for step in steps] == [10, 10]
    assert client.images() == [image.info]
    assert client.inspect_image("demo").config["config"]["Cmd"] == ["/bin/sh"]
    client.remove_image("demo")
    assert client.images() == []
    with pytest.raises(ServerError) as caught:
        client.pull_image("nope")
    assert (caught.value.code, caught.value.hint) == ("not-found", "check the name")


@blocking
def test_load_names_the_image_after_its_file(client, daemon):
    path = daemon.images.layer / "My Root.tar.gz"
    path.touch()
    assert client.load_image(str(path)).info.names == ["localhost/my-root"]


@blocking
def test_interface_ip_is_never_an_error(client, daemon):
    assert client.interface_ip("lo") == "127.0.0.1"
    assert client.interface_ip("lo*") == "127.0.0.1"
    assert client.interface_ip("nothing0") is None
    assert client.interface_ip("") is None


@blocking
def test_inspect_and_endpoint_name_the_directory(client, daemon):
    client.run_container(spec(instance_id="a", labels={"k": "v"}))
    found = client.inspect("a")
    assert found.info.labels == {"k": "v"}
    assert found.config["process"]["args"] == ["/bin/sh", "-c", "sleep 60"]
    assert client.endpoint("a").value == found.directory


@blocking
def test_unknown_containers_are_errors_with_a_hint(client, daemon):
    for call in (client.state, client.stop, client.wait, client.remove, client.inspect, client.pause, client.endpoint):
        with pytest.raises(ServerError) as caught:
            call("nobody")
        assert (caught.value.code, bool(caught.value.hint)) == ("not-found", True)


@blocking
def test_a_broken_operation_can_be_watched_to_its_end(client, daemon):
    client.run_container(spec(instance_id="a"))
    answers = list(client.watch("run:a"))
    assert answers[-1].type == "OkHandle"
    numbers = [answer.data.seq for answer in answers[:-1]]
    assert numbers == sorted(numbers)
    assert len(list(client.watch("run:a", after=numbers[-1]))) == 1
    with pytest.raises(ServerError, match="no operation"):
        list(client.watch("run:b"))


async def test_cancel_ends_a_pull_for_everybody(daemon):
    daemon.images.gate = asyncio.Event()
    async with AsyncClient(daemon.address) as client:
        seen = asyncio.Event()
        run = asyncio.create_task(client.run_container(spec(instance_id="a"), lambda _: seen.set()))
        await seen.wait()
        assert (await client.state("a")).provisioning.progress == 7
        await client.cancel("run:a")
        with pytest.raises(ServerError) as caught:
            await run
    assert caught.value.code == "cancelled"
    assert not list(daemon.engine._records.names())


async def test_many_calls_share_one_connection(daemon):
    async with AsyncClient(daemon.address) as client:
        await client.run_container(spec(instance_id="a"))
        waiting = asyncio.create_task(client.wait("a"))
        await asyncio.gather(*(client.ping() for _ in range(100)))
        assert not waiting.done()
        await client.stop("a", 5)
        assert (await waiting).signal == 15


async def test_async_exec_feeds_and_reads_at_once(daemon):
    async with AsyncClient(daemon.address) as client:
        await client.run_container(spec(instance_id="a"))
        data = b"x" * 3_000_000
        assert (await client.exec("a", ["/bin/cat"], stdin=data)).stdout == data
        async with await client.open_exec("a", ExecSpec(["/bin/cat"], stdin=True)) as process:
            await process.write(b"hello\n")
            await process.resize(50, 100)  # it has no terminal: nothing happens
            found = await anext(aiter(process))
            assert found.text == "hello\n"
            await process.close_stdin()
            async for _ in process:
                pass
            assert process.exit.code == 0


async def test_async_logs_follow_to_the_end(daemon):
    async with AsyncClient(daemon.address) as client:
        await client.run_container(spec("echo one; sleep 0.05; echo two", instance_id="a"))
        assert [found.text async for found in client.logs("a", follow=True)] == ["one\n", "two\n"]


async def test_a_daemon_that_goes_away_is_a_connect_error(tmp_path):
    async with fake_daemon(tmp_path) as daemon:
        client = AsyncClient(daemon.address)
        await client.ping()
        await client.run_container(spec(instance_id="a"))
        waiting = asyncio.create_task(client.wait("a"))
        await client.ping()
    with pytest.raises(ConnectError):
        await waiting
    with pytest.raises(ConnectError, match="cannot connect"):
        await client.ping()
    await client.close()


async def test_ping_over_any_stream(daemon):
    def ping():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(daemon.address)
            with sock.makefile("rwb") as stream:
                ping_over_stream(stream)

    await asyncio.to_thread(ping)


async def test_tcp_serves_those_with_the_token_only(tmp_path):
    async with fake_daemon(tmp_path, TcpAddress("127.0.0.1", 0), token="secret") as daemon:
        address = f"tcp:127.0.0.1:{daemon.listener.port}"

        def talk(token):
            with Client(address, token=token) as client:
                client.ping()

        await asyncio.to_thread(talk, "secret")
        for wrong in (None, "", "Secret"):
            with pytest.raises(ServerError) as caught:
                await asyncio.to_thread(talk, wrong)
            assert caught.value.code == "access-denied"


async def test_a_restarted_daemon_knows_everything(tmp_path):
    shim = FakeShim()
    async with fake_daemon(tmp_path, shim=shim) as daemon, AsyncClient(daemon.address) as client:
        await client.run_container(spec(instance_id="runs"))
        await client.run_container(spec("exit 9", instance_id="ended"))
        await client.wait("ended")
        await client.run_container(spec("sleep 0.2; exit 5", instance_id="ends-meanwhile"))
    await shim.wait("ends-meanwhile")
    async with fake_daemon(tmp_path, shim=shim) as daemon, AsyncClient(daemon.address) as client:
        assert {found.id: found.status for found in await client.list_containers()} == {
            "runs": "running",
            "ended": "stopped",
            "ends-meanwhile": "stopped",
        }
        assert (await client.wait("ended")).code == 9
        assert (await client.wait("ends-meanwhile")).code == 5
        await client.stop("runs", 5)
    await shim.close()
