"""A new state of a Redis database, built beside the one that users see, and renamed into its place by one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from strongroom.engines.changes import Change
from strongroom.engines.redis import keyfile
from strongroom.engines.redis.apply import Applying
from strongroom.engines.redis.capture import CATALOG
from strongroom.engines.redis.definitions import VECTOR_SET, Definition, definition_for, definition_from, read_definitions
from strongroom.engines.redis.frozen import RedisSource, wait_until_indexed
from strongroom.engines.redis.loading import keys_of, restore_keys, rows_in, write_elements, write_keys
from strongroom.engines.redis.names import PLAIN, RECEIPT, raw_of, staged
from strongroom.engines.redis.server import Address, client_of, library, speaking
from strongroom.engines.staging import StagedEntries, write_durably
from strongroom.errors import EngineFailed, Refused, Unreachable
from strongroom.model import Collection, Description, Selection

_AGAIN = "run the same command again: it goes on where it stopped"
_TYPES = {"hash": b"hash", "json": b"ReJSON-RL"}


class RedisStage:
    """See `protocol.Stage` and `protocol.Replaying`."""

    def __init__(self, address: Address, base: Path, token: str, selection: Selection) -> None:
        self._address, self._selection, self._token = address, selection, token
        self._names = staged(token)
        self._entries = StagedEntries(base, token, ())
        self.directory = self._entries.directory
        self._client = client_of(address)
        try:
            self._require_unseen()
            self._require_there()
        except BaseException:
            self.close()
            raise

    def _require_unseen(self) -> None:
        if self._address.database:
            return
        with speaking(self._address):
            for one in read_definitions(self._client).indexes:
                if one.covers(self._names.keys):
                    raise Refused(
                        f"index {one.name} of {self._address.url} takes in every key: it would show what is being restored",
                        hint="restore to another server, or drop that index first (FT.DROPINDEX keeps its keys)",
                    )

    def _require_there(self) -> None:
        """A server may have lost what an earlier run loaded."""
        noted = self.directory / "loaded"
        if noted.exists() and not (self.directory / "publishing").exists():
            with speaking(self._address):
                if len(keys_of(self._client, self._names.keys)) != int(noted.read_bytes()):
                    noted.unlink()

    # -- building --------------------------------------------------------------------------------------------------------------

    def artifact_path(self, path: str) -> Path:
        return self._entries.contained(path)

    def adopt(self, description: Description, selection: Selection) -> None:
        """Files of what isn't selected aren't there, and names were changed as keys were loaded."""
        self._load_files()

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Write rows as keys, then make their index. Raises EngineFailed."""
        rows = (row for batch in batches for row in rows_in(batch, collection))
        with speaking(self._address, EngineFailed):
            if collection.catalog.get("kind") == VECTOR_SET:
                key = self._names.keys + raw_of(collection.name)
                self._client.unlink(key)
                write_elements(self._client, key, collection, rows)
                return
            definition = self._definition(collection)
            self._drop_index(raw_of(collection.name))
            leftovers = [self._names.keys + raw_of(prefix) for prefix in definition.prefixes]
            for prefix in leftovers:
                self._remove(keys_of(self._client, prefix))
            write_keys(self._client, self._names, definition, rows)
            self._make_index(definition, raw_of(collection.name))

    def _definition(self, collection: Collection) -> Definition:
        body = collection.catalog.get("definition")
        if body:
            return definition_from({**body, "name": collection.name})
        return definition_for(collection, f"{collection.name}:")

    def _load_files(self) -> None:
        """RESTORE what the installed files hold, once."""
        noted = self.directory / "loaded"
        if noted.exists() or not self.artifact_path(CATALOG).exists():
            return
        catalog = json.loads(self.artifact_path(CATALOG).read_bytes())
        with speaking(self._address, EngineFailed):
            self._clear()
            for path, name in catalog["files"].items():
                file = self.artifact_path(path)
                if file.exists() and (name is not None or self._selection.everything):
                    self._load_file(file, name, catalog["collections"])
            for body in catalog["other_indexes"] if self._selection.everything else ():
                definition = definition_from(body)
                self._make_index(definition, raw_of(definition.name))
            count = len(keys_of(self._client, self._names.keys))
        write_durably(noted, str(count).encode())

    def _load_file(self, file: Path, name: str | None, catalogs: Mapping[str, Any]) -> None:
        kept = catalogs.get(name, {}) if name is not None else {}
        wanted = None if name is None else raw_of(self._selection.target_name(name))
        is_set = kept.get("kind") == VECTOR_SET
        if is_set and name == self._selection.target_name(name or ""):
            wanted = next(block.records[0].key for block in keyfile.read(file))  # a key may be called as an index is
        restore_keys(self._client, self._names, keyfile.version_of(file), keyfile.read(file), wanted if is_set else None)
        if name is not None and not is_set and wanted is not None:
            self._make_index(definition_from(kept["definition"]), wanted)

    def _make_index(self, definition: Definition, name: bytes) -> None:
        self._drop_index(name)
        if definition.strip:
            self._client.hset(self._names.prefixes, name, raw_of(definition.strip))
        self._client.execute_command("FT.CREATE", *definition.create(self._names.indexes + name, self._names.keys))
        wait_until_indexed(self._client, self._names.indexes + name)

    def _drop_index(self, name: bytes) -> None:
        try:
            self._client.execute_command("FT.DROPINDEX", self._names.indexes + name)
        except library().ResponseError as error:
            if not any(said in str(error).lower() for said in ("unknown index", "no such index", "not found", "unknown command")):
                raise

    def seal(self) -> None:
        """A server keeps what it is told by its own configuration."""

    def source(self) -> RedisSource:
        """The staged keys, under their own names."""
        self._load_files()
        return RedisSource(self._address, self._names)

    # -- replaying -------------------------------------------------------------------------------------------------------------

    def identity(self, collection: Collection) -> str:
        return collection.name

    def apply(self, changes: Iterable[Change], selection: Selection) -> int:
        with speaking(self._address, EngineFailed):
            return Applying(self._client, self._names, selection).run(changes)

    # -- the cut-over ----------------------------------------------------------------------------------------------------------

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:
        """Rename everything by one MULTI/EXEC. Raises Refused if something is in the way and `overwrite` is False, or if users
        changed it meanwhile."""
        intent = self.directory / "publishing"
        with speaking(self._address, EngineFailed):
            if intent.exists():
                kept = json.loads(intent.read_bytes())
                definitions = [definition_from(body) for body in kept["indexes"]]
                if self._is_exchanged(receipt):
                    self._make_missing(definitions)
                else:
                    self._exchange(receipt, definitions, overwrite=kept["overwrite"])
            else:
                definitions = list(read_definitions(self._client, self._names).indexes)
                self._exchange(receipt, definitions, overwrite=overwrite)
            for one in definitions:
                wait_until_indexed(self._client, raw_of(one.name))
        self.discard()

    def _exchange(self, receipt: bytes, definitions: list[Definition], *, overwrite: bool) -> None:
        intent = self.directory / "publishing"
        keys = [key.removeprefix(self._names.keys) for key in keys_of(self._client, self._names.keys)]
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.watch(RECEIPT, *keys)
            doomed = self._in_the_way(keys, definitions, overwrite=overwrite)
            if doomed:
                pipeline.watch(*doomed)
            noted = {key: int(value) for key, value in self._client.hgetall(self._names.expiry).items()}
            present = {one.name for one in read_definitions(self._client).indexes} if not self._address.database else set()
            write_durably(intent, json.dumps({"overwrite": overwrite, "indexes": [one.body() for one in definitions]}).encode())
            pipeline.multi()
            for one in definitions:
                if one.name in present:
                    pipeline.execute_command("FT.DROPINDEX", raw_of(one.name))
                pipeline.execute_command("FT.DROPINDEX", self._names.indexes + raw_of(one.name))
            for key in doomed:
                pipeline.unlink(key)
            for key in keys:
                pipeline.rename(self._names.keys + key, key)
            self._settle_expiry(pipeline, noted, keys)
            for one in definitions:
                self._create(pipeline, one)
            pipeline.delete(self._names.prefixes)
            pipeline.set(RECEIPT, receipt)
            try:
                pipeline.execute()
            except library().WatchError as error:
                if self._is_exchanged(receipt):
                    return
                if "occurred while watching" in str(error):  # so redis-py says that the connection broke
                    raise Unreachable(f"{self._address.url}: the connection broke in the cut-over", hint=_AGAIN) from error
                intent.unlink()
                raise Refused(
                    f"{self._address.url}: keys that would be replaced were written to just now",
                    hint="stop who writes to them, then run the same command again",
                ) from error

    def _is_exchanged(self, receipt: bytes) -> bool:
        """Was the transaction done? An earlier restore of the same may have left the same receipt."""
        return bool(self._client.get(RECEIPT) == receipt and not keys_of(self._client, self._names.keys))

    def _create(self, pipeline: Any, definition: Definition) -> None:
        if definition.strip:
            pipeline.hset(PLAIN.prefixes, raw_of(definition.name), raw_of(definition.strip))
        pipeline.execute_command("FT.CREATE", *definition.create(raw_of(definition.name)))

    def _make_missing(self, definitions: list[Definition]) -> None:
        there = {one.name for one in read_definitions(self._client).indexes}
        for one in definitions:
            if one.name not in there:
                self._create(self._client, one)

    def _settle_expiry(self, pipeline: Any, noted: Mapping[bytes, int], keys: list[bytes]) -> None:
        if self._address.keeps_expiry:
            if noted:
                pipeline.rename(self._names.expiry, PLAIN.expiry)
            return
        pipeline.delete(self._names.expiry)
        for key in keys:
            if key in noted:
                pipeline.execute_command("PEXPIREAT", key, noted[key])

    def _in_the_way(self, keys: list[bytes], definitions: list[Definition], *, overwrite: bool) -> list[bytes]:
        """Keys that must go: those of replaced indexes that the new state hasn't. Raises Refused."""
        there = {one.name: one for one in read_definitions(self._client).indexes} if not self._address.database else {}
        taken = [f"index {one.name}" for one in definitions if one.name in there]
        for start in range(0, len(keys), 1000):
            some = keys[start : start + 1000]
            with self._client.pipeline(transaction=False) as pipeline:
                for key in some:
                    pipeline.exists(key)
                taken += [
                    f"key {key.decode(errors='replace')}"
                    for key, is_there in zip(some, pipeline.execute(), strict=True)
                    if is_there
                ]
        if taken and not overwrite:
            raise Refused(
                f"{self._address.url} has {taken[0]} already" + (f", and {len(taken) - 1} more" if len(taken) > 1 else ""),
                hint="restore to another database, or give --overwrite to replace what is there once the new state is verified",
            )
        doomed: set[bytes] = set()
        for one in definitions:
            old = there.get(one.name)
            for prefix in old.prefixes if old else ():
                of_type = _TYPES[old.kind] if old else b""
                found = keys_of(self._client, raw_of(prefix))
                doomed |= {key for key in found if PLAIN.is_key(key) and self._client.type(key) == of_type}
        return sorted(doomed - set(keys))

    def discard(self) -> None:
        with speaking(self._address, EngineFailed):
            self._clear()
        self._entries.discard()
        self.close()

    def _clear(self) -> None:
        for one in read_definitions(self._client, self._names).indexes:
            self._drop_index(raw_of(one.name))
        self._remove(keys_of(self._client, self._names.base))

    def _remove(self, keys: list[bytes]) -> None:
        for start in range(0, len(keys), 1000):
            self._client.unlink(*keys[start : start + 1000])

    def close(self) -> None:
        self._entries.close()
        self._client.close()
