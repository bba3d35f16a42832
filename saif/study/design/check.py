"""What is wrong or doubtful about a study, in words, before anyone takes part in it."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from saif.errors import PresetError
from saif.presets.library import Library
from saif.study.design.questions import Question
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
        *_consent(study),
        *_trials(study),
        *_recruitment(study),
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
            yield Finding(
                "doubtful", field, "It was never scored, so nobody knows whether it works."
            )
    if study.other in study.presets:
        yield Finding("wrong", "other", "Both arms would be the same preset.")
    if study.arms[0] == "unsteered":
        yield Finding(
            "doubtful", "arms", "The unsteered arm stands first, so its share of wins is estimated."
        )


def _blinding(study: Study) -> Iterator[Finding]:
    secrets = {use.preset for use in uses_of(study)}
    # Without its last e, `translate` is found in `translation` as well.
    words = {word for name in secrets for word in name.split("-")}
    about = "|".join(sorted(word.removesuffix("e") for word in words if len(word) > 4))
    for field, text in _seen_before_the_votes(study):
        telltale = TELLTALE.search(text)
        named = next((name for name in sorted(secrets) if name in text.lower()), None)
        if telltale:
            yield Finding(
                "wrong", field, f"'{telltale.group()}' tells participants what is compared."
            )
        elif named:  # a preset may be called by an ordinary word, such as `question`
            severity: Severity = "wrong" if field == "id" else "doubtful"
            yield Finding(severity, field, f"It holds the name of the preset '{named}'.")
        # Whom to put oneself in the place of, and what to agree to, may well be about that.
        elif not about or field in ("preference.text", "consent.text"):
            continue
        elif hint := re.search(rf"\b({about})", text, re.IGNORECASE):
            yield Finding("doubtful", field, f"'{hint.group()}' may tell what is compared.")
    if not any(question.kind == "guess" for question in study.questions):
        yield Finding(
            "doubtful",
            "questions",
            "Without one of kind 'guess', nobody knows afterwards whether the blinding held.",
        )


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
            yield f"questions '{question.id}'", " / ".join([question.text, *_options(question)])
    for attention in study.attention:
        yield f"attention '{attention.id}'", attention.text


def _options(question: Question) -> Iterator[str]:
    if question.kind == "choice":
        yield from question.options
    elif question.kind == "likert":
        yield from (question.low, question.high)


def _consent(study: Study) -> Iterator[Finding]:
    if study.consent.locale.startswith("en"):
        for what, words in CONSENT_SAYS.items():
            if not re.search(words, study.consent.text, re.IGNORECASE):
                yield Finding("doubtful", "consent.text", f"It doesn't seem to say {what}.")
        if not re.search(r"steer|chang|differ", study.debrief, re.IGNORECASE):
            yield Finding("doubtful", "debrief", "It doesn't seem to say what was compared.")
    if isinstance(study.prompts, FreeChat) and not study.consent.ask_to_share:
        yield Finding(
            "doubtful",
            "consent.ask_to_share",
            "What participants type can't be published unless they are asked.",
        )
    if study.ethics.irb is None:
        yield Finding("doubtful", "ethics.irb", "No ethics approval is named.")


def _trials(study: Study) -> Iterator[Finding]:
    trials = study.trials
    per_preset = trials.main if trials.presets == "between" else trials.main // len(study.presets)
    if per_preset % 2:
        yield Finding(
            "doubtful",
            "trials.main",
            f"{per_preset} trials per preset can't put each arm on the left equally often.",
        )
    if not trials.practice:
        yield Finding("doubtful", "trials.practice", "The first vote would be a first try.")
    if not trials.retest:
        yield Finding(
            "doubtful", "trials.retest", "Without a retest, nobody knows how steady the votes are."
        )
    if isinstance(study.prompts, FixedPrompts) and len(study.prompts.items) < 10:
        yield Finding(
            "doubtful",
            "prompts.items",
            f"With only {len(study.prompts.items)} prompts, the interval has to allow for how much "
            "they differ; more prompts narrow it.",
        )
    if isinstance(study.prompts, FixedPrompts):
        for text, n in Counter(item.text.strip() for item in study.prompts.items).items():
            if n > 1:
                yield Finding("doubtful", "prompts.items", f"'{text[:60]}' is there {n} times.")
    if not study.attention:
        yield Finding("doubtful", "attention", "Nothing would show who votes without reading.")


def _recruitment(study: Study) -> Iterator[Finding]:
    if isinstance(study.recruitment, ProlificRecruitment) and len(study.attention) == 1:
        yield Finding("doubtful", "attention", "Prolific rejects nobody for a single failed check.")
    if study.failed_checks >= len(study.attention) > 0:
        yield Finding("doubtful", "failed_checks", "So many may be missed that none matters.")
    if study.quota.complete < 15:
        yield Finding(
            "doubtful", "quota.complete", "Fewer than 15 participants show only large effects."
        )
