"""The command `strongroom`: exit codes and one-line errors. Nothing here knows what the commands do."""

from __future__ import annotations

import ctypes
import gc
import io
import json
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from strongroom.errors import StrongroomError, WrongRequest, from_os_error

INTERRUPTED = 130
_ARENA_MAX = -8  # M_ARENA_MAX of glibc's mallopt(3)
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


def command() -> NoReturn:
    """Run a command and leave at once: all of its threads have ended, and taking numpy and Arrow apart again takes longer than many
    a command."""
    try:
        main()
    except SystemExit as leaving:
        with suppress(OSError):  # nobody reads it any more
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(leaving.code if isinstance(leaving.code, int) else 0)


def main() -> NoReturn:
    """Run a command; every failure is one line that says what to do, never a traceback (unless STRONGROOM_DEBUG is set)."""
    _tune_process()
    try:
        _check_text()
        from strongroom.cli.commands import command_line

        code = command_line(sys.argv[1:])(standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback for people
        code = _fail(error)
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not tear up the way out
        _complain(StrongroomError("interrupted", hint="run the same command again: finished work is not repeated"), code)
    sys.exit(code)


def _tune_process() -> None:
    """Before any library is loaded. Our matrix products are small: a second BLAS thread would only spin beside the coding threads
    (engines get their own). And glibc would keep freed blocks of 8 MiB in an arena for each thread: two arenas instead of one a
    thread took 3 GB of LanceDB rows from 634 MB resident to what docs/PERFORMANCE.md says."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(50_000)  # loading alone makes garbage enough for a hundred rounds of the default
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            library = ctypes.CDLL(None)
            library.mallopt(_ARENA_MAX, 1)
            library.mallopt(_MMAP_THRESHOLD, 32 << 20)
            library.mallopt(_TRIM_THRESHOLD, 64 << 20)


def _check_text() -> None:
    """Names that aren't UTF-8 couldn't be written into a manifest; a terminal that can't show a sign gets another one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    for argument in sys.argv[1:]:
        if not argument.isascii() and argument != argument.encode(errors="replace").decode():
            raise WrongRequest(f"{argument!a} is not UTF-8 text", hint="rename the file or directory, or set LC_ALL=C.UTF-8")


def _fail(error: Exception) -> int:
    if os.environ.get("STRONGROOM_DEBUG"):
        raise error
    if type(error).__name__ == "Abort":  # Ctrl-C or the end of the input at a question
        return INTERRUPTED
    explained = _explained(error)
    _complain(explained, explained.exit_code)
    return explained.exit_code


def _explained(error: Exception) -> StrongroomError:
    if isinstance(error, StrongroomError):
        return error
    if isinstance(error, OSError):
        return from_os_error(error, str(error.filename or "strongroom"))
    if hasattr(error, "format_message"):  # what typer says of a wrong command line; its class isn't public
        command = getattr(getattr(error, "ctx", None), "command_path", "strongroom")
        return WrongRequest(error.format_message().rstrip("."), hint=f"see '{command} --help'")
    return StrongroomError(f"unexpected {type(error).__name__}: {error}", hint="set STRONGROOM_DEBUG=1 to see where")


def _complain(error: StrongroomError, code: int) -> None:
    message, hint = (" ".join(text.split()) for text in (str(error), error.hint))
    if "--json" in sys.argv:
        print(json.dumps({"error": message, "hint": hint, "exit_code": code}), file=sys.stderr)
    else:
        print(f"strongroom: {message}" + (f" — {hint}" if hint else ""), file=sys.stderr)
