"""Is the key there of every tenant who wasn't erased, and gone of every one who was?"""

from __future__ import annotations

from collections.abc import Sequence

from strongroom.errors import Damaged
from strongroom.operations.verify.examination import Examination
from strongroom.repository.erasures import Erasure, erased_tenants, erasures
from strongroom.repository.tenants import folder_of, key_objects, keys_of, with_key
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import TenantPart
from strongroom.snapshots.tenant_parts import parts_of


def check_tenants(look: Examination, chosen: Sequence[Snapshot]) -> None:
    """What can't be read since its tenant was erased is told, and is no damage; a key that is missing for no such reason is."""
    found: dict[str, list[tuple[Snapshot, TenantPart]]] = {}
    for snapshot in chosen:
        for part in parts_of(snapshot.manifest):
            found.setdefault(part.tenant, []).append((snapshot, part))
    try:
        gone = erased_tenants(erasures(look.repository))
    except Damaged as error:
        look.find(error.subject, error.problem)
        return
    for tenant, parts in found.items():
        if tenant in gone:
            look.shredded.append(_told(tenant, gone[tenant], parts))
        else:
            _check_keys(look, tenant, parts)
    for tenant in gone:
        left = key_objects(look.repository.store, look.repository.keys, tenant)
        if left:
            problem = (
                f"tenant {tenant!r} was erased, and a key of his is still there: 'strongroom erase --tenant' again destroys it"
            )
            look.find(left[0], problem)


def _check_keys(look: Examination, tenant: str, parts: Sequence[tuple[Snapshot, TenantPart]]) -> None:
    try:
        keys = keys_of(look.repository, tenant)
    except Damaged as error:
        look.find(error.subject, error.problem, [snapshot for snapshot, _ in parts])
        return
    look.count("tenants' keys", len(keys))
    locked = [snapshot for snapshot, part in parts if with_key(keys, part.key) is None]
    if locked:
        problem = f"missing: a key of tenant {tenant!r}, who was not erased: nobody can read his rows"
        look.find(folder_of(look.repository.keys, tenant), problem, locked)


def _told(tenant: str, erasure: Erasure, parts: Sequence[tuple[Snapshot, TenantPart]]) -> str:
    rows, snapshots = sum(part.rows for _, part in parts), len({snapshot.id for snapshot, _ in parts})
    where = f"{snapshots} snapshot{'' if snapshots == 1 else 's'}"
    return f"{tenant}: {rows:,} rows in {where} can't be read, erased on {erasure.erased:%Y-%m-%d}"
