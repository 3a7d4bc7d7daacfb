"""How does systemd run the daemon? A unit file."""

from __future__ import annotations

from pathlib import Path

_UNIT = """\
[Unit]
Description=Strongroom: backups by {name}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart={program} run --file {file}
Restart=on-failure
RestartSec=30
# Secrets reach the daemon as files that only it can read; name them in the policy file as password_file:
# /run/credentials/strongroom.service/repository
# LoadCredential=repository:/etc/strongroom/password
StateDirectory=strongroom
Environment=STRONGROOM_STATE_DIR=%S/strongroom
# The first SIGTERM lets running backups finish; what isn't done by then is cut off, which is safe.
KillMode=mixed
TimeoutStopSec=30min
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""


def unit_of(file: Path, program: Path) -> str:
    """The unit for a policy file and the `strongroom` that runs it.."""
    return _UNIT.format(name=file.name, file=_quoted(file), program=_quoted(program))


def _quoted(path: Path) -> str:
    """As systemd reads it: '%' and '$' mean something there."""
    text = str(path).replace("%", "%%").replace("$", "$$")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if any(one in text for one in " \t\"'\\;") else text
