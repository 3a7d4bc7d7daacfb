"""Is there room for a new repository, and which of several that are made at once is it?"""

from __future__ import annotations

from strongroom.errors import AlreadyExists, NoRepository, NotFound, Unreachable, UnsafeStore, WrongRequest
from strongroom.repository import config
from strongroom.repository.store import Store, try_conditional_create
from strongroom.repository.unlocking import read_config


def create_config(store: Store, settings: config.Config) -> None:
    """Raises AlreadyExists if another one's is there. Ours is: our create landed and its answer was lost."""
    try:
        store.create(config.NAME, settings.encode())
    except (AlreadyExists, Unreachable):
        if not _is_there(store, config.NAME, settings.encode()):
            raise


def _is_there(store: Store, name: str, content: bytes) -> bool:
    try:
        return store.read(name) == content
    except NotFound:
        return False


def require_fitting(store: Store, *, overwriting: bool) -> None:
    try:
        try_conditional_create(store)
    except UnsafeStore:
        if not overwriting:
            raise
    else:
        if overwriting:
            hint = "leave --without-conditional-creates away"
            raise WrongRequest(f"{store.url} honours conditional creates: nothing need be done without", hint=hint)


def two_at_once(store: Store) -> AlreadyExists:
    hint = "run init once, on one machine; if none runs, delete what is below keys/ and run it again"
    return AlreadyExists(f"another init of {store.url} is under way, or was cut off", hint=hint)


def require_vacant(store: Store) -> None:
    try:
        read_config(store)
    except NoRepository:
        try:
            config.decode(store.read(config.NAME))
        except NotFound:
            return
    raise AlreadyExists(f"{store.url} is a repository already", hint="use it as it is, or give another address")
