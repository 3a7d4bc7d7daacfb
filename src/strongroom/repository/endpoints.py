"""Which server do URLs of a cloud's scheme mean?"""

from __future__ import annotations

import os

_S3, _AZURE = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"), ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
_ENDPOINTS = {"s3": _S3, "s3a": _S3, "az": _AZURE, "azure": _AZURE}


def endpoint_of(scheme: str) -> str:
    """The server that the environment names for URLs of this scheme, '' for the cloud's own."""
    return next((os.environ[name] for name in _ENDPOINTS.get(scheme, ()) if os.environ.get(name)), "")
