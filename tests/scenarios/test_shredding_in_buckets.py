"""Is a tenant's key gone from a bucket that keeps versions of what is deleted, and is it said where it isn't?"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from seaweed import ACCESS, SECRET, SeaweedFS
from tenants import CHEAP, PASSWORD, Letters, write_faiss

from strongroom.library import init_repository
from strongroom.operations.erase.run import EraseOptions
from strongroom.repository.bucket import Bucket
from strongroom.repository.bucket_versions import kept_below
from strongroom.repository.tenants import folder_of, key_objects

NUMBERS = itertools.count()
VERSIONS = (
    '<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>'
)
LOCK = (
    '<ObjectLockConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><ObjectLockEnabled>Enabled</ObjectLockEnabled>'
    "<Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
)


@pytest.mark.parametrize("kind", ["versioned", "locked"])
def test_versions_of_the_key_go_too(seaweed: SeaweedFS, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    endpoint, name = f"http://127.0.0.1:{seaweed.port}", f"tenants{next(NUMBERS)}"
    bucket = Bucket(endpoint, name, "us-east-1", ACCESS, SECRET, prefix="repo/")
    headers = {"x-amz-bucket-object-lock-enabled": "true"} if kind == "locked" else {}
    assert bucket.ask("PUT", headers=headers).status == 200
    query, body = ("object-lock", LOCK) if kind == "locked" else ("versioning", VERSIONS)
    assert bucket.ask("PUT", query=query, body=body.encode()).status == 200
    room = init_repository(f"s3://{name}/repo", password=PASSWORD, cost=CHEAP)
    room.backup(write_faiss(tmp_path / "source", Letters.written()), tenant_column="owner")
    keys, store = room.repository.keys, room.repository.store
    (key,) = key_objects(store, keys, "bolt")
    store.delete(key)
    versions = kept_below(bucket, folder_of(keys, "bolt"))
    assert versions is not None
    assert [one.is_mark for one in versions].count(False) == 1  # so it can be got back
    reports = {tenant: room.erase(EraseOptions(tenant=tenant, reason="asked")) for tenant in ("acme", "bolt")}
    for tenant, report in reports.items():
        left = [one for one in kept_below(bucket, folder_of(keys, tenant)) or () if not one.is_mark]
        assert bool(left) == (kind == "locked"), tenant
        assert report.shredded.whole == (kind == "versioned"), tenant
        assert key_objects(store, keys, tenant) == []
    others = kept_below(bucket, folder_of(keys, "corp"))
    assert others is not None
    assert len(others) == 1
