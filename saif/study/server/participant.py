"""A participant's way through the study: one page, and the steps it may take.

Nothing that is sent says which answer is which, and every participant gets the same page. A step
carries the participant's token in its header; there are no cookies, and nothing is stored of
anyone before they agree to take part.
"""

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader

from saif.errors import StudyError
from saif.study.design.questions import Question
from saif.study.durability.erasure import withdraw
from saif.study.participation import recruitment, steps
from saif.study.participation.events import note_event
from saif.study.participation.next_page import next_page
from saif.study.participation.recruitment import completion
from saif.study.server import schemas, texts
from saif.study.server.context import Context, ServerContext
from saif.study.server.streaming import next_in, requested_exchange
from saif.study.store.store import Entry, Participant
from saif.study.store.trials import Trial, exchanges, has_seen_answers

FOLDER = Path(__file__).parent / "participant"

SERVICES = {"prolific": "Prolific", "mturk": "MTurk"}
"""What participants call the place that they were recruited at."""

Answer = dict[str, Any]

router = APIRouter(prefix="/study/{study_id}")


def _token(authorization: Annotated[str, Header()] = "") -> str:
    return authorization.removeprefix("Bearer ")


Token = Annotated[str, Depends(_token)]


@router.get("", response_class=HTMLResponse)
def page(context: Context) -> str:
    """The same bytes for everyone: nothing in it is about one participant or one arm."""
    env = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True)
    version = context.store.version
    vote = version.study.preference
    ballot = {"text": vote.text, "choices": vote.choices, "clearly": vote.strength}
    return env.get_template("page.html").render(
        study=version.study,
        consent_sha256=version.consent_sha256,
        consent=texts.as_html(version.study.consent.text),
        contact=texts.with_addresses(version.study.ethics.contact),
        service=SERVICES.get(version.study.recruitment.kind, ""),
        ballot=json.dumps(ballot),
    )


@router.get("/consent.txt", response_class=PlainTextResponse)
def consent_to_keep(context: Context) -> str:
    study = context.store.study
    irb = f"\nEthics approval: {study.ethics.irb}" if study.ethics.irb else ""
    text = texts.as_plain(study.consent.text)
    return f"{study.title}\n\n{text}\n\nContact: {study.ethics.contact}{irb}\n"


@router.post("/enter")
def enter(body: schemas.Enter, context: Context) -> Answer:
    """Where this visitor is. Who is new learns before they agree whether they can take part."""
    study = context.store.study
    if recruitment.is_preview(study, body.query):
        return {"page": "preview"}
    if recruitment.names_nobody(study, body.query):
        return {"page": "unknown"}
    entry = context.store.enter(recruitment.person_of(study, body.query))
    if entry is not None:
        return _entered(context, entry)
    why = context.store.closed()
    return {"page": "closed", "why": why} if why else {"page": "consent"}


@router.post("/consent")
def consent(body: schemas.Consent, context: Context) -> Answer:
    study = context.store.study
    if recruitment.is_preview(study, body.query):
        raise StudyError("This is a preview.", hint="Accept the task first.")
    if body.consent_sha256 != context.store.version.consent_sha256:
        raise StudyError("The text has changed meanwhile.", hint="Please reload the page.")
    share = body.share_text and study.consent.ask_to_share
    person = recruitment.person_of(study, body.query)
    return _entered(context, context.store.enrol(person, share_text=share))


@router.post("/decline")
def decline(context: Context) -> Answer:
    """Nothing is stored of who says no."""
    return {"completion": recruitment.declined(context.store.study)}


@router.post("/next")
def show_next(token: Token, context: Context) -> Answer:
    return _next(context, token)


@router.post("/begin")
def begin(token: Token, context: Context) -> Answer:
    trial = steps.begin(context.store, token)
    return {"trial": None if trial is None else _begun(context, trial)}


@router.post("/turn")
def answer(body: schemas.NextMessage, token: Token, context: Context) -> StreamingResponse:
    found = requested_exchange(context.store, token, body.trial, body.k, body.text)
    return StreamingResponse(
        context.streams.stream(token, found),
        media_type="application/x-ndjson",
        headers={"X-Accel-Buffering": "no"},  # a proxy would hold the lines back
    )


@router.post("/vote")
def vote(body: schemas.Vote, token: Token, context: Context) -> Answer:
    ballot = steps.Ballot(**body.model_dump(exclude={"clearly"}), strength=body.clearly)
    saved = steps.vote(context.store, token, ballot)
    return {"saved": saved.vote_id, "revision": saved.revision}


@router.post("/reopen")
def reopen(body: schemas.OfTrial, token: Token, context: Context) -> Answer:
    return {"vote_id": steps.reopen(context.store, token, body.trial)}


@router.post("/respond")
def respond(body: schemas.Respond, token: Token, context: Context) -> Answer:
    revision = steps.respond(context.store, token, body.question, body.value, trial_id=body.trial)
    return {"saved": body.question, "revision": revision}


@router.post("/report")
def report(body: schemas.Report, token: Token, context: Context) -> Answer:
    steps.report(context.store, token, body.trial, body.reason)
    return {"saved": body.trial}


@router.post("/events")
def events(body: schemas.Event, token: Token, context: Context) -> Answer:
    return {"saved": note_event(context.store, token, **body.model_dump())}


@router.post("/finish")
def finish(token: Token, context: Context) -> Answer:
    steps.finish(context.store, token)
    context.finished()
    return _next(context, token)


@router.post("/stop")
def stop(body: schemas.Stop, token: Token, context: Context) -> Answer:
    """Leave early; with a scope, withdraw as well."""
    steps.stop_early(context.store, token)
    with context.store.database.snapshot() as db:
        who = context.store.participant(db, token)
        ending = _ending(context, db, who)
    if body.scope is not None:
        withdraw(context.store, who.id, body.scope, actor="participant")
    return ending


@router.post("/withdraw")
def withdraw_later(body: schemas.Withdraw, context: Context) -> Answer:
    participant = context.store.of_receipt(body.receipt)
    withdraw(context.store, participant, body.scope, actor="participant")
    return {"done": body.scope}


def _entered(context: ServerContext, entry: Entry) -> Answer:
    found = {"token": entry.token, "receipt": entry.receipt, "returning": entry.returning}
    return {**found, **_next(context, entry.token)}


def _next(context: ServerContext, token: str) -> Answer:
    """What the page is to show."""
    with context.store.database.snapshot() as db:
        who = context.store.participant(db, token)
        found = next_page(db, context.store.study, who)
        answer: Answer = {"page": found.page}
        if found.trial is not None:
            answer |= {"place": found.trial.position, "of": found.n_trials}
        if found.questions:
            answer["questions"] = _asked(found.questions)
        if found.page == "trial_questions" and found.trial is not None:
            answer["trial"] = {"id": found.trial.trial_id, "turns": _exchanges(db, found.trial)}
        if found.page == "ended":
            if who.status == "complete" and not context.is_safe(who.id):
                return {"page": "finish"}  # its last rows are still on their way
            answer |= {"status": who.status, **_ending(context, db, who)}
        return answer


def _ending(context: ServerContext, db: sqlite3.Connection, who: Participant) -> Answer:
    """The code for as far as they came, and what the study was about, for those who saw any of it.

    A receipt is no code for anyone who didn't get to the end, and nobody gets the code for that
    before all of it is safe.
    """
    study, came_to = context.store.study, steps.came_to(db, who)
    way = completion(study, steps.code_for(context.store, who, came_to))
    is_given = context.is_safe(who.id) if came_to == "complete" else way.link is not None
    debrief = texts.as_html(study.debrief) if has_seen_answers(db, who.id) else ""
    return {"completion": way if is_given else None, "debrief": debrief}


def _asked(questions: Iterable[Question]) -> list[Answer]:
    """Questions without what would tell those who read along which answers screen them out."""
    return [one.model_dump(exclude={"accept"}) for one in questions]


def _begun(context: ServerContext, trial: Trial) -> Answer:
    """A trial that was begun. A retest looks like any other comparison."""
    study = context.store.study
    found: Answer = {"id": trial.trial_id, "practice": trial.kind == "practice"}
    if trial.kind == "practice":  # answers there are not sent, nor asked for again
        found["questions"] = _asked(one for one in study.questions if one.when == "trial")
    if trial.kind == "attention":
        text = next(check.text for check in study.attention if check.id == trial.check)
        return {**found, "check": text, "turns": [], "vote_id": trial.vote_id}
    if trial.state == "ready" and trial.kind != "retest":  # the page was reloaded
        with context.store.database.snapshot() as db:
            return {**found, "turns": _exchanges(db, trial), "vote_id": trial.vote_id}
    return {**found, "turns": [], **next_in(context.store, trial, 0)}


def _exchanges(db: sqlite3.Connection, trial: Trial) -> list[Answer]:
    return [{"message": one.message, "L": one.left, "R": one.right} for one in exchanges(db, trial)]
