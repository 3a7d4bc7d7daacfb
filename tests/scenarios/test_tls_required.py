"""Is nothing sent without TLS to another machine, unless that was allowed? Listeners on an address of this machine's network."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from commands import Place, strongroom
from postgres import Postgres
from tls_front import carry, certificate

from strongroom.engines.pgvector.address import Address
from strongroom.engines.pgvector.server import connect

SSL_REQUEST, GSS_REQUEST = (b"\x00\x00\x00\x08\x04\xd2\x16" + last for last in (b"\x2f", b"\x30"))


def own_address() -> str:
    """An address of this machine that isn't loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
        tried.connect(("192.0.2.1", 9))
        return str(tried.getsockname()[0])


@dataclass
class Listener:
    """Takes note of every byte that comes; answers a PostgreSQL client that there is no TLS."""

    host: str = field(default_factory=own_address)
    heard: list[bytes] = field(default_factory=list)

    def __enter__(self) -> Listener:
        assert not self.host.startswith("127."), "this machine has no address but loopback: nothing was tested"
        self._listening = socket.create_server((self.host, 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.heard.append(b"")
                threading.Thread(target=self._hear, args=(connection,), daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(5)
            while part := connection.recv(4096):
                self.heard.append(part)
                if part == b"\x00\x00\x00\x08\x04\xd2\x16\x2f" or part == b"\x00\x00\x00\x08\x04\xd2\x16\x30":  # SSLRequest
                    connection.sendall(b"N")
                else:
                    return

    @property
    def at(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def bytes(self) -> bytes:
        return b"".join(self.heard)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as found:
        yield found


ENV = {"STRONGROOM_RETRY_SECONDS": "0", "STRONGROOM_REQUEST_SECONDS": "2"}
SECRETS = {
    "STRONGROOM_CHROMA_TOKEN": "chroma-s3cret",
    "STRONGROOM_MILVUS_TOKEN": "milvus-s3cret",
    "STRONGROOM_QDRANT_API_KEY": "qdrant-s3cret",
    "STRONGROOM_REDIS_PASSWORD": "redis-s3cret",
    "PGPASSWORD": "pg-s3cret",
    "BAO_TOKEN": "bao-s3cret",
    "AWS_ACCESS_KEY_ID": "aws-s3cret",
    "AWS_SECRET_ACCESS_KEY": "aws-s3cret",
    "AWS_REGION": "eu-central-1",
}


@pytest.mark.parametrize("scheme", ["chroma+http", "milvus", "qdrant", "redis"])
def test_an_engine_elsewhere_is_not_spoken_to_without_tls(place: Place, listener: Listener, scheme: str) -> None:
    env = {**ENV, **SECRETS}
    url = f"{scheme}://{listener.at}"
    ways = [("backup", url, "-q"), ("restore", "latest", url, "-q")]
    if scheme == "redis":
        ways += [("verify", "--repair", "--from", url, "-q"), ("journal", "follow", url)]
    for arguments in ways:
        place.run(*arguments, env=env).failed(5, "without TLS", listener.host, "--allow-plaintext")
    assert listener.heard == [], "it connected"


def test_an_s3_server_elsewhere_is_not_spoken_to_without_tls(listener: Listener, tmp_path: Path) -> None:
    for names in (("AWS_ENDPOINT_URL",), ("AWS_ENDPOINT",), ("AWS_ENDPOINT_URL_S3",), ("AWS_ENDPOINT_URL_S3", "AWS_ALLOW_HTTP")):
        env = {**ENV, **SECRETS, **dict.fromkeys(names, f"http://{listener.at}")}
        env |= {"AWS_ALLOW_HTTP": "true"} if "AWS_ALLOW_HTTP" in names else {}
        ended = strongroom("snapshots", "-r", "s3://bucket/prefix", env=env)
        assert ended.code == (5 if names[0] != "AWS_ENDPOINT_URL_S3" else ended.code) != 0, ended
    env = {
        **ENV,
        "AZURE_STORAGE_ACCOUNT_NAME": "a",
        "AZURE_STORAGE_ACCOUNT_KEY": "YXp1cmUtczNjcmV0",
        "AZURE_STORAGE_ENDPOINT": f"http://{listener.at}",
    }
    strongroom("snapshots", "-r", "az://bucket/prefix", env=env).failed(5, "without TLS")
    assert listener.heard == [], "it connected"


def test_a_key_service_elsewhere_is_not_spoken_to_without_tls(listener: Listener, tmp_path: Path) -> None:
    env = {**ENV, **SECRETS, "STRONGROOM_PASSWORD": None}
    for url in (f"vault+http://{listener.at}/transit/keys/k", f"aws-kms://alias/k?endpoint=http://{listener.at}"):
        strongroom("init", "-r", tmp_path / "repo", "--kms", url, env=env).failed(5, "without TLS")
    strongroom(
        "init", "-r", tmp_path / "repo", "--kms", "aws-kms://alias/k", env={**env, "AWS_ENDPOINT_URL_KMS": f"http://{listener.at}"}
    ).failed(5)
    assert listener.heard == [], "it connected"
    assert not (tmp_path / "repo").exists() or not any((tmp_path / "repo").rglob("keys/*"))


def test_what_is_allowed_is_spoken_to_and_told(place: Place, listener: Listener) -> None:
    """The listener hears something then: the tests above would notice."""
    for env, arguments in ((ENV, ("--allow-plaintext",)), ({**ENV, "STRONGROOM_ALLOW_PLAINTEXT": listener.host}, ())):
        before = len(listener.heard)
        ended = place.run("backup", f"redis://{listener.at}", "-q", *arguments, env=env)
        assert (ended.code, "nothing is encrypted on the way to " + listener.host in ended.err) == (1, True), ended
        assert len(listener.heard) > before
    place.run("backup", f"redis://{listener.at}", "-q", env={**ENV, "STRONGROOM_ALLOW_PLAINTEXT": "10.0.0.1"}).failed(5)


def test_postgres_elsewhere_gets_nothing_without_tls(place: Place, listener: Listener) -> None:
    env = {**ENV, **SECRETS}
    urls = (f"pgvector://backup@{listener.at}/confidential", f"pgvector+physical://backup@{listener.at}")
    for url in urls:
        place.run("backup", url, "-q", env=env).failed(5, "TLS")
    heard = listener.bytes
    assert heard, "it was asked whether it has TLS"
    assert b"confidential" not in heard
    assert b"backup" not in heard
    assert b"pg-s3cret" not in heard
    listener.heard.clear()
    for mode, url in zip(("disable", "allow"), urls, strict=True):
        place.run("backup", url, "-q", env={**env, "PGSSLMODE": mode}).failed(5, "without TLS", "verify-full")
    assert listener.heard == [], "it connected"


def test_a_real_postgres_elsewhere_is_read_by_tls_only(place: Place, tmp_path: Path) -> None:
    """The server's own view says whether the connection is encrypted. One without TLS is read where that is allowed."""
    address = own_address()
    server = Postgres(listen_addresses=f"127.0.0.1,{address}")
    try:
        server.start()
        with server.connect("postgres") as connection:
            connection.execute("CREATE EXTENSION vector")
            connection.execute("CREATE TABLE items (id int primary key, v vector(2))")
            connection.execute("INSERT INTO items VALUES (1, '[1,2]')")
        hba = server.data / "pg_hba.conf"
        hba.write_text(hba.read_text() + f"host all all {address}/32 trust\nhost replication all {address}/32 trust\n")
        with server.connect("postgres") as connection:
            connection.execute("SELECT pg_reload_conf()")
        url = f"pgvector://postgres@{address}:{server.port}/postgres"
        place.run("backup", url, "-q", env=ENV).failed(5, "no TLS", "ssl = on")
        ended = place.run("backup", url, "-q", "--allow-plaintext", env=ENV)
        assert ended.code in (0, 3), ended
        assert "nothing is encrypted" in ended.err

        with Encrypting(tmp_path, address, server.port) as port:  # the server's package is built without TLS
            url = f"pgvector://postgres@{address}:{port}/postgres"
            assert place.run("backup", url, "-q", env=ENV).code in (0, 3)
            strict = {**ENV, "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(tmp_path / "certificate.pem")}
            place.run("backup", url, "-q", env=strict).failed(1, "does not match host name")
            with connect(Address.parse(url)) as connection:
                assert connection.pgconn.ssl_in_use
    finally:
        server.stop()


class Encrypting:
    """Gives a PostgreSQL server TLS, with a certificate for 127.0.0.1."""

    def __init__(self, folder: Path, host: str, behind: int) -> None:
        made, key = certificate(folder)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(made, key)
        self._host, self._behind = host, behind

    def __enter__(self) -> int:
        self._listening = socket.create_server((self._host, 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return int(self._listening.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listening.accept()[0],), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError):
            if plain.recv(8) == GSS_REQUEST:
                plain.sendall(b"N")
                plain.recv(8)
            plain.sendall(b"S")
            outside = self._context.wrap_socket(plain, server_side=True)
            inside = socket.create_connection(("127.0.0.1", self._behind))
            outside.settimeout(0.005)
            inside.settimeout(0.005)
            while carry(outside, inside) and carry(inside, outside):
                pass
