"""What each command does: a table from the wire's commands to the engine and the image store."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import UNSET

from container.errors import StateError
from container.images.image import Image
from container.intent import ExitStatus, ImageDetail, ImageInfo, InstanceHandle, Stream
from container.pods.engine import Engine
from container.pods.needs import ImageStore
from container.pods.operations import Operation
from container.pods.sessions import Attachment
from container.progress import Progress, Report
from vappc.daemon.connection import Reply
from vappc.daemon.interfaces import interface_ip
from vappc.errors import ProtocolError
from vappc.protocol import (
    Command,
    HelloData,
    Interface,
    ProgressData,
    StartedData,
    commands,
    output,
)

Result = tuple[str, object]
UNIT: Result = ("OkUnit", UNSET)
FEATURES = ["attach", "exec", "images", "logs", "operations", "pause", "progress", "shutdown"]


class Service:
    """One per daemon; holds no state of its own."""

    def __init__(
        self,
        engine: Engine,
        images: ImageStore,
        *,
        node: HelloData,
        end: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._images = images
        self._node = node
        self._end = end

    async def handle(self, command: Command, reply: Reply) -> Result:
        """Do what `command` says and return the final answer."""
        return await _HANDLERS[type(command)](self, command, reply)

    async def ping(self, _: commands.Ping, __: Reply) -> Result:
        """Answer."""
        return UNIT

    async def hello(self, _: commands.Hello, __: Reply) -> Result:
        """Say who we are."""
        return "OkHello", self._node

    async def shutdown(self, command: commands.Shutdown, _: Reply) -> Result:
        """End everything of this app directory, once nothing runs in it."""
        running = [one for one in await self._engine.list() if one.exit is None]
        if running and not command.force:
            raise StateError(
                f"{len(running)} containers run, among them `{running[0].id}`", "stop them, or shut down with `--force`"
            )
        for one in running:
            await self._engine.stop(one.id, None)
        self._end()
        return UNIT

    async def run_container(self, command: commands.RunContainer, reply: Reply) -> Result:
        """Start a container; with `attach` stay until it ends."""
        container_id, operation = self._engine.begin(command.spec, (command.rows, command.cols))
        with self._engine.hold(container_id):
            handle = await self._follow(operation, reply)
            if not command.attach:
                return "OkHandle", handle
            outcome = await self._attach(container_id, reply)
        await self._engine.wait_removed(container_id)
        return "OkExit", outcome

    async def stop(self, command: commands.Stop, _: Reply) -> Result:
        """Stop a container."""
        await self._engine.stop(command.instance_id, command.timeout_s)
        return UNIT

    async def kill(self, command: commands.Kill, _: Reply) -> Result:
        """Send a signal."""
        await self._engine.kill(command.instance_id, command.signal, everyone=command.everyone)
        return UNIT

    async def remove(self, command: commands.Remove, _: Reply) -> Result:
        """Delete a container."""
        await self._engine.remove(command.instance_id, force=command.force)
        return UNIT

    async def pause(self, command: commands.Pause, _: Reply) -> Result:
        """Freeze a container."""
        await self._engine.pause(command.instance_id)
        return UNIT

    async def resume(self, command: commands.Resume, _: Reply) -> Result:
        """Thaw a container."""
        await self._engine.resume(command.instance_id)
        return UNIT

    async def wait(self, command: commands.Wait, _: Reply) -> Result:
        """Wait for an end."""
        return "OkExit", await self._engine.wait(command.instance_id)

    async def get_state(self, command: commands.GetState, _: Reply) -> Result:
        """Say whether it runs."""
        return "OkState", await self._engine.state(command.instance_id)

    async def get_endpoint(self, command: commands.GetEndpoint, _: Reply) -> Result:
        """Say where it is reached."""
        return "OkEndpoint", self._engine.endpoint(command.instance_id)

    async def get_interface_ip(self, command: commands.GetInterfaceIp, _: Reply) -> Result:
        """Look up an address."""
        return "OkInterfaceIp", Interface(*interface_ip(command.interface))

    async def list_containers(self, _: commands.ListContainers, __: Reply) -> Result:
        """List containers."""
        return "OkContainers", await self._engine.list()

    async def inspect_container(self, command: commands.InspectContainer, _: Reply) -> Result:
        """Tell everything about one."""
        return "OkContainer", await self._engine.inspect(command.instance_id)

    async def logs(self, command: commands.Logs, reply: Reply) -> Result:
        """Send what a container wrote."""
        entries = self._engine.logs(command.instance_id, follow=command.follow, since=command.since, tail=command.tail)
        async for entry in entries:
            time = entry.time if command.timestamps else None
            await reply.send("Output", output(entry.stream, entry.text, time))
        return UNIT

    async def exec(self, command: commands.Exec, reply: Reply) -> Result:
        """Run a process and send its output."""
        session = await self._engine.exec(command.instance_id, command.spec)
        reply.sessions[session.exec_id] = session

        async def send(stream: Stream, data: bytes) -> None:
            await reply.send("Output", output(stream, data))

        try:
            await reply.send("Started", StartedData(session.exec_id, command.instance_id))
            return "OkExit", await session.run(send)
        finally:
            session.close()
            reply.sessions.pop(session.exec_id, None)

    async def input(self, command: commands.Input, reply: Reply) -> Result:
        """Feed a process of this connection."""
        session = reply.sessions.get(command.exec_id)
        if session is None:
            raise ProtocolError(f"no process `{command.exec_id}` on this connection", "it may have ended")
        if command.data:
            await session.write(command.data)
        if command.eof:
            await session.close_input()
        return UNIT

    async def resize(self, command: commands.Resize, reply: Reply) -> Result:
        """Resize the terminal of a process of this connection."""
        session = reply.sessions.get(command.exec_id)
        if session is None:
            raise ProtocolError(f"no process `{command.exec_id}` on this connection", "it may have ended")
        await session.resize(command.rows, command.cols)
        return UNIT

    async def pull_image(self, command: commands.PullImage, reply: Reply) -> Result:
        """Fetch an image."""

        async def work(report: Report) -> Image:
            return await self._images.pull(command.reference, command.platform, report)

        operation = self._engine.operations.join(f"pull:{command.reference}", command.platform, work)
        return "OkImage", _detail(await self._follow(operation, reply))

    async def load_image(self, command: commands.LoadImage, reply: Reply) -> Result:
        """Read an image from a file."""

        async def work(report: Report) -> Image:
            return await self._images.load(Path(command.path), name, report)

        name = command.name or _name_of(command.path)
        operation = self._engine.operations.join(f"load:{command.path}", name, work)
        return "OkImage", _detail(await self._follow(operation, reply))

    async def list_images(self, _: commands.ListImages, __: Reply) -> Result:
        """List images."""
        return "OkImages", [_image_info(found) for found in self._images.list()]

    async def inspect_image(self, command: commands.InspectImage, _: Reply) -> Result:
        """Tell everything about an image."""
        return "OkImage", _detail(self._images.inspect(command.name))

    async def remove_image(self, command: commands.RemoveImage, _: Reply) -> Result:
        """Remove an image."""
        await self._images.remove(command.name, self._engine.layers_in_use())
        return UNIT

    async def watch(self, command: commands.Watch, reply: Reply) -> Result:
        """Follow an operation that another request began."""
        operation = self._engine.operations.find(command.operation)
        return _final(await self._follow(operation, reply, command.after))

    async def cancel(self, command: commands.Cancel, _: Reply) -> Result:
        """End an operation."""
        await self._engine.operations.find(command.operation).cancel()
        return UNIT

    async def _follow(self, operation: Operation[Any], reply: Reply, after: int = 0) -> Any:
        if reply.wants_progress:
            async for number, step in operation.steps(after):
                await reply.send("Progress", _progress(operation.key, number, step))
        return await operation.result()

    async def _attach(self, container_id: str, reply: Reply) -> ExitStatus:
        key = f"run:{container_id}"
        attachment = self._attachment(container_id)
        if attachment is not None:
            reply.sessions[key] = attachment
        try:
            await reply.send("Started", StartedData(key, container_id))
            async for entry in self._engine.logs(container_id, follow=True):
                await reply.send("Output", output(entry.stream, entry.text))
            return await self._engine.wait(container_id)
        finally:
            reply.sessions.pop(key, None)
            if attachment is not None:
                attachment.close()

    def _attachment(self, container_id: str) -> Attachment | None:
        try:
            return self._engine.attach(container_id)
        except StateError:
            return None  # it has ended already; its output is there all the same


Handler = Callable[[Service, Any, Reply], Awaitable[Result]]

_HANDLERS: dict[type[Command], Handler] = {
    commands.Ping: Service.ping,
    commands.Shutdown: Service.shutdown,
    commands.Hello: Service.hello,
    commands.RunContainer: Service.run_container,
    commands.Stop: Service.stop,
    commands.Kill: Service.kill,
    commands.Remove: Service.remove,
    commands.Pause: Service.pause,
    commands.Resume: Service.resume,
    commands.Wait: Service.wait,
    commands.GetState: Service.get_state,
    commands.GetEndpoint: Service.get_endpoint,
    commands.GetInterfaceIp: Service.get_interface_ip,
    commands.ListContainers: Service.list_containers,
    commands.InspectContainer: Service.inspect_container,
    commands.Logs: Service.logs,
    commands.Exec: Service.exec,
    commands.Input: Service.input,
    commands.Resize: Service.resize,
    commands.PullImage: Service.pull_image,
    commands.LoadImage: Service.load_image,
    commands.ListImages: Service.list_images,
    commands.InspectImage: Service.inspect_image,
    commands.RemoveImage: Service.remove_image,
    commands.Watch: Service.watch,
    commands.Cancel: Service.cancel,
}


def _name_of(path: str) -> str:
    """Return a name in the local registry for an archive that was given none."""
    stem = Path(path).name.partition(".")[0].lower()
    return f"localhost/{re.sub('[^a-z0-9]+', '-', stem).strip('-') or 'image'}"


def _progress(key: str, number: int, step: Progress) -> ProgressData:
    return ProgressData(key, number, step.percentage, step.stage, step.message, step.bytes_done, step.bytes_total)


def _final(result: object) -> Result:
    if isinstance(result, InstanceHandle):
        return "OkHandle", result
    return "OkImage", _detail(cast("Image", result))


def _image_info(image: Image) -> ImageInfo:
    return ImageInfo(image.id, list(image.names), image.manifest_digest, image.created, image.size)


def _detail(image: Image) -> ImageDetail:
    return ImageDetail(_image_info(image), list(image.layers), msgspec.to_builtins(image.config))
