"""How do tenants' keys get to a replica, and how does word get there that one must not be there any more?"""

from __future__ import annotations

from collections.abc import Mapping

from strongroom.errors import Damaged
from strongroom.operations.copy.plan import Plan
from strongroom.operations.copy.transport import Transport
from strongroom.repository import Repository
from strongroom.repository.declarations import declarations
from strongroom.repository.erasures import FOLDER as ERASURES
from strongroom.repository.erasures import erased_tenants, erasures
from strongroom.repository.framing import Kind
from strongroom.repository.store import Listed
from strongroom.repository.tenants import FOLDER, destroy_keys, folder_of
from strongroom.repository.writer import create_once
from strongroom.snapshots.tenant_parts import parts_of


def send_tenant_keys(
    primary: Repository, replica: Repository, transport: Transport, here: Mapping[str, int], there: Mapping[str, int], plan: Plan
) -> None:
    """Before the manifests that need them, after the erasures: no key of a tenant whom either side knows to be erased, and those
    that the replica has of him are destroyed. Asked again afterwards: he may have been erased meanwhile."""
    keys = primary.keys
    try:
        gone = {folder_of(keys, one) for one in _erased(primary, replica)}
    except Damaged as error:  # then nobody knows whose keys may be there
        transport.damaged[error.subject] = error.problem
        return
    needed = {folder_of(keys, part.tenant) for one in plan.snapshots for part in parts_of(one.manifest)}
    names = [name for name in here if name.startswith(FOLDER) and name not in there]
    wanted = [(name, f"{name.rpartition('/')[0]}/") for name in sorted(names)]
    transport.send(Listed(name, here[name]) for name, folder in wanted if folder not in gone and (plan.whole or folder in needed))
    for tenant in _erased(primary, replica):
        destroy_keys(replica.store, keys, tenant)


def send_erasures(primary: Repository, replica: Repository) -> None:
    """Every declaration of the ledger that the replica lacks, each after those that it names. Raises Damaged."""
    there = {one.name for one in replica.store.list(ERASURES)}
    for one in declarations(primary.store, primary.keys, Kind.ERASURE, ERASURES):
        name = ERASURES + one.id
        if name not in there:
            create_once(replica.store, name, primary.store.read(name))


def _erased(primary: Repository, replica: Repository) -> set[str]:
    return {*erased_tenants(erasures(primary)), *erased_tenants(erasures(replica))}
