"""Who a link says they are, and where they go: by the study's kind of recruitment alone."""

from typing import Any

import pytest
from made_up_participants import small_study

from saif.study.participation.recruitment import PREVIEW, completion, is_preview, person_of
from saif.study.store.identities import Person

LINK = {"kind": "link"}
MTURK = {"kind": "mturk", "sandbox": True}
PROLIFIC = {
    "kind": "prolific", "complete": "C0MPLETE", "screened_out": "SCREEN0UT",
    "no_consent": "NOC0NSENT", "partial": "PARTIAL1",
}  # fmt: skip
PID = "5f0123456789abcdef012345"
QUERY = {
    "key": "any-key", "PROLIFIC_PID": PID, "SESSION_ID": "session-1",
    "workerId": "A1234567890ABC", "assignmentId": "3ASSIGNMENT",
}  # fmt: skip


@pytest.mark.parametrize(
    ("recruitment", "who"),
    [
        (LINK, Person("link", "any-key")),
        (PROLIFIC, Person("prolific", PID, "session-1")),
        (MTURK, Person("mturk", "A1234567890ABC", "3ASSIGNMENT")),
    ],
)
def test_a_link_says_who_opened_it(recruitment: dict[str, Any], who: Person) -> None:
    assert person_of(small_study(recruitment=recruitment), QUERY) == who


@pytest.mark.parametrize("recruitment", [LINK, PROLIFIC, MTURK])
def test_only_a_task_of_mturk_is_previewed(recruitment: dict[str, Any]) -> None:
    found = is_preview(small_study(recruitment=recruitment), {"assignmentId": PREVIEW})
    assert found == (recruitment is MTURK)


@pytest.mark.parametrize(("sandbox", "host"), [(True, "workersandbox"), (False, "www")])
def test_a_task_is_handed_in_where_it_was_taken(sandbox: bool, host: str) -> None:
    found = completion(small_study(recruitment={"kind": "mturk", "sandbox": sandbox}), "code")
    assert found.form == f"https://{host}.mturk.com/mturk/externalSubmit"
