"""The whole command line: `app` with every command on it, in the order of --help."""

from __future__ import annotations

from importlib import import_module

from strongroom.cli.app import app as app

_MODULES = "restoring pruning holding locks erasing journal doctoring recovering copying rotating covering drilling"
_MODULES += " roles tokens approving auditing demonstrating policing"
for name in _MODULES.split():  # each registers its commands on `app`
    import_module(f"strongroom.cli.{name}")
