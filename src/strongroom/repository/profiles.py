"""What is publicly known of S3 look-alikes, with its sources. We tried none of it: `strongroom doctor` tries the store itself.

docs/OPERATIONS.md shows the same table; a test compares them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of store. `host` is a pattern of its server's name, with the region as a group where the name has it; None if it runs
    under anybody's name."""

    name: str
    host: str | None
    conditional_create: str
    object_lock: str
    multipart: str
    checksums: str
    addressing: str
    region: str
    sources: tuple[str, ...]


UNKNOWN = "not known"

PROFILES = (
    Profile(
        "Cloudflare R2",
        r"(?P<account>.+)\.r2\.cloudflarestorage\.com",
        conditional_create="honoured; whether of several writers one wins is not documented",
        object_lock="not by S3's calls; bucket locks of its own",
        multipart="parts of one size, 5 MiB to 5 GiB, at most 10,000",
        checksums="CRC64NVME of the whole object; CRC32, CRC32C, SHA-1, SHA-256 of parts",
        addressing=UNKNOWN,
        region="auto",
        sources=(
            "https://developers.cloudflare.com/r2/api/s3/api/",
            "https://developers.cloudflare.com/r2/objects/multipart-objects/",
            "https://github.com/minio/minio/pull/19681",
            "https://github.com/cloudflare/cloudflare-docs/issues/32793",
        ),
    ),
    Profile(
        "Backblaze B2",
        r"s3\.(?P<region>[a-z0-9-]+)\.backblazeb2\.com",
        conditional_create="refused: 501 Not Implemented",
        object_lock="offered",
        multipart="parts of 5 MB and more, at most 10,000",
        checksums="CRC32 was accepted in us-east-005",
        addressing="path and virtual host, HTTPS only",
        region="in the host's name",
        sources=(
            "https://backblaze.com/docs/cloud-storage-call-the-s3-compatible-api",
            "https://www.backblaze.com/apidocs/s3-put-object",
            "https://github.com/lance-format/lance/issues/5614",
            "https://github.com/sathinduga/obsidian-s3-sync-and-backup/pull/84",
        ),
    ),
    Profile(
        "Ceph RGW",
        None,
        conditional_create="honoured; who loses a race may be answered 500",
        object_lock="offered",
        multipart="offered; one request takes 5 GB at most",
        checksums=UNKNOWN,
        addressing="path; virtual host if it is configured",
        region=UNKNOWN,
        sources=(
            "https://docs.ceph.com/en/tentacle/radosgw/s3/commons/",
            "https://github.com/gaul/undocumented-s3-apis/issues/4",
            "https://github.com/ceph/ceph/pull/71588",
            "https://www.ibm.com/docs/en/storage-ceph/9.9.1?topic=api-s3-object-operations",
            "https://www.ibm.com/docs/en/storage-ceph/6?topic=api-s3-limitations",
        ),
    ),
    Profile(
        "MinIO",
        None,
        conditional_create="honoured by releases of late 2024 and after; others report an edition without it",
        object_lock=UNKNOWN,
        multipart=UNKNOWN,
        checksums="CRC64NVME is answered by releases of 2025",
        addressing=UNKNOWN,
        region=UNKNOWN,
        sources=(
            "https://github.com/minio/minio/issues/20346",
            "https://github.com/minio/minio-js/pull/1366",
            "https://github.com/minio/minio/issues/21526",
            "https://github.com/coollabsio/maxio/pull/20",
        ),
    ),
    Profile(
        "Hetzner",
        r"(?P<region>[a-z0-9-]+)\.your-objectstorage\.com",
        conditional_create="reported as missing; its own list doesn't say",
        object_lock="offered when the bucket is made",
        multipart=UNKNOWN,
        checksums=UNKNOWN,
        addressing=UNKNOWN,
        region="in the host's name",
        sources=(
            "https://docs.hetzner.com/storage/object-storage/supported-actions/",
            "https://motherduck.com/docs/integrations/cloud-storage/hetzner-object-storage/",
            "https://github.com/coollabsio/maxio/pull/20",
        ),
    ),
    Profile(
        "Scaleway",
        r"s3\.(?P<region>[a-z0-9-]+)\.scw\.cloud",
        conditional_create="honoured, documented since July 2026",
        object_lock="offered when the bucket is made; turns versioning on",
        multipart="parts of 5 MB to 5 GB, at most 1,000",
        checksums=UNKNOWN,
        addressing="path and virtual host",
        region="in the host's name",
        sources=(
            "https://www.scaleway.com/en/docs/object-storage/api-cli/using-conditional-writes/",
            "https://scaleway.com/en/docs/object-storage/api-cli/object-lock",
            "https://www.scaleway.com/en/docs/object-storage/api-cli/multipart-uploads/",
            "https://www.scaleway.com/en/docs/storage/object/concepts/",
        ),
    ),
    Profile(
        "OVHcloud",
        r"s3\.(?P<region>[a-z0-9-]+)\.(?:io|perf)\.cloud\.ovh\.net",
        conditional_create="honoured since June 2026",
        object_lock="offered",
        multipart="parts of 5 MiB to 5 GiB, at most 10,000",
        checksums=UNKNOWN,
        addressing=UNKNOWN,
        region="in the host's name",
        sources=(
            "https://github.com/ovh/public-cloud-roadmap/issues/671",
            "https://github.com/ovh/ovhcloud-docs/pull/28",
            "https://www.mintlify.com/ovh/docs/storage/object-storage",
            "https://support.us.ovhcloud.com/hc/en-us/articles/4605467875603",
            "https://docs.ovhcloud.com/en/guides/account-and-service-management/reversibility/16-object-storage-reversibility",
        ),
    ),
)


def profile_of(endpoint: str) -> Profile | None:
    """The profile of a server, by its name; None if the name says nothing."""
    return next((one for one in PROFILES if _match(one, endpoint)), None)


def region_of(endpoint: str) -> dict[str, str]:
    """The region that requests to this server are signed for, as a store option; empty if its name doesn't say."""
    found = next((match for match in (_match(one, endpoint) for one in PROFILES) if match), None)
    region = (found.groupdict().get("region") or "auto") if found else ""
    return {"region": region} if region else {}


def _match(profile: Profile, endpoint: str) -> re.Match[str] | None:
    return re.fullmatch(profile.host, urlsplit(endpoint).hostname or "") if profile.host else None
