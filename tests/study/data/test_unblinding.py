"""Early looks at the outcome: refused without a reason, and written down for good."""

from pathlib import Path

import pytest
from made_up_participants import complete, make_store, rows

from saif.errors import InputError
from saif.study.data.unblinding import MAX_REASON, Look, early_looks, is_hidden, look
from saif.study.store import audit


def test_the_outcome_is_hidden_until_the_planned_number_is_complete(tmp_path: Path) -> None:
    store = make_store(tmp_path, quota__complete=2)
    for finished in range(2):
        with store.database.snapshot() as db:
            assert is_hidden(db, store.study)
        complete(store, finished)
    with store.database.snapshot() as db:
        assert not is_hidden(db, store.study)
    assert look(store, "Now anybody may.", actor="me") is None


def test_an_early_look_is_in_the_audit_trail_with_its_reason(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    looks = [
        look(store, "A participant\nreported harm.", actor="me"),
        look(store, "Once more.", actor="me"),
    ]
    assert looks[0] == Look(store.now(), 1, "A participant reported harm.")
    assert early_looks(store) == looks
    noted = rows(store, "SELECT actor, object FROM audit WHERE action = 'unblind'")
    assert noted == [("me", store.study.id)] * 2
    with store.database.snapshot() as db:
        audit.verify(db)


@pytest.mark.parametrize("reason", ["", "  \n", "x" * (MAX_REASON + 1), "half of a pair \ud800"])
def test_without_a_reason_nobody_looks(tmp_path: Path, reason: str) -> None:
    store = make_store(tmp_path)
    with pytest.raises(InputError, match="reason"):
        look(store, reason, actor="me")
    assert early_looks(store) == []
    assert rows(store, "SELECT * FROM audit WHERE action = 'unblind'") == []
