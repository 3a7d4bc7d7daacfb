"""What a host wrote that can't read, read from docs/FORMAT.md alone, without Strongroom. Of repositories of one epoch."""

from __future__ import annotations

import base64
import json

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from format_reader import PURPOSES, SNAPSHOT, Reader, derive, json_without, unzstd

HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SessionReader(Reader):
    """Opens objects of sessions, too; each signature is checked on the way."""

    def names(self, folder):
        """Without the slots of hosts, which open nothing."""
        found = super().names(folder)
        return [one for one in found if folder != "keys" or json.loads(self.object(f"keys/{one}", one))["slot"] != 3]

    def _key(self, content, kind):
        tag = content[6:14]
        if not (self.folder / "sessions" / tag.hex()).is_file():
            return super()._key(content, kind)
        assert content[:6] == b"SRRM" + bytes([1, kind])
        secret, _ = self.session(tag)
        assert content[14:22] == blake3(tag, key=derive(self.blob_ids, b"", "session mark")).digest()[:8]
        return AESGCM(derive(secret, content[6:38] + self.id, f"session {PURPOSES[kind]}"))

    def session(self, tag):
        """Its secret, and the host's public key."""
        content = (self.folder / "sessions" / tag.hex()).read_bytes()
        assert content[:6] == b"SRRM" + bytes([1, 18])
        end = 10 + int.from_bytes(content[6:10], "little")
        body = json.loads(content[10:end])
        assert (body["strongroom_session"], body["epoch"]) == (1, 0)
        slot = body["slot"]
        assert (slot["slot"], slot["repository"], slot["epoch"]) == (3, self.id.hex(), 0)
        shown = b"strongroom key slot\0" + json_without(slot, "signature")
        self.signatures.verify(base64.b64decode(slot["signature"]), shown)
        signer = base64.b64decode(slot["signer"])
        host = Ed25519PublicKey.from_public_bytes(signer)
        host.verify(content[end:], b"strongroom session\0" + self.id + content[:end])
        receiving = X25519PrivateKey.from_private_bytes(derive(self.master, self.id, "receiving"))
        info = b"strongroom/1/session" + self.id + bytes(4) + signer
        secret = HPKE.decrypt(base64.b64decode(body["sealed"]), receiving, info)
        assert derive(secret, self.id, "session tag")[:8] == tag
        return secret, host

    def _manifest(self, name):
        content = self.object(f"snapshots/{name}", name)
        tag = content[6:14]
        if not (self.folder / "sessions" / tag.hex()).is_file():
            return super()._manifest(name)
        plain = self._opened(content, SNAPSHOT)
        _, host = self.session(tag)
        host.verify(plain[:64], b"strongroom session snapshot\0" + self.id + tag + plain[64:])
        return json.loads(unzstd(plain[64:]))
