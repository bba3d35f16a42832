"""The votes of a store, as an analysis of it would have them but for the participants' own ids."""

from saif.study.data.results import Population, flow_in, members
from saif.study.data.tables import tables_in, vote_of
from saif.study.participation.votes import Vote
from saif.study.store.store import Store


def votes(
    store: Store, *, preset: str | None = None, population: Population = "everyone"
) -> list[Vote]:
    """The last revision of each main trial's vote, by participant and position."""
    kept = members(store).of[population]
    with store.database.snapshot() as db:
        rows = tables_in(db, store.study, "deidentified")["trials"]
    found = [vote_of(row) for row in rows if (row["kind"], row["state"]) == ("main", "voted")]
    return [one for one in found if one.participant in kept and preset in (None, one.preset)]


def missed_checks(store: Store) -> dict[str, int]:
    return dict(members(store).missed_checks)


def flow(store: Store) -> dict[str, int]:
    with store.database.snapshot() as db:
        return flow_in(db)
