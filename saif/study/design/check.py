"""What is wrong or doubtful about a study, in words, before anyone takes part in it."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from saif.errors import PresetError
from saif.presets.library import Library
from saif.study.design.study_file import (
    FixedPrompts,
    FreeChat,
    PresetUse,
    ProlificRecruitment,
    Study,
)

TELLTALE = re.compile(r"steer|unsteered|preset|latent|control group|placebo", re.IGNORECASE)
"""Words that would tell a participant what is compared."""

CONSENT_SAYS = {  # what 45 CFR 46.116 and GDPR article 13 want said, and words that would say it
    "that this is research": r"research|study",
    "what participants do": r"you will|procedure|task",
    "how long it takes": r"minute|hour",
    "the risks": r"risk|offensive|upset",
    "the benefits": r"benefit",
    "what is stored": r"store|record|collect|keep|kept",
    "how long data are kept": r"delete|year|month|retention|retain",
    "that taking part is voluntary": r"voluntar",
    "how to withdraw": r"withdraw",
    "the payment": r"pay|paid|reward|compensat",
    "whom to ask": r"contact|question|e-?mail",
}


Severity = Literal["wrong", "doubtful"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`wrong` keeps a study from being published, `doubtful` does not. field: where it stands."""

    severity: Severity
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.field}: {self.message}"


def check(study: Study, library: Library) -> list[Finding]:
    """Everything that is wrong, then everything that is doubtful; empty if nothing is."""
    found = [
        *_presets(study, library),
        *_blinding(study),
        *(Finding("doubtful", field, doubt) for is_so, field, doubt in _doubts(study) if is_so),
    ]
    return sorted(found, key=lambda finding: finding.severity != "wrong")


def uses_of(study: Study) -> list[PresetUse]:
    """Every use of a preset, that of the arm `other` included."""
    return [*study.presets, *([study.other] if study.other else [])]


def _presets(study: Study, library: Library) -> Iterator[Finding]:
    for use in uses_of(study):
        field = f"presets '{use.label}'"
        try:
            preset = library.preset(study.model, use.preset).preset
        except PresetError as error:
            yield Finding("wrong", field, error.sentence)
            continue
        if preset.model.id != study.model:
            yield Finding("wrong", field, f"It was made for {preset.model.id}, not {study.model}.")
        if preset.placements[use.placement].scores is None:
            unknown = "It was never scored, so nobody knows whether it works."
            yield Finding("doubtful", field, unknown)
    if study.other in study.presets:
        yield Finding("wrong", "other", "Both arms would be the same preset.")
    if study.arms[0] == "unsteered":
        first = "The unsteered arm stands first, so its share of wins is estimated."
        yield Finding("doubtful", "arms", first)


def _blinding(study: Study) -> Iterator[Finding]:
    secrets = {use.preset for use in uses_of(study)}
    # Without its last e, `translate` is found in `translation` as well.
    words = {word for name in secrets for word in name.split("-")}
    about = "|".join(sorted(word.removesuffix("e") for word in words if len(word) > 4))
    for field, text in _seen_before_the_votes(study):
        telltale = TELLTALE.search(text)
        named = next((name for name in sorted(secrets) if name in text.lower()), None)
        if telltale:
            tells = f"'{telltale.group()}' tells participants what is compared."
            yield Finding("wrong", field, tells)
        elif named:  # a preset may be called by an ordinary word, such as `question`
            severity: Severity = "wrong" if field == "id" else "doubtful"
            yield Finding(severity, field, f"It holds the name of the preset '{named}'.")
        # Whom to put oneself in the place of, and what to agree to, may well be about that.
        elif not about or field in ("preference.text", "consent.text"):
            continue
        elif hint := re.search(rf"\b({about})", text, re.IGNORECASE):
            yield Finding("doubtful", field, f"'{hint.group()}' may tell what is compared.")
    if not any(question.kind == "guess" for question in study.questions):
        unknown = "Without one of kind 'guess', nobody knows afterwards whether the blinding held."
        yield Finding("doubtful", "questions", unknown)


def _seen_before_the_votes(study: Study) -> Iterator[tuple[str, str]]:
    yield "id", study.id
    yield "title", study.title
    yield "consent.text", study.consent.text
    yield "ethics.content_warning", study.ethics.content_warning
    yield "preference.text", study.preference.text
    for label in study.preference.strength:
        yield "preference.strength", label
    if isinstance(study.prompts, FreeChat):
        yield "prompts.task", study.prompts.task
    for question in study.questions:
        if question.when != "end":
            words = [question.text]
            if question.kind == "choice":
                words += question.options
            elif question.kind == "likert":
                words += [question.low, question.high]
            yield f"questions '{question.id}'", " / ".join(words)
    for attention in study.attention:
        yield f"attention '{attention.id}'", attention.text


def _doubts(study: Study) -> Iterator[tuple[bool, str, str]]:
    """Whether each doubt applies, the field that it is about, and the doubt."""
    trials, prompts, n_checks = study.trials, study.prompts, len(study.attention)
    if study.consent.locale.startswith("en"):
        for what, words in CONSENT_SAYS.items():
            said = re.search(words, study.consent.text, re.IGNORECASE)
            yield not said, "consent.text", f"It doesn't seem to say {what}."
        told = re.search(r"steer|chang|differ", study.debrief, re.IGNORECASE)
        yield not told, "debrief", "It doesn't seem to say what was compared."
    yield (
        isinstance(prompts, FreeChat) and not study.consent.ask_to_share,
        "consent.ask_to_share",
        "What participants type can't be published unless they are asked.",
    )
    yield study.ethics.irb is None, "ethics.irb", "No ethics approval is named."
    n = trials.main if trials.presets == "between" else trials.main // len(study.presets)
    unequal = f"{n} trials per preset can't put each arm on the left equally often."
    yield n % 2 == 1, "trials.main", unequal
    yield not trials.practice, "trials.practice", "The first vote would be a first try."
    unsteady = "Without a retest, nobody knows how steady the votes are."
    yield not trials.retest, "trials.retest", unsteady
    if isinstance(prompts, FixedPrompts):
        few = (
            f"With only {len(prompts.items)} prompts, the interval has to allow for how much they "
            "differ; more prompts narrow it."
        )
        yield len(prompts.items) < 10, "prompts.items", few
        for text, n in Counter(item.text.strip() for item in prompts.items).items():
            yield n > 1, "prompts.items", f"'{text[:60]}' is there {n} times."
    yield not n_checks, "attention", "Nothing would show who votes without reading."
    if isinstance(study.recruitment, ProlificRecruitment):
        yield n_checks == 1, "attention", "Prolific rejects nobody for a single failed check."
    lenient = study.failed_checks >= n_checks > 0
    yield lenient, "failed_checks", "So many may be missed that none matters."
    few = "Fewer than 15 participants show only large effects."
    yield study.quota.complete < 15, "quota.complete", few
