"""Does each key service open what it wrapped, nothing else, and say in one line what is wrong? Real servers and a real token."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Ended, build_index, strongroom
from moto_kms import REGION, Moto
from openbao import ROOT_TOKEN, OpenBao
from sampling import part_of
from softhsm import SoftHSM

from strongroom.errors import WrongRequest
from strongroom.repository.crypto import content_hash
from strongroom.repository.key_services import KINDS as ALL
from strongroom.repository.key_services import service_of
from strongroom.repository.key_slots import SERVICES, Secret

NO_PASSWORD = {"STRONGROOM_PASSWORD": None, "STRONGROOM_RETRY_SECONDS": "0.5"}
TOKEN = {"BAO_TOKEN": ROOT_TOKEN}


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    server = Moto(tmp_path_factory.mktemp("moto"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> SoftHSM:
    return SoftHSM(tmp_path_factory.mktemp("hsm"))


@dataclass(frozen=True)
class Service:
    """One that runs: the URLs of two keys, what who uses it has in his environment, and what its owner can do."""

    url: str
    other: str
    env: dict[str, str]
    new_version: Callable[[], object]
    destroy: Callable[[], object]


@pytest.fixture
def services(bao: OpenBao, moto: Moto, hsm: SoftHSM, request: pytest.FixtureRequest) -> Callable[[str], Service]:
    """By kind, with keys of the test's own."""
    name = content_hash(request.node.name.encode()).hex()[:16]

    def transit() -> Service:
        url, other = bao.make_key(name), bao.make_key(f"{name}-other")

        def destroy() -> None:
            bao.call("POST", f"transit/keys/{name}/config", {"deletion_allowed": True})
            bao.call("DELETE", f"transit/keys/{name}")

        return Service(url, other, TOKEN, lambda: bao.call("POST", f"transit/keys/{name}/rotate"), destroy)

    def aws() -> Service:
        key = moto.make_key(name)
        moto.make_key(f"{name}-other")
        urls = [f"aws-kms://alias/{one}?region={REGION}" for one in (name, f"{name}-other")]

        def destroy() -> None:  # moto goes on to decrypt with keys that are disabled or to be deleted: its name goes
            moto.kms.delete_alias(AliasName=f"alias/{name}")

        return Service(*urls, moto.env, lambda: moto.kms.rotate_key_on_demand(KeyId=key), destroy)

    def token() -> Service:
        url, other = hsm.make_key(name), hsm.make_key(f"{name}-other")
        return Service(url, other, hsm.env, lambda: None, lambda: hsm.destroy_key(name))

    made = {"vault": transit, "aws-kms": aws, "pkcs11": token}
    return lambda kind: made[kind]()


KINDS = ("vault", "aws-kms", "pkcs11")
MOST = part_of(["vault"], KINDS)
"""For long stories whose services differ in nothing that others of these tests don't show."""


@dataclass(frozen=True)
class Room:
    """A repository that a key service opens."""

    path: Path
    service: Service

    def run(self, *arguments: str | Path, **changes: str | None) -> Ended:
        env = {**NO_PASSWORD, **self.service.env, "STRONGROOM_REPOSITORY": str(self.path), "STRONGROOM_KMS": self.service.url}
        return strongroom(*arguments, env={**env, **changes})

    def slots(self) -> list[str]:
        return sorted(one.name for one in (self.path / "keys").iterdir())


def made(path: Path, service: Service) -> Room:
    room = Room(path, service)
    room.run("init", "--kms", service.url, STRONGROOM_KMS=None).done()
    return room


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_opens_what_it_wrapped(services: Callable[[str], Service], kind: str, tmp_path: Path) -> None:
    """Backup and restore; nothing else opens, and the slot holds no secret; after rotation and rewrap it still opens."""
    room = made(tmp_path / "repo", services(kind))
    index = build_index(tmp_path / "src" / "x.faiss", rows=300)
    room.run("backup", f"faiss://{index}", "-q").done()
    said = room.run("snapshots", STRONGROOM_KMS=room.service.other).failed(12).err
    assert ("access denied" if kind == "aws-kms" else "no key slot") in said
    room.run("snapshots", STRONGROOM_KMS=None).failed(12, "STRONGROOM_PASSWORD")
    room.run("key", "list", "--kms", room.service.url, STRONGROOM_KMS=None, STRONGROOM_PASSWORD="guess").done()

    (slot,) = room.run("key", "list", "--json").done().json
    assert (slot["kind"], slot["service"]) == (kind, room.service.url)
    room.service.new_version()
    before = room.slots()
    (renewed,) = room.run("key", "rewrap", "--json").done().json
    assert room.slots() == [renewed["id"]] != before
    assert renewed["label"] == slot["label"]
    (moved,) = room.run("key", "rewrap", "--to", room.service.other, "--json").done().json
    assert moved["service"] == room.service.other
    room.run("snapshots").failed(12)
    room.run("snapshots", STRONGROOM_KMS=room.service.other).done()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrapped_is_bound_to_repository_and_slot(services: Callable[[str], Service], kind: str, tmp_path: Path) -> None:
    service = services(kind)
    program = tmp_path / "bound.py"
    program.write_text(f"""
from strongroom.errors import WrongKey
from strongroom.repository.key_services import Context, NotOurs, service_of
service, other = service_of({service.url!r}), service_of({service.other!r})
here = Context("11" * 16, "22" * 16)
wrapped = service.wrap(bytes(range(32)), here)
assert service.unwrap(wrapped, here) == bytes(range(32))
assert bytes(range(32)) not in wrapped
changed = wrapped[:-3] + (b"AAA" if wrapped[-3:] != b"AAA" else b"BBB")
elsewhere = (Context("33" * 16, "22" * 16), Context("11" * 16, "33" * 16))
tries = [*((service, wrapped, context) for context in elsewhere), (other, wrapped, here)]
tries += [(service, changed, here), (service, b"", here), (service, b"x" * 60, here), (service, bytes(range(200, 256)), here)]
for number, (one, content, context) in enumerate(tries):
    try:
        one.unwrap(content, context)
    except (NotOurs, WrongKey):
        continue
    raise SystemExit(f"try {{number}} was opened")
print("bound")
""")
    ended = strongroom(program, env={**NO_PASSWORD, **service.env}, program=(sys.executable,))
    assert (ended.out, ended.code) == ("bound\n", 0), ended


@pytest.mark.parametrize("kind", MOST)
def test_a_lost_key_with_and_without_a_recovery_key(services: Callable[[str], Service], kind: str, tmp_path: Path) -> None:
    """The service's key is gone for good: with shares the data comes back, without any other slot it doesn't."""
    service = services(kind)
    rooms = [made(tmp_path / name, service) for name in ("kept", "lost")]
    index = build_index(tmp_path / "src" / "x.faiss", rows=300)
    kept, lost = rooms
    kept.run("backup", f"faiss://{index}", "-q").done()
    files = (
        kept.run("key", "recovery", "--shares", "3", "--threshold", "2", "--out", tmp_path / "shares", "--json")
        .done()
        .json["files"]
    )
    assert all(Path(one).stat().st_mode & 0o777 == 0o600 for one in files)
    service.destroy()
    for room in rooms:
        said = room.run("snapshots").failed(12, "another key slot").err
        assert service.url in said
    shares = {"STRONGROOM_RECOVERY_SHARES_FILES": f"{files[0]}:{files[2]}"}
    kept.run("restore", "latest", f"faiss://{tmp_path}/copy/x.faiss", "-q", **shares).done()
    assert (tmp_path / "copy" / "x.faiss").read_bytes() == index.read_bytes()
    args = ("key", "recover", "--share", files[0], "--share", files[1])
    kept.run(*args, STRONGROOM_NEW_PASSWORD="after the loss").done()
    kept.run("snapshots", STRONGROOM_KMS=None, STRONGROOM_PASSWORD="after the loss").done()
    lost.run("snapshots", **shares).failed(12, "no key slot", "recovery shares")


def test_a_service_that_refuses_or_is_away(services: Callable[[str], Service], bao: OpenBao, hsm: SoftHSM, tmp_path: Path) -> None:
    room = made(tmp_path / "aws", services("aws-kms"))
    room.run("snapshots", AWS_ENDPOINT_URL_KMS="http://127.0.0.1:9").failed(1, "did not answer")
    room.run(
        "snapshots", AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None, AWS_EC2_METADATA_DISABLED="true", HOME=str(tmp_path)
    ).failed(12, "credentials")

    transit = made(tmp_path / "bao", services("vault"))
    name = transit.service.url.rpartition("/")[2]
    reader = bao.token("reader", f'path "transit/decrypt/{name}" {{ capabilities = ["update"] }}')
    transit.run("snapshots", BAO_TOKEN=reader).done()
    transit.run("key", "rewrap", BAO_TOKEN=reader).failed(12, "access denied")
    assert len(transit.slots()) == 1
    stranger = bao.token("stranger", 'path "transit/decrypt/none" { capabilities = ["update"] }')
    said = transit.run("snapshots", BAO_TOKEN=stranger).failed(12, "access denied").err
    assert stranger not in said
    transit.run("snapshots", BAO_TOKEN=None, HOME=str(tmp_path)).failed(12, "no token")
    transit.run("snapshots", BAO_TOKEN=None, STRONGROOM_VAULT_TOKEN_FILE=str(tmp_path / "none")).failed(1, "not there")
    (tmp_path / "token").write_text(f"{reader}\n")
    transit.run("snapshots", BAO_TOKEN=None, STRONGROOM_VAULT_TOKEN_FILE=str(tmp_path / "token")).done()
    bao.call("POST", f"transit/keys/{name}/rotate")
    bao.call("POST", f"transit/keys/{name}/config", {"min_decryption_version": 2})
    transit.run("snapshots").failed(12, "retired", "rewrap")

    token = made(tmp_path / "hsm", services("pkcs11"))
    token.run("snapshots", STRONGROOM_PKCS11_PIN="0000").failed(12, "PIN")
    token.run("snapshots", STRONGROOM_PKCS11_PIN=None).failed(12, "no PIN")
    token.run("snapshots", STRONGROOM_PKCS11_MODULE="/none.so").failed(2, "can't be loaded")
    (tmp_path / "pin").write_text(hsm.env["STRONGROOM_PKCS11_PIN"] + "\n")
    token.run("snapshots", STRONGROOM_PKCS11_PIN=None, STRONGROOM_PKCS11_PIN_FILE=str(tmp_path / "pin")).done()


def test_vault_by_tls_by_role_and_by_service_account(tmp_path: Path) -> None:
    """A login by JWT is the same request as one by Kubernetes, whose engine would ask a cluster."""
    server = OpenBao(tmp_path, tls=True)
    try:
        url = server.make_key("k")
        env = {**TOKEN, "VAULT_CACERT": str(server.ca)}
        room = made(tmp_path / "repo", Service(url, url, env, lambda: None, lambda: None))
        room.run("snapshots").done()
        room.run("snapshots", VAULT_CACERT=None).failed(12, "certificate is not trusted", "VAULT_CACERT")
        room.run("snapshots", VAULT_CACERT=None, STRONGROOM_KMS=f"{url}?ca={server.ca}").done()
        assert room.run("snapshots", STRONGROOM_KMS=url.replace("vault:", "vault+http:")).code in (1, 12)

        server.call("PUT", "sys/policies/acl/backup", {"policy": 'path "transit/decrypt/k" { capabilities = ["update"] }'})
        server.call("POST", "sys/auth/approle", {"type": "approle"})
        server.call("POST", "auth/approle/role/backup", {"token_policies": ["backup"]})
        role = server.call("GET", "auth/approle/role/backup/role-id")["data"]["role_id"]
        secret = server.call("POST", "auth/approle/role/backup/secret-id")["data"]["secret_id"]
        (tmp_path / "secret-id").write_text(secret)
        login = {
            "BAO_TOKEN": None,
            "STRONGROOM_VAULT_ROLE_ID": role,
            "STRONGROOM_VAULT_SECRET_ID_FILE": str(tmp_path / "secret-id"),
        }
        room.run("snapshots", STRONGROOM_KMS=f"{url}?auth=approle", **login).done()
        room.run("snapshots", STRONGROOM_KMS=f"{url}?auth=approle", **{**login, "STRONGROOM_VAULT_ROLE_ID": "wrong"}).failed(12)

        token, public = signed_token({"sub": "backup", "aud": "strongroom"})
        server.call("POST", "sys/auth/pods", {"type": "jwt"})
        server.call("POST", "auth/pods/config", {"jwt_validation_pubkeys": [public]})
        role_of_pods = {"role_type": "jwt", "bound_audiences": ["strongroom"], "user_claim": "sub", "token_policies": ["backup"]}
        server.call("POST", "auth/pods/role/backup", role_of_pods)
        (tmp_path / "jwt").write_text(token)
        pod = {"BAO_TOKEN": None, "STRONGROOM_VAULT_JWT_FILE": str(tmp_path / "jwt")}
        by_pod = f"{url}?auth=kubernetes&mount=pods&role=backup"
        room.run("snapshots", STRONGROOM_KMS=by_pod, **pod).done()
        (tmp_path / "jwt").write_text(signed_token({"sub": "backup", "aud": "strongroom"})[0])
        room.run("snapshots", STRONGROOM_KMS=by_pod, **pod).failed(12)
    finally:
        server.stop()


def signed_token(claims: dict[str, str]) -> tuple[str, str]:
    """A JWT by a fresh key, and the key's public half."""
    import base64
    import time

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = rsa.generate_private_key(65537, 2048)
    parts = [{"alg": "RS256", "typ": "JWT"}, {**claims, "nbf": int(time.time()) - 60, "exp": int(time.time()) + 300}]
    text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    signature = base64.urlsafe_b64encode(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())).rstrip(b"=").decode()
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"{text}.{signature}", public.decode()


def test_no_service_that_only_a_slot_names_is_asked(services: Callable[[str], Service], tmp_path: Path) -> None:
    """Who can write to the store puts a slot there with a service of his own: nobody sends it a token."""
    room = made(tmp_path / "repo", services("vault"))
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=lambda: heard.append(listening.accept()[0].recv(4096)), daemon=True).start()
        (name,) = room.slots()
        body = json.loads((room.path / "keys" / name).read_text())
        for created in ("2001-01-01T00:00:00+00:00", "2099-01-01T00:00:00+00:00"):
            evil = {**body, "service": f"vault+http://127.0.0.1:{listening.getsockname()[1]}/transit/keys/k", "created": created}
            content = json.dumps(evil, sort_keys=True).encode()
            (room.path / "keys" / content_hash(content).hex()).write_bytes(content)
        room.run("snapshots").done()
        room.run("snapshots", STRONGROOM_KMS=None, STRONGROOM_PASSWORD="guess").failed(12)
        (room.path / "keys" / name).unlink()  # and takes the real one away: only his are left
        room.run("snapshots").failed(12, "no key slot")
        room.run("key", "rewrap").failed(12)
    assert heard == []


def test_a_service_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    """429 and 503 at first, then an answer of the real one."""
    server = OpenBao(tmp_path)
    try:
        url = server.make_key("k")
        asked: list[int] = []
        with Hesitant(server.port, asked) as port:
            room = made(tmp_path / "repo", Service(url, url, TOKEN, lambda: None, lambda: None))
            late = url.replace(str(server.port), str(port))
            room.run("snapshots", STRONGROOM_KMS=late, STRONGROOM_RETRY_SECONDS="30").done()
            assert asked == [429, 503, 200]
            asked.clear()
            room.run("snapshots", STRONGROOM_KMS=late, STRONGROOM_RETRY_SECONDS="0").failed(1, "did not answer", "429")
    finally:
        server.stop()


class Hesitant:
    """A front of a server that first refuses twice."""

    def __init__(self, behind: int, asked: list[int]) -> None:
        self._behind, self._asked = behind, asked

    def __enter__(self) -> int:
        import http.server

        import httpx

        behind, asked = self._behind, self._asked

        class Front(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, content = (429, 503, 200)[min(len(asked), 2)], b'{"errors": ["not now"]}'
                if status == 200:
                    headers = {"X-Vault-Token": self.headers["X-Vault-Token"]}
                    content = httpx.post(f"http://127.0.0.1:{behind}{self.path}", content=body, headers=headers).content
                asked.append(status)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Front)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return int(self._server.server_address[1])

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize(
    "url",
    [
        "aws-kms://",
        "aws-kms://alias/x?nonsense=1",
        "aws-kms://user@alias/x",
        "vault://host:8200/transit/name",
        "vault://:s3cret@host:8200/transit/keys/name",
        "vault://host:8200/transit/keys/name?auth=magic",
        "vault://host:99999/transit/keys/name",
        "gcp-kms://projects/p/locations/l/keyRings/r",
        "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k/../../evil",
        "pkcs11:object=x",
        "pkcs11:token=t;object=x?pin-value=1234",
        "pkcs11:token=t;object=x;slot-id=1",
        "azure-kv://x",
        "",
    ],
)
def test_a_url_that_names_no_key_is_a_wrong_request(url: str) -> None:
    with pytest.raises(WrongRequest) as refusal:
        service_of(url)
    assert "1234" not in str(refusal.value)
    assert "s3cret" not in str(refusal.value)


def test_a_secret_of_a_service_is_never_shown(services: Callable[[str], Service]) -> None:
    url = services("vault").url
    assert ROOT_TOKEN not in repr(Secret.of_service(service_of(url)))
    assert set(SERVICES) == set(ALL) == {"aws-kms", "gcp-kms", "vault", "pkcs11"}
