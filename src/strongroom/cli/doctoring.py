"""The command that looks at this machine and a store: doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from strongroom.cli.app import AsJson, _say, app

if TYPE_CHECKING:
    from strongroom.engines import Installed
    from strongroom.operations.doctor import StoreReport


@app.command()
def doctor(
    repository: Annotated[
        str | None, typer.Argument(envvar="STRONGROOM_REPOSITORY", help="Path or URL of a store, with or without a repository.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Try what a store can do, and list the engines of this machine. Exit code 1 if a store lacks what a repository needs."""
    from strongroom.engines import installed
    from strongroom.operations.doctor import examine_store

    engines = installed()
    store = examine_store(repository) if repository else None
    found = {"engines": engines, "store": store, "fit": not store.lacking if store else None}
    _say(json, found, lambda: _show(engines, store))
    if store:
        store.require_fit()


def _show(engines: list[Installed], store: StoreReport | None) -> None:
    from strongroom.cli.render import line

    line(("engines", "bold"))
    for one in engines:
        said = "experimental: it has never met a real server" if one.experimental else ""
        mark = ("✓", "green") if one.version else ("–", "dim")
        line("  ", mark, f" {one.name:<12}  {one.version or 'not installed'}{'  ' if said or one.note else ''}", said or one.note)
    if store:
        _show_store(store)


def _show_store(store: StoreReport) -> None:
    from strongroom.cli.render import line

    line(("store", "bold"), f"  {store.url}{f' on {store.server}' if store.server else ''}")
    line(f"  repository    {store.repository}")
    if store.profile:
        line(f"  known as      {store.profile}: see docs/OPERATIONS.md, Look-alikes of S3")
    if store.experimental:
        line(("  experimental", "yellow"), ": no emulator of it works with its client, so it was never tried")
    for one in store.probes:
        bad = ("✗", "red") if one.needed else ("–", "dim")
        mark = {"yes": ("✓", "green"), "no": bad, "unknown": ("?", "yellow")}[one.result.value]
        line("  ", mark, f" {one.name:<24}  {one.follows}")
