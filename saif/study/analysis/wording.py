"""What was found, and what limits it, in sentences: for the report's top and for the terminal."""

from collections.abc import Iterator, Sequence

from saif.study.analysis.data import StudyData
from saif.study.analysis.estimates import Share
from saif.study.analysis.quality import Quality
from saif.study.analysis.results import PresetOutcome
from saif.study.design.study_file import FreeChat, Study

FEWEST = 10
"""Answers from which it is said what people do; fewer are only counted."""


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(found: Share) -> str:
    """`52.1 % to 68.0 %`, or why there is none."""
    if found.low is None or found.high is None:
        return found.note
    return f"{percent(found.low)} to {percent(found.high)}"


def p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def summary(found: Sequence[PresetOutcome], study: Study) -> list[str]:
    """What was estimated, then a sentence for each preset."""
    first, second = study.arms
    return [
        f"Estimated: the mean over participants of the share of their votes that prefer '{first}' "
        f"over '{second}', a tie (or both bad) counting ½; 50 % is no preference.",
        *(_outcome(one, len(found), study.arms) for one in found),
    ]


def _outcome(found: PresetOutcome, n_presets: int, arms: Sequence[str]) -> str:
    share = found.share
    if share.value is None:
        return f"{found.preset}: no votes yet."
    n = f"{share.n_votes} votes of {_number(share.n_participants, 'participant')}"
    told = f"{found.preset}: {percent(share.value)} ({n}"
    if share.low is None or found.tests is None:
        return f"{told}). {share.note}"
    told += f"; 95 % interval {interval(share)}, {share.method}, {share.clusters} as clusters). "
    tests = found.tests
    if tests.p is None:
        told += f"Permutation test of no preference: {p_value(tests.sign_flip)}"
    else:
        told += f"Test of no preference: t({tests.df}) = {tests.t:.2f}, {p_value(tests.p)}"
    if n_presets > 1:
        told += f", adjusted for {n_presets} presets (Holm) {p_value(tests.holm)}"
    # Two methods that agree but for a digit; what a reader sees must not contradict itself.
    apart = share.high is None or not share.low <= 0.5 <= share.high
    if tests.holm < 0.05 and apart:
        return f"{told}. '{arms[0 if share.value > 0.5 else 1]}' is preferred."
    if tests.equivalent is not None and tests.equivalent < 0.05:
        return f"{told}. Within {100 * tests.margin:.0f} points of no preference."
    return f"{told}. Not settled: neither a preference nor its absence is shown."


def limits(found: Sequence[PresetOutcome], seen: Quality, data: StudyData) -> Iterator[str]:
    """What a reader has to know before believing the summary."""
    study, flow = data.version.study, seen.flow
    yield from seen.notes
    if flow["complete"] < flow["planned"] and not data.made_up:
        yield (
            f"Interim: {flow['complete']} of {flow['planned']} planned participants are complete. "
            "Deciding by such a look whether to go on would make its p values too small."
        )
    if data.looks:
        yield (
            f"The outcome was looked at {_number(len(data.looks), 'time')} before the planned "
            "number of participants was complete."
        )
    for one in found:
        for note in one.notes:
            yield f"{one.preset}: {note}"
    if 0 < flow["voted"] < 15:
        yield "So few participants show only large effects."
    left = seen.left
    if left.low is not None and left.high is not None and not left.low <= 0.5 <= left.high:
        yield (
            f"The answer on the left was preferred in {percent(left.value)} ({interval(left)}): "
            "position matters. Sides were balanced, so this adds noise and no bias."
        )
    yield from _blinding(seen)
    steady = seen.steadiness
    if steady and steady.pairs >= FEWEST and (steady.flips.value or 0) > 0.4:
        yield (
            "Shown the same two answers again, participants often chose differently "
            f"({percent(steady.flips.value)} of {steady.pairs} pairs)."
        )
    if isinstance(study.prompts, FreeChat):
        yield "Participants wrote their own messages, so they judged different answers."
    elif data.answers_are_shared:
        yield (
            "All judged the same answers, written without chance: the result is about these "
            "answers as much as about the arms."
        )
    yield f"It holds for {study.model}, these messages, and people recruited like these."


def quality_in_words(seen: Quality) -> Iterator[str]:
    """How good the data are, without a word on the outcome."""
    flow, times = seen.flow, seen.times
    yield (
        f"Participants: {flow['consented']} agreed, {flow['complete']} of {flow['planned']} "
        f"finished, {flow['going_on']} still taking part, {flow['missed_checks']} missed too many "
        "checks."
    )
    yield (
        f"Votes: {seen.votes}, of them {seen.ties} ties, {seen.both_bad} both bad, {seen.skips} "
        f"skipped; {sum(seen.voids.values())} comparisons were called off."
    )
    yield f"Left answer preferred: {percent(seen.left.value)} ({interval(seen.left)})."
    if times.median is not None:
        yield f"Time to a vote: median {times.median:.1f} s; {times.hasty} under one second."
    if seen.steadiness:
        yield f"Shown again, changed: {percent(seen.steadiness.flips.value)}."
    yield from _blinding(seen)
    yield from (f"{one.id}: {one.missed} of {one.answered} missed it." for one in seen.attention)


def _blinding(seen: Quality) -> Iterator[str]:
    blind = seen.blinding
    if blind.index is None:
        yield f"Whether the blinding held is not known. {blind.note}"
    elif blind.right + blind.wrong + blind.unsure < FEWEST:
        yield "Too few were asked which answer was changed to say whether the blinding held."
    elif blind.low is not None and blind.low > 0:
        yield (
            f"Participants could tell which answer was changed (Bang's index {blind.index:.2f}), "
            "so some votes may be about that."
        )


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
