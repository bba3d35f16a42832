"""Where participants come from: who a link says they are, and where they go when they are done."""

from collections.abc import Mapping
from dataclasses import dataclass

from saif.study.design.study_file import (
    LinkRecruitment,
    MturkRecruitment,
    ProlificRecruitment,
    Study,
)
from saif.study.store.identities import Person

PREVIEW = "ASSIGNMENT_ID_NOT_AVAILABLE"
"""What MTurk gives for an assignment while a worker only looks at the task."""


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
    match study.recruitment:
        case ProlificRecruitment():
            return "PROLIFIC_PID" not in query
        case MturkRecruitment():
            return "workerId" not in query
        case LinkRecruitment():
            return False


def person_of(study: Study, query: Mapping[str, str]) -> Person:
    """Who opened the link, from its query. Raises InputError where it doesn't say, or not validly.

    The kind of recruitment is the study's and never the link's.
    """
    match study.recruitment:
        case ProlificRecruitment():
            return Person("prolific", query.get("PROLIFIC_PID", ""), query.get("SESSION_ID"))
        case MturkRecruitment():
            return Person("mturk", query.get("workerId", ""), query.get("assignmentId"))
        case LinkRecruitment():
            return Person("link", query.get("key", ""))


def completion(study: Study, code: str) -> Completion:
    """Where someone with this code is sent."""
    match study.recruitment:
        case ProlificRecruitment():
            return Completion(code, link=f"https://app.prolific.com/submissions/complete?cc={code}")
        case MturkRecruitment(sandbox=sandbox):
            host = "workersandbox.mturk.com" if sandbox else "www.mturk.com"
            return Completion(code, form=f"https://{host}/mturk/externalSubmit")
        case LinkRecruitment():
            return Completion(code)


def declined(study: Study) -> Completion | None:
    """The completion of someone who doesn't consent; None where nobody waits for a code."""
    if isinstance(study.recruitment, ProlificRecruitment):
        return completion(study, study.recruitment.no_consent)
    return None
