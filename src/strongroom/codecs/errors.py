"""What is wrong with a payload that can't be decoded?"""

from __future__ import annotations


class CodecError(ValueError):
    """The payload is malformed: unknown codec, truncated, or of another length than promised. One sentence says which."""
