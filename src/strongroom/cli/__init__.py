"""The command `strongroom`: exit codes and one-line errors. Nothing here knows what the commands do."""

from __future__ import annotations

import json
import os
import sys

from strongroom.errors import StrongroomError, from_os_error


def main() -> None:
    """Run a command; every failure is one line that says what to do, never a traceback (unless STRONGROOM_DEBUG is set)."""
    # our products are small: a second BLAS thread would only spin beside the coding threads (engines get their own)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from strongroom.cli.app import app

        app(standalone_mode=True)
    except KeyboardInterrupt:
        print("strongroom: interrupted; run the same command again, finished work is not repeated", file=sys.stderr)
        sys.exit(130)
    except StrongroomError as error:
        _fail(error)
    except OSError as error:
        _fail(from_os_error(error, str(error.filename or "strongroom")))
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback for people
        _fail(StrongroomError(f"unexpected {type(error).__name__}: {error}", hint="set STRONGROOM_DEBUG=1 to see where"))


def _fail(error: StrongroomError) -> None:
    if os.environ.get("STRONGROOM_DEBUG"):
        raise error
    message = " ".join(str(error).split())
    if "--json" in sys.argv:
        print(json.dumps({"error": message, "hint": error.hint, "exit_code": error.exit_code}), file=sys.stderr)
    else:
        print(f"strongroom: {message}" + (f" — {error.hint}" if error.hint else ""), file=sys.stderr)
    sys.exit(error.exit_code)
