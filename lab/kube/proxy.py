"""The workers' ways to the Kubernetes API: a TCP proxy for each, which can be made slow, deaf or closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from lab.netns import Namespace

_CHUNK = 65536
_WITHIN = 10.0  # seconds for any change to be made
_NO_LINGER = struct.pack("ii", 1, 0)  # close() then sends a RST

_T = TypeVar("_T")


class Faults:
    """What happens on one worker's way. Each change has been made when its method returns.

    `latency` is a round trip's, in seconds, and may be set at any time.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, address: tuple[str, int], server: tuple[str, int], outside: Namespace
    ) -> None:
        self.address = address
        self.latency = 0.0
        self._loop = loop
        self._server = server
        self._outside = outside
        self._listener: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def refuse(self) -> None:
        """Answer connections with a RST, and reset those that are open."""
        self._do(self._refuse())

    def hang(self) -> None:
        """Accept connections and deliver nothing, on those that are open either.

        What was sent meanwhile is delivered when this ends, as TCP does after a partition.
        """
        self._do(self._hang())

    def clear(self) -> None:
        """Let everything through again."""
        self._do(self._clear())

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._flowing.set()
        await self._reset()

    async def _hang(self) -> None:
        self._flowing.clear()
        await self._listen()

    async def _clear(self) -> None:
        await self._listen()
        self._flowing.set()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, *self.address)

    async def _reset(self) -> None:
        for writer in list(self._open):
            _abort(writer)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            await self._flowing.wait()
            with contextlib.suppress(OSError):
                await self._connect(reader, writer)
        except asyncio.CancelledError:  # not raised again: asyncio would log it for a connection's handler
            pass
        finally:
            _abort(writer)
            self._open.discard(writer)
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await self._dial()
        self._open.add(far_writer)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, far_writer))
                both.create_task(self._carry(far_reader, writer))
        except* OSError:  # one side has reset it: so is the other
            pass
        finally:
            _abort(far_writer)
            self._open.discard(far_writer)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the server; a socket is in the namespace where it was made, whoever uses it."""
        family = socket.AF_INET6 if ":" in self._server[0] else socket.AF_INET
        made = self._outside.run(lambda: socket.socket(family, socket.SOCK_STREAM))
        try:
            made.setblocking(False)
            await self._loop.sock_connect(made, self._server)
            return await asyncio.open_connection(sock=made)
        except BaseException:
            made.close()
            raise

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction, its end included."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            data = b"-"
            while data:
                due, data = await under_way.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await self._flowing.wait()
                if data:
                    writer.write(data)
                    await writer.drain()
            writer.write_eof()

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            data = b"-"
            while data:
                data = await reader.read(_CHUNK)
                under_way.put_nowait((self._loop.time() + self.latency / 2, data))

    def _do(self, change: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(change, self._loop).result(_WITHIN)


class Proxies:
    """The proxies of all workers: one thread, in the namespace where they listen."""

    def __init__(self, ns: Namespace, outside: Namespace) -> None:
        """`outside`: the namespace from which the API server is reached."""
        self._outside = outside
        self._loop = asyncio.new_event_loop()
        self._all: list[Faults] = []

        def start() -> threading.Thread:  # a thread is in the namespace of the one that starts it
            thread = threading.Thread(target=self._loop.run_forever, name="kube-proxies", daemon=True)
            thread.start()
            return thread

        self._thread = ns.run(start)

    def add(self, address: tuple[str, int], server: tuple[str, int]) -> Faults:
        """Listen for a worker, on the way to the server."""
        made = asyncio.run_coroutine_threadsafe(self._made(address, server), self._loop).result(_WITHIN)
        made.clear()
        self._all.append(made)
        return made

    async def _made(self, address: tuple[str, int], server: tuple[str, int]) -> Faults:
        return Faults(self._loop, address, server, self._outside)

    def close(self) -> None:
        """Reset every connection and stop. May be called again."""
        if self._loop.is_closed():
            return
        for each in self._all:
            each.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _abort(writer: asyncio.StreamWriter) -> None:
    """End a connection with a RST, unless both its sides have ended it."""
    found = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()
