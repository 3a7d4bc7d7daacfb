"""How a repository comes to lie in a second store, whole: a replica has the same id, the same keys and the same ciphertext.

Order is what makes it safe: keys and `config`, what was laid down (policies, holds, erasures), why snapshots are missing, packs,
the blob index, manifests, journal segments, the rest. A manifest is stored only when every blob that it names lies at the replica,
in a listed pack that was checked against its name. It may be cut off anywhere and run again; only what is missing moves.
"""

from __future__ import annotations

from strongroom.operations.copy.plan import CopyOptions, Selection
from strongroom.operations.copy.replica import CopyReport, copy, open_replica

__all__ = ["CopyOptions", "CopyReport", "Selection", "copy", "open_replica"]
