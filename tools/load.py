"""How fast a server answers: clicks sent to serving/server.py at a steady pace, whether or not it keeps up.

python -m tools.load --port 8000 --items model.items.txt --rate 1000 --seconds 20
"""

from terminal.errors import UserError, run_script

# isort: split
import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np

from clicks.delimited import lines
from terminal.flags import COUNT, FlagParser

HOST = "127.0.0.1"
N_SESSIONS = 10_000  # whose clicks come in random order
UNCOUNTED = 2  # seconds in which caches and connections are warmed


class Connection(asyncio.Protocol):
    """A connection that stays open, with one request at a time, each sent when it is due or, if later, at once.

    Args:
        requests: bytes of a request, and when it is due, in seconds of the loop's clock; shared by all connections.
        seconds: where the time from when a request was due to the end of its answer is added.
    """

    def __init__(self, requests: Iterator[tuple[bytes, float]], seconds: list[float]):
        self.requests, self.seconds = requests, seconds
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end_of_head, body = self.received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            status = head.decode(errors="replace").partition("\r\n")[0]
            self._end(UserError(f"the server answers {status}"))
        elif end_of_head and len(body) == int(head.lower().partition(b"content-length:")[2].split()[0]):
            self.received = b""
            self.seconds.append(self.loop.time() - self.due)
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(UserError(f"the server hung up{f': {error}' if error else ''}"))

    def _next(self) -> None:
        request, self.due = next(self.requests, (b"", 0.0))
        if request:
            self.loop.call_at(self.due, self.transport.write, request)
        else:
            self._end()

    def _end(self, error: UserError | None = None) -> None:
        if not self.done.done():
            self.done.set_exception(error) if error else self.done.set_result(None)
        self.transport.close()


async def latencies(port: int, items: list[str], rate: int, seconds: int, n_connections: int) -> np.ndarray:
    """Seconds from when each click was due to its answer, at ``rate`` clicks a second of this machine's server.

    Raises:
        UserError: nothing listens there, or an answer is not as it should be.
    """
    rng = np.random.default_rng(0)
    loop = asyncio.get_running_loop()
    n_clicks = rate * (seconds + UNCOUNTED)
    sessions, clicks = rng.integers(0, N_SESSIONS, n_clicks).tolist(), rng.integers(0, len(items), n_clicks).tolist()
    heads = [
        f"POST /click?session={session}&item={quote(items[item], safe='')} HTTP/1.1\r\nHost: {HOST}\r\n"
        "Content-Length: 0\r\n\r\n".encode()
        for session, item in zip(sessions, clicks, strict=True)
    ]
    began = loop.time() + 0.5
    requests = ((head, began + number / rate) for number, head in enumerate(heads))
    measured: list[float] = []
    try:
        connections = [
            (await loop.create_connection(lambda: Connection(requests, measured), HOST, port))[1]
            for _ in range(n_connections)
        ]
    except OSError as error:
        raise UserError(f"nothing answers at {HOST}:{port}: {error.strerror or error}") from error
    try:
        await asyncio.gather(*(connection.done for connection in connections))
    finally:
        for connection in connections:
            connection.transport.close()
    return np.array(measured[rate * UNCOUNTED :])


def make_parser() -> FlagParser:
    parser = FlagParser(__doc__)
    parser.add_argument("--port", type=COUNT, required=True, help="where the server listens on this machine")
    parser.add_argument("--items", type=Path, required=True, help="the file of ids that export.py wrote")
    parser.add_argument("--rate", type=COUNT, default=1000, help="clicks a second (%(default)s)")
    parser.add_argument("--seconds", type=COUNT, default=20, help="how long (%(default)s)")
    parser.add_argument("--n_connections", type=COUNT, default=100, help="that stay open (%(default)s)")
    return parser


def main() -> None:
    flags = make_parser().parse_args()
    began = time.perf_counter()
    items = list(lines(flags.items))
    seconds = asyncio.run(latencies(flags.port, items, flags.rate, flags.seconds, flags.n_connections))
    p50, p90, p99 = 1e3 * np.percentile(seconds, (50, 90, 99))
    rate = len(seconds) / (time.perf_counter() - began - UNCOUNTED)
    print(f"{rate:,.0f} clicks/s answered; p50 {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms")


if __name__ == "__main__":
    run_script(main)
