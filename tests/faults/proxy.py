"""A TCP proxy on loopback that can cut, delay and silence what passes through it."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

CHUNK: Final = 65_536


class Proxy:
    """Forwards connections at `port` to `target_port`, in a thread of its own. With `tls` it
    demands TLS of its clients, and speaks plainly to what is behind it."""

    def __init__(self, target_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._target_port = target_port
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()
        self._delay_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self._on_loop(self._open())

    def cut(self) -> None:
        """End every connection at once; new ones are taken."""

        async def abort() -> None:
            for writer in list(self._writers):
                writer.transport.abort()

        self._on_loop(abort())

    def delay(self, seconds: float) -> None:
        """Hold back every chunk, in each direction, for so long; 0: no more."""

        async def change() -> None:
            self._delay_s = seconds

        self._on_loop(change())

    def silence(self) -> None:
        """Connections stay, and are taken, but nothing passes until `speak`."""
        self._on_loop(self._change(lambda: self._flowing.clear()))

    def speak(self) -> None:
        """What was held back passes, and all that follows."""
        self._on_loop(self._change(lambda: self._flowing.set()))

    def close(self) -> None:
        """End all connections and the thread."""
        self.cut()
        self._on_loop(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _on_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _change(self, change: Callable[[], None]) -> None:
        change()

    async def _open(self) -> int:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return int(self._server.sockets[0].getsockname()[1])

    async def _shut(self) -> None:
        self._flowing.set()
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            self._drop(writer)
            return
        self._writers.add(far_writer)
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self._drop(writer)
            self._drop(far_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.close()
