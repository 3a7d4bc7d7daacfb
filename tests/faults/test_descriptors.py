"""Does it work in a process that has more than a thousand files open?"""

from __future__ import annotations

import fcntl
import os
import resource
import socket

from strongroom.engines.waiting import readable

HIGH = 1_500


def test_a_server_is_listened_to_whatever_its_descriptor_is() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * HIGH), hard))
    ours, theirs = socket.socketpair()
    high = fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD, HIGH)
    try:
        assert high >= HIGH
        assert not readable(high, 0.01)
        assert not readable(high, -1)
        theirs.send(b"x")
        assert readable(high, 5)
    finally:
        os.close(high)
        ours.close()
        theirs.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
