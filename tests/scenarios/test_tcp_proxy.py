"""Does the proxy of the tests do what it is asked, and nothing else?"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tcp_proxy import TcpProxy


class Echo(BaseHTTPRequestHandler):
    """Answers with what it is sent."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    proxy = TcpProxy(server.server_address[1])
    try:
        yield proxy
    finally:
        proxy.close()
        server.shutdown()
        server.server_close()


CONTENT = bytes(range(256)) * 4_000


def ask(connection: http.client.HTTPConnection) -> tuple[int, bytes, str | None]:
    connection.request("PUT", "/", CONTENT)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.getheader("Retry-After")


def connect(proxy: TcpProxy, timeout: float = 60) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=timeout)


def test_what_is_sent_passes(proxy: TcpProxy) -> None:
    connection = connect(proxy)
    assert [ask(connection) for _ in range(3)] == [(200, CONTENT, None)] * 3
    assert (proxy.accepted, proxy.harmed) == (1, 0)


def test_each_fault_happens_as_often_as_asked(proxy: TcpProxy) -> None:
    for harm in (
        lambda: proxy.cut(sent=100_000),
        lambda: proxy.cut(answered=100_000),
        lambda: proxy.cut(sent=0),
        lambda: proxy.refuse(),
        lambda: proxy.stall(),
    ):
        before = proxy.harmed
        harm()
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(connect(proxy, 1))
        proxy.wait_for_harm(before + 1)
        assert ask(connect(proxy)) == (200, CONTENT, None)
        assert proxy.harmed == before + 1


def test_requests_are_answered_for_the_server(proxy: TcpProxy) -> None:
    connection = connect(proxy)
    assert ask(connection)[0] == 200
    proxy.answer(503, 2, retry_after=7, body=b"later")
    assert [ask(connection) for _ in range(2)] == [(503, b"later", "7")] * 2
    assert ask(connection) == (200, CONTENT, None)


def test_all_can_be_cut_or_held_at_once(proxy: TcpProxy) -> None:
    connection = connect(proxy)
    assert ask(connection)[0] == 200
    proxy.cut_all()
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(connection)
    proxy.pause()
    with pytest.raises(TimeoutError):
        ask(connect(proxy, 0.3))
    proxy.resume()
    assert ask(connect(proxy))[0] == 200
