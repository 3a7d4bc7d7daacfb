"""The commands of two people: approval require, request, grant, deny, list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from strongroom.cli.app import AsJson, KeyFile, Repo, _because, _open, _require_command, _say, app
from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.access.approvals import Request, Rule

approval = typer.Typer(rich_markup_mode=None)
app.add_typer(approval, name="approval")
Which = Annotated[str, typer.Argument(help="The beginning of the request's id.")]
Reason = Annotated[str | None, typer.Option(help="Why; for the audit log.")]


@approval.callback(invoke_without_command=True)
def approval_(context: typer.Context) -> None:
    """Let nobody restore or take away alone: ask, and have another person grant it."""
    _require_command(context)


@approval.command("require")
def approval_require(
    repo: Repo,
    verbs: Annotated[str, typer.Option(help="What needs it, with commas between: restore,forget. '' for nothing.")],
    people: Annotated[int, typer.Option(min=1, help="How many people, who asks for it being one of them.")] = 2,
    expires: Annotated[str, typer.Option(help="How long a request can be used, such as 24h.")] = "24h",
    reasons: Annotated[str, typer.Option(help="What needs a reason, with commas between.")] = "",
    reason: Reason = None,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Say what needs two people, in the place of what was said before. Once there is such a rule, it takes two to change it."""
    from strongroom.journal.times import parse_duration

    _because(reason, None)
    room = _open(repo, key_file)
    rule = room.require_approval(_words(verbs), people=people, expires=parse_duration(expires), reasons=_words(reasons))
    _say(json, rule, lambda: _show_rule(rule))


@approval.command(
    "request", context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}
)
def approval_request(context: typer.Context, reason: Reason = None, json: AsJson = False) -> None:
    """Ask for approval of a command, written behind this one as it will be run: approval request restore latest TARGET."""
    from strongroom.access.gate import Requested, asking
    from strongroom.cli import render

    _because(reason, None)
    try:
        with asking():
            app(context.args, standalone_mode=False)
    except Requested as asked:
        made = asked.request
        _say(json, made, lambda: render.show_done(f"request {made.id[:12]}: {_what(made)}, until {made.until[:19]} UTC"))
        return
    raise WrongRequest("nothing was asked for that needs approval", hint="strongroom approval request restore SNAPSHOT TARGET")


@approval.command("grant")
def approval_grant(request: Which, repo: Repo, reason: Reason = None, key_file: KeyFile = None, json: AsJson = False) -> None:
    """Approve what another person asked for."""
    _because(reason, None)
    found = _open(repo, key_file).grant_approval(request, reason or "")
    _say(json, found, lambda: _show(found))


@approval.command("deny")
def approval_deny(request: Which, repo: Repo, reason: Reason = None, key_file: KeyFile = None, json: AsJson = False) -> None:
    """Refuse what somebody asked for: one voice is enough."""
    _because(reason, None)
    found = _open(repo, key_file).deny_approval(request, reason or "")
    _say(json, found, lambda: _show(found))


@approval.command("list")
def approval_list(repo: Repo, key_file: KeyFile = None, json: AsJson = False) -> None:
    """Show what needs approval, and all requests, oldest first."""
    rule, found = _open(repo, key_file).approvals()

    def show() -> None:
        _show_rule(rule)
        for one in found:
            _show(one)

    _say(json, {"rule": rule, "requests": found}, show)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _what(request: Request) -> str:
    from strongroom.access.approvals import describe

    return describe(request)


def _show_rule(rule: Rule | None) -> None:
    from strongroom.access.roles import command_of
    from strongroom.cli import render

    if rule is None or rule.people < 2 or not rule.verbs:
        render.line("nothing needs a second person")
    else:
        verbs = ", ".join(command_of(one) for one in rule.verbs)
        render.line((verbs, "bold"), f"  need {rule.people} people, within {rule.seconds / 3600:g} hours of the request")
    if rule is not None and rule.reasons:
        render.line((", ".join(command_of(one) for one in rule.reasons), "bold"), "  need a reason")


def _show(request: Request) -> None:
    from strongroom.cli import render

    colours: dict[str, str] = {"granted": "green", "pending": "yellow", "denied": "red"}
    state: Any = (f"  {request.state.value:<8}", colours.get(request.state.value, "dim"))
    by = f"  {request.label or request.slot[:12]} until {request.until[:16].replace('T', ' ')} UTC"
    render.line((request.id[:12], "bold"), state, by)
    render.line(f"  {_what(request)}{f' ({request.reason})' if request.reason else ''}")
    for one in request.answers:
        said = ("granted" if one.granted else "denied") + ("" if one.counts else ", which doesn't count any more")
        render.line(f"  {said} by {one.label or one.slot[:12]}{f' ({one.reason})' if one.reason else ''}")
