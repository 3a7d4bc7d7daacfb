"""Does a follower end when it is told to, at whatever moment the signal comes?"""

from __future__ import annotations

import subprocess
import sys
import textwrap

PROGRAM = """
    import os, signal, threading
    from strongroom.cli.journal import _stop_on_signals
    stop = threading.Event()
    _stop_on_signals(stop)
    with stop._cond:  # as it is for an instant in each wait
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))
    assert stop.wait(10)
"""


def test_a_signal_that_comes_while_the_follower_goes_to_sleep() -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM)], check=True, timeout=60)
