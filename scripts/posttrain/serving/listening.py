"""The address that a server listens on, and its life from the first request to the last."""

import asyncio
import ipaddress
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import uvicorn

from posttrain.runtime.errors import UserError
from posttrain.runtime.resource_limits import never_limit_memory
from posttrain.serving.app import Server

GRACE = 3  # seconds that answers have to end, once the server is told to


def bind(host: str, port: int, key: str | None) -> socket.socket:
    """A socket on an address; others than the loopback's need a key.

    Raises:
        UserError: there is no such address, the port is in use, or everybody could ask without a key.
    """
    place = f"{host}:{port}"
    try:
        if port not in range(2**16):
            raise OverflowError
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError, UnicodeError):
        raise UserError("invalid-value", place, "there is no such address", "write --host 127.0.0.1") from None
    if not ipaddress.ip_address(address[0]).is_loopback and not key:
        problem = "other machines reach this address, and there is no key"
        raise UserError("unprotected-address", place, problem, "set POSTTRAIN_API_KEY, or listen on 127.0.0.1")
    found = socket.socket(family, kind)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        problem = f"the server cannot listen there: {error.strerror.lower()}"
        raise UserError("address-in-use", place, problem, "name another --port, or end what uses it") from None
    found.listen(128)
    return found


def serve(server: Server, sock: socket.socket, announce: Callable[[], None]) -> None:
    """Answer requests until a signal comes.

    Args:
        announce: called when the server answers.

    Raises:
        UserError: the program that computes ended by itself. The server then ends too, with another status than 0, so that
            whatever supervises it sees it and starts it again; a restart in here would hide a program that fails again and again.
    """
    settings = {"log_level": "warning", "access_log": False, "server_header": False, "lifespan": "off", "ws": "none"}
    listener = uvicorn.Server(uvicorn.Config(server.app, timeout_graceful_shutdown=GRACE, **settings))

    async def live() -> None:
        watch = asyncio.create_task(_watch(server, listener))
        try:
            await server.backend.ready()
            announce()
            await listener.serve([sock])
        finally:
            watch.cancel()
            await server.backend.close()

    never_limit_memory()
    signal.signal(signal.SIGTERM, _terminate)
    asyncio.run(live())
    if server.failure is not None:
        raise UserError("server-failed", "", server.failure, "start it again")


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


async def _watch(server: Server, listener: uvicorn.Server) -> None:
    """End the listener once the program that computes has ended, and the answers that it was computing are refused."""
    server.failure = await server.backend.ended()
    await asyncio.sleep(GRACE / 10)
    listener.should_exit = True
