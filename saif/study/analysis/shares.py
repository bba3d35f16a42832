"""A share with the interval that fits how the votes hang together."""

from collections import Counter
from collections.abc import Sequence

from saif.study.analysis.estimates import Estimate, estimate, estimate_two_way
from saif.study.analysis.results import Clusters, Share
from saif.study.participation.votes import Score


def best_estimate(scores: Sequence[Score]) -> tuple[Estimate, Clusters]:
    """Votes on the same prompt count as alike, too, where prompts were shared and there are at
    least two of them. Raises InputError without scores."""
    seen_by = Counter(
        prompt for prompt, _ in {(score.prompt, score.participant) for score in scores}
    )
    if None not in seen_by and len(seen_by) > 1 and max(seen_by.values()) > 1:
        return estimate_two_way(scores), "participants and prompts"
    return estimate(scores), "participants"


def share(scores: Sequence[Score], *, prompts: bool = True) -> Share:
    """The mean over participants. prompts: cluster by prompt as well, where they were shared."""
    if not scores:
        return Share(
            None, None, None, "none", "participants", 0, 0, None, None, "There are no votes."
        )
    found, clusters = best_estimate(scores) if prompts else (estimate(scores), "participants")
    if found.variance is None:
        return Share(
            found.value, None, None, "none", clusters, found.n_participants, found.n_votes, None,
            None, "One participant alone has no interval.",
        )  # fmt: skip
    low, high = found.headline()
    return Share(
        value=found.value,
        low=low,
        high=high,
        method="Clopper–Pearson on n_eff" if found.exact else "Wilson on n_eff",
        clusters=clusters,
        n_participants=found.n_participants,
        n_votes=found.n_votes,
        n_eff=found.n_eff(),
        design_effect=found.design_effect,
    )
