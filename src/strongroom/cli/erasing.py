"""The commands of erasure: erase, and the certificates of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strongroom.cli.app import AsJson, KeyFile, Quiet, Repo, _open, _progress, _require_command, _say, app
from strongroom.errors import StrongroomError, WrongRequest, from_os_error

if TYPE_CHECKING:
    from strongroom.operations.erase.run import EraseReport

certificates = typer.Typer(help="Certificates of erasures.", invoke_without_command=True)
app.add_typer(certificates, name="certificate")


@certificates.callback(invoke_without_command=True)
def certificate(context: typer.Context) -> None:
    """Certificates of erasures."""
    _require_command(context)


@app.command()
def erase(
    repo: Repo,
    reason: Annotated[str, typer.Option(help="Why; it is kept for good, and stands in the certificate.")],
    id_: Annotated[list[str] | None, typer.Option("--id", help="A row's id; any number of times.")] = None,
    where: Annotated[str, typer.Option(help="Which rows, such as 'user=4711 and lang=en'.")] = "",
    tenant: Annotated[str, typer.Option(help="All rows of this tenant.")] = "",
    collection: Annotated[str, typer.Option(help="Only of this collection.")] = "",
    source: Annotated[str, typer.Option(help="Only of this source.")] = "",
    replica: Annotated[
        list[str] | None,
        typer.Option(help="Destroy the tenant's keys in this replica, too; repeatable. Known ones are asked anyway."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say where such rows lie, and what holds them.")] = False,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """See to it that rows never come back, by any restore; a tenant's own keys are destroyed. Exit code 5 if a hold covers
    them, 3 if a key may still be somewhere: run it again."""
    from strongroom.operations.erase.run import EraseOptions

    options = EraseOptions(tuple(id_ or ()), where, tenant, collection, source, reason, dry_run, tuple(replica or ()))
    room = _open(repo, key_file)
    with _progress(quiet) as progress:
        report = room.erase(options, progress)
    _say(json, report, lambda: _show_erase(report))
    if not report.shredded.whole:
        raise typer.Exit(3)


@certificates.command("list")
def certificate_list(repo: Repo, key_file: KeyFile = None, json: AsJson = False) -> None:
    """List the erasures."""
    from strongroom.cli import render
    from strongroom.operations.erase.certificate import described
    from strongroom.repository.erasures import erasures

    found = erasures(_open(repo, key_file).repository)
    told: list[dict[str, Any]] = [
        {"id": one.id, "erased": one.erased.isoformat(), "reason": one.reason, **described(one)} for one in found
    ]

    def show() -> None:
        for one in told:
            render.line((one["id"][:12], "bold"), f"  {one['erased'][:16]}Z  {one['reason']}")

    _say(json, told, show)


@certificates.command("show")
def certificate_show(
    erasure: Annotated[str, typer.Argument(help="The beginning of the erasure's id.")],
    repo: Repo,
    out: Annotated[Path | None, typer.Option(help="Write it to this new file.")] = None,
    key_file: KeyFile = None,
) -> None:
    """Sign and show, or write, the certificate of an erasure."""
    from strongroom.cli import render

    text = render.as_json(_open(repo, key_file).certificate(erasure))
    if out is None:
        typer.echo(text)
        return
    try:
        with out.open("x") as file:
            file.write(text + "\n")
    except FileExistsError as error:
        raise StrongroomError(f"{out} is already there", hint="give the path of a new file") from error
    except OSError as error:
        raise from_os_error(error, str(out)) from error
    render.show_done(f"certificate written to {out}")


@certificates.command("verify")
def certificate_verify(
    file: Annotated[Path, typer.Argument(help="A certificate.")],
    public_key: Annotated[str | None, typer.Option(help="The repository's, as you had it before; else the file's own.")] = None,
    json: AsJson = False,
) -> None:
    """Check a certificate; needs neither repository nor password. Exit code 4 if it was altered or forged."""
    from strongroom.operations.erase.certificate import check

    document = _read(file)
    body = check(document, public_key)
    _say(json, {**body, "public_key": document["public_key"]}, lambda: _show_certificate(body, document["public_key"]))


def _read(file: Path) -> dict[str, Any]:
    import json

    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise from_os_error(error, str(file)) from error
    except ValueError as error:
        raise WrongRequest(f"{file} is no certificate", hint="give the file that 'strongroom certificate show' wrote") from error
    return found if isinstance(found, dict) else {}


def _show_erase(report: EraseReport) -> None:
    from strongroom.cli import render

    rows = sum(one.rows for one in report.still_in)
    if report.dry_run:
        render.line(f"  {rows:,} rows in {len(report.still_in)} snapshots would never come back")
    else:
        render.show_done(f"erasure {report.erasure[:12]}: no restore gives these rows any more")
    for one in report.still_in:
        kept = "under the tenant's own key" if one.sealed == one.rows else "encrypted, until it is forgotten and pruned"
        render.line((f"  {one.snapshot[:12]}", "bold"), f"  {one.created[:19].replace('T', ' ')}  {one.rows:,} rows, {kept}")
    for gone in report.shredded.gone:
        render.line(f"  keys destroyed in {gone.place}: {len(gone.keys)}")
        if gone.warning:
            render.show_problem(f"{gone.place}: {gone.warning}")
    for away in report.shredded.unreached:
        render.show_problem(f"{away.place}: the tenant's keys may still be there ({away.problem}): run it again")
    if report.unsealed:
        render.show_problem(
            f"{len(report.unsealed)} snapshots of the source are of before it had tenants' keys: rows in these come back, unless "
            "they are forgotten, or erased by --where"
        )


def _show_certificate(body: dict[str, Any], public_key: str) -> None:
    from strongroom.cli import render

    render.show_done(f"erasure {body['erasure'][:12]} of {body['erased'][:16]}Z, signed by {public_key}")
    render.line(f"  {body['promise']}")
    for snapshot, rows in body["still_encrypted_in"].items():
        render.line(f"  still encrypted in {snapshot[:12]}: {rows:,} rows")
    for one in body.get("keys_destroyed", ()):
        render.line(f"  keys destroyed in {one['place']} at {one['at'][:16]}Z: {', '.join(one['keys']) or 'none was there'}")
    for snapshot, rows in body.get("unreadable_in", {}).items():
        render.line(f"  unreadable for good in {snapshot[:12]}: {rows:,} rows")
