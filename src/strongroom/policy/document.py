"""What may stand in strongroom.yaml? The document's model; nothing else is taken. Needs pydantic (the extra `policy`)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from strongroom.errors import WrongRequest
from strongroom.policy.quantities import SIZE, TIME, seconds
from strongroom.policy.retention import Duration, Rules

Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Time = Annotated[str, StringConstraints(pattern=TIME), Field(examples=["90s", "15m", "7d"])]
Size = Annotated[str, StringConstraints(pattern=SIZE), Field(examples=["50MiB"])]
Command = Annotated[list[Text], Field(min_length=1)]
Globs = Annotated[list[Text], Field(min_length=1)]
Count = Annotated[int, Field(ge=0, le=100_000)]
EVENTS = ("done", "failed", "missed", "skipped", "broken", "recovered", "held_back")
Happening = Literal["done", "failed", "missed", "skipped", "broken", "recovered", "held_back"]


class Part(BaseModel):
    """Unknown keys are errors, and so is a value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Timing(Part):
    """When: either by `cron` (five fields, in `timezone`) or every `interval`. A run is put off by up to `jitter`, always the same
    for the same moment. Later than `grace` it isn't made up for. `coalesce`: of several that were missed the newest is run."""

    cron: Text | None = None
    interval: Time | None = None
    timezone: Text = "UTC"
    jitter: Time = "0s"
    grace: Time | None = None
    coalesce: bool = True

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        from strongroom.policy.schedule import require_cron

        if (self.cron is None) == (self.interval is None):
            raise ValueError("give either cron or interval")
        if self.interval is not None and seconds(self.interval) < 1:
            raise ValueError("an interval is at least 1s")
        if self.cron is not None:
            require_cron(self.cron, self.timezone)
        return self


class Scheduled(Part):
    """A backup by time (`full` reads the source whole, `incremental` what may have changed), or a `journal` that is followed all
    the time and sealed `every` so often; `scan` compares instead of following, for engines without a log."""

    kind: Literal["full", "incremental", "journal"]
    cron: Text | None = None
    interval: Time | None = None
    timezone: Text = "UTC"
    jitter: Time = "0s"
    grace: Time | None = None
    coalesce: bool = True
    every: Time | None = None
    scan: bool = False
    batch_key: Text | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "journal":
            if self.cron is not None or self.interval is not None:
                raise ValueError("a journal is followed all the time: give 'every', not cron or interval")
            if self.every is not None and seconds(self.every) < 0.6:
                raise ValueError("'every' is at least 600ms")
        else:
            if self.every is not None or self.scan or self.batch_key is not None:
                raise ValueError("'every', 'scan' and 'batch_key' are of journals")
            self.timing()
        return self

    def timing(self) -> Timing:
        """When, of a backup."""
        fields = ("cron", "interval", "timezone", "jitter", "grace", "coalesce")
        return Timing(**{name: getattr(self, name) for name in fields})


class WithPassword(Part):
    """Where a password comes from; never the password itself. At most one of the three."""

    password_file: Text | None = None
    password_command: Command | None = None
    password_env: Name | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(one is not None for one in (self.password_file, self.password_command, self.password_env)) > 1:
            raise ValueError("give one of password_file, password_command and password_env")
        return self


class Query(Part):
    """How the source's users would ask it: a URL that is fetched, or a command that is run. How long it takes is its latency."""

    url: Text | None = None
    command: Command | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.url is None) == (self.command is None):
            raise ValueError("give either url or command")
        return self

    @field_validator("url")
    @classmethod
    def _fetched(cls, url: str | None) -> str | None:
        if url is not None and urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("a URL of http or https is fetched")
        return url


class Latency(Part):
    """A query that is made `every` so often while the source is read. Slower than `ceiling`, the backup slows down and then pauses;
    it fails after a pause of `patience`."""

    ceiling: Time
    query: Query
    every: Time = "1s"
    patience: Time = "15m"


class Limits(Part):
    """How hard a source and the network may be worked: bytes a second that are read of the source and written to the repository."""

    read: Size | None = None
    write: Size | None = None
    latency: Latency | None = None


class Source(WithPassword):
    """What is backed up. `collections`, `tenants` and `tags` are what policies match, besides its name; tags go into snapshots.
    `tenant_column` says whose a row is: rows are kept under keys of their tenants."""

    url: Text
    model: Text | None = None
    tags: dict[Name, Text] = {}
    collections: list[Text] = []
    tenants: list[Text] = []
    tenant_column: Text | None = None
    probes: Count | None = None
    limits: Limits = Limits()


class Replication(Part):
    """How this place is kept in step where it is a replica: `when` it is looked at, how many bytes a second may go to it, whether
    what was forgotten is forgotten here, too, and whether what residency forbids is left out instead of refused."""

    when: Timing = Timing(interval="1m")
    bandwidth: Size | None = None
    follow_forget: bool = False
    leave_out: bool = False


class Repository(WithPassword):
    """Where it is kept. `replicas` are names of other repositories, that get all of it; `region` is what residency looks at."""

    url: Text
    region: Name | None = None
    replicas: list[Name] = []
    replication: Replication = Replication()
    key_file: Text | None = None

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if self.key_file is not None and (self.password_file or self.password_command or self.password_env):
            raise ValueError("give a password or a key_file, not both")
        return self


class Match(Part):
    """Which sources a policy is for: all that is given must match. Shell patterns (`docs-*`); without any, every source."""

    source: Globs | None = None
    collection: Globs | None = None
    tenant: Globs | None = None
    tag: dict[Name, Text] | None = None


class Retention(Part):
    """The rules of `forget`, and when they are applied (with prune); daily unless it says otherwise."""

    keep_last: Count = 0
    keep_hourly: Count = 0
    keep_daily: Count = 0
    keep_weekly: Count = 0
    keep_monthly: Count = 0
    keep_yearly: Count = 0
    keep_within: Text | None = None
    keep_tag: list[Text] = []
    prune: bool = True
    when: Timing = Timing(interval="1d")

    @field_validator("keep_within")
    @classmethod
    def _duration(cls, text: str | None) -> str | None:
        return None if text is None else str(_duration(text))

    @model_validator(mode="after")
    def _some_rule(self) -> Self:
        if not self.rules():
            raise ValueError("no rule keeps anything: give at least one keep_ rule")
        return self

    def rules(self) -> Rules:
        """As `forget` takes them."""
        within = None if self.keep_within is None else Duration.parse(self.keep_within)
        tags = tuple((key, value if equals else None) for key, equals, value in (one.partition("=") for one in self.keep_tag))
        counts = (self.keep_last, self.keep_hourly, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly)
        return Rules(*counts, within=within, tags=tags)


class Pitr(Part):
    """Any moment of the last `window` can be restored: retention keeps every snapshot in it and the one before."""

    window: Text

    @field_validator("window")
    @classmethod
    def _duration(cls, text: str) -> str:
        return str(_duration(text))


class Objectives(Part):
    """How old the newest recovery point may become, how long a restore (measured by drills) may take, and how far a replica may be
    behind."""

    rpo: Time | None = None
    rto: Time | None = None
    lag: Time | None = None


class Residency(Part):
    """In which regions it may be kept: shell patterns. A repository or replica without a region is in none."""

    regions: Globs


class Hold(Part):
    """A legal hold on all snapshots of the policy's sources. Lifting it is a matter of `strongroom hold`, not of this file."""

    reason: Text
    authority: Text
    until: Text | None = None

    @field_validator("until")
    @classmethod
    def _moment(cls, text: str | None) -> str | None:
        if text is not None:
            datetime.fromisoformat(text)
        return text


class Encryption(Part):
    """The key slot that backups must be made with, by its label, and how old it may become."""

    key: Text | None = None
    max_age: Time | None = None


class Check(Part):
    """One verification: how deep, how often, and how many bytes at most."""

    level: Literal["objects", "data", "restore", "answers"]
    when: Timing
    budget: Size | None = None


class Verification(Part):
    """What is read back."""

    checks: Annotated[list[Check], Field(min_length=1)]


class Drill(Part):
    """A restore for practice, of the newest or a random recovery point."""

    when: Timing
    moment: Literal["newest", "random"] = "newest"


class Hook(Part):
    """A command, run without a shell. A `before` hook that fails stops the backup, unless `on_failure` is 'continue'."""

    command: Command
    timeout: Time = "10m"
    on_failure: Literal["stop", "continue"] = "stop"


class Hooks(Part):
    """Commands before and after each backup. `after` hooks always run."""

    before: list[Hook] = []
    after: list[Hook] = []


class Webhook(Part):
    """JSON by POST. HTTPS, unless this machine itself is called; `ca_file` names the certificates that are trusted, in the place of
    the system's. Signed with what is in `secret_file` (HMAC-SHA256)."""

    url: Text
    secret_file: Text | None = None
    ca_file: Text | None = None
    timeout: Time = "10s"
    attempts: Annotated[int, Field(ge=1, le=10)] = 4

    @field_validator("url")
    @classmethod
    def _private(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")):
            raise ValueError("a webhook is https (or http to this machine itself)")
        return url


class Smtp(WithPassword):
    """A mail, by TLS from the beginning (`tls`), STARTTLS or, to this machine itself, in the clear (`none`). `ca_file` names the
    certificates that are trusted, in the place of the system's."""

    host: Text
    port: Annotated[int, Field(ge=1, le=65_535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: Text | None = None
    user: Text | None = None
    sender: Text
    to: Globs
    timeout: Time = "30s"

    @model_validator(mode="after")
    def _private(self) -> Self:
        if self.security == "none" and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("mail in the clear goes to this machine itself only: use starttls or tls")
        return self


class Program(Part):
    """A command that gets the JSON on its standard input."""

    command: Command
    timeout: Time = "30s"


class Channel(Part):
    """One way to tell people, and of what."""

    webhook: Webhook | None = None
    smtp: Smtp | None = None
    command: Program | None = None
    on: list[Happening] = ["failed", "missed", "broken", "recovered", "held_back"]

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(one is not None for one in (self.webhook, self.smtp, self.command)) != 1:
            raise ValueError("give one of webhook, smtp and command")
        return self


class Policy(Part):
    """What is done for the sources that match. Every policy that matches a source is for it. `replicas` are names of repositories
    that get what is kept of them."""

    repository: Name
    match: Match = Match()
    schedule: list[Scheduled] = []
    retention: Retention | None = None
    pitr: Pitr | None = None
    objectives: Objectives = Objectives()
    replicas: list[Name] = []
    residency: Residency | None = None
    holds: list[Hold] = []
    encryption: Encryption = Encryption()
    verification: Verification | None = None
    drills: list[Drill] = []
    hooks: Hooks = Hooks()
    notifications: list[Name] = []


class Document(Part):
    """strongroom.yaml: what is backed up, where it is kept, and by which policies."""

    version: Literal[1]
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    repositories: Annotated[dict[Name, Repository], Field(min_length=1)]
    notifications: dict[Name, Channel] = {}
    policies: Annotated[dict[Name, Policy], Field(min_length=1)]
    parallel: Annotated[int, Field(ge=1, le=64)] = 2
    metrics_file: Text | None = None

    def primaries(self) -> list[str]:
        """The names of the repositories that backups go to, each once."""
        return list(dict.fromkeys(one.repository for one in self.policies.values()))

    def variables(self) -> frozenset[str]:
        """The names of the environment variables that hold passwords."""
        mails = [one.smtp for one in self.notifications.values() if one.smtp]
        places: list[WithPassword] = [*self.sources.values(), *self.repositories.values(), *mails]
        return frozenset(one.password_env for one in places if one.password_env)


def _duration(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except WrongRequest as error:
        raise ValueError(f"{error}; {error.hint}") from error
