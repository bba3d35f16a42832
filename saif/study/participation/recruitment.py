"""Where participants come from: who a link says they are, and where they go when they are done."""

from collections.abc import Mapping
from dataclasses import dataclass

from saif.study.design.study_file import MturkRecruitment, ProlificRecruitment, Study
from saif.study.store.identities import Person

PREVIEW = "ASSIGNMENT_ID_NOT_AVAILABLE"
"""What MTurk gives for an assignment while a worker only looks at the task."""

PARAMETERS = {
    "prolific": ("PROLIFIC_PID", "SESSION_ID"),
    "mturk": ("workerId", "assignmentId"),
    "link": ("key", ""),
}
"""What a link's query calls the participant and their visit."""


@dataclass(frozen=True, slots=True)
class Completion:
    """How a participant hands in their completion code."""

    code: str
    """To be copied or sent."""
    link: str | None = None
    """Opens the recruitment service with the code in it."""
    form: str | None = None
    """Where the page hands in a form instead, which is MTurk's way."""


def is_preview(study: Study, query: Mapping[str, str]) -> bool:
    """Whether someone only looks: nothing may be asked or stored."""
    return isinstance(study.recruitment, MturkRecruitment) and query.get("assignmentId") == PREVIEW


def names_nobody(study: Study, query: Mapping[str, str]) -> bool:
    """Whether the bare address was opened of a study that one comes to by another service's link:
    by someone who wants to withdraw, or only looks."""
    kind = study.recruitment.kind
    return kind != "link" and PARAMETERS[kind][0] not in query


def person_of(study: Study, query: Mapping[str, str]) -> Person:
    """Who opened the link, from its query, read as the study recruits. Raises InputError where it
    doesn't say, or not validly."""
    kind = study.recruitment.kind
    pid, session = PARAMETERS[kind]
    return Person(kind, query.get(pid, ""), query.get(session) if session else None)


def completion(study: Study, code: str) -> Completion:
    """Where someone with this code is sent."""
    place = study.recruitment
    if isinstance(place, ProlificRecruitment):
        return Completion(code, link=f"https://app.prolific.com/submissions/complete?cc={code}")
    if isinstance(place, MturkRecruitment):
        host = "workersandbox.mturk.com" if place.sandbox else "www.mturk.com"
        return Completion(code, form=f"https://{host}/mturk/externalSubmit")
    return Completion(code)


def declined(study: Study) -> Completion | None:
    """The completion of someone who doesn't consent; None where nobody waits for a code."""
    if isinstance(study.recruitment, ProlificRecruitment):
        return completion(study, study.recruitment.no_consent)
    return None
