"""The study file: everything a researcher decides, in one YAML file that is read strictly.

An unknown key, a wrong type or a name used twice is refused in one line that names the field.
Whether a design is wise is another question: see `saif.study.design.check`.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from saif.core.types import Placement
from saif.errors import StudyError
from saif.files import read_yaml
from saif.study.design.questions import Preference, Question, StudyPart, Text, refuse_twice

MAX_PROBLEMS = 4
"""That are told at once."""

ArmName = Literal["unsteered", "steered", "prompted", "other"]
"""`other` is the preset under `other`, in place of the one under `presets`."""

Kind = Literal["practice", "main", "attention", "retest"]
"""What a trial is for; only main trials are analysed."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Code = Annotated[str, Field(pattern=r"^[A-Z0-9]{4,32}$")]


class PresetUse(StudyPart):
    """A preset as it is steered with. strength: 1 is the calibrated dose."""

    preset: Name
    placement: Placement
    strength: Annotated[float, Field(gt=0, le=3)] = 1.0

    @property
    def label(self) -> str:
        """Names it in plans and exports, as in `translate-french/post/1`."""
        return f"{self.preset}/{self.placement}/{self.strength:g}"


class Prompt(StudyPart):
    """A message that is sent for the participant."""

    id: Name
    text: Text


class FixedPrompts(StudyPart):
    """Everybody's messages come from one list; each participant sees a prompt at most once, other
    than in a retest. practice: for practice trials."""

    kind: Literal["fixed"]
    items: Annotated[list[Prompt], Field(min_length=1)]
    practice: list[Prompt] = Field(default_factory=list)

    @model_validator(mode="after")
    def _ids_differ(self) -> "FixedPrompts":
        refuse_twice("items", (prompt.id for prompt in [*self.items, *self.practice]))
        return self


class FreeChat(StudyPart):
    """Participants type what they like. task: what they are told to try."""

    kind: Literal["free"]
    task: Text


class Trials(StudyPart):
    """How many trials of each kind a participant has. turns: user messages per trial. retest: main
    trials that come again at the end with sides swapped.

    presets: `within`, each participant meets every preset equally often; `between`, each meets one
    (two strangers then differ in more than the preset, so it takes more participants).
    """

    main: Annotated[int, Field(ge=1, le=200)]
    practice: Annotated[int, Field(ge=0, le=10)] = 1
    retest: Annotated[int, Field(ge=0, le=50)] = 0
    turns: Annotated[int, Field(ge=1, le=20)] = 1
    presets: Literal["within", "between"] = "within"


class Generation(StudyPart):
    """How answers are drawn; both arms of a trial share their seed. quantize: load the weights in
    fewer bits; with none, an answer is token for token what it would be without the other one."""

    max_new_tokens: Annotated[int, Field(ge=1, le=2048)] = 128
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.0
    top_p: Annotated[float, Field(ge=0.01, le=1)] = 1.0
    quantize: Literal["none", "auto", "int8", "4bit"] = "none"


class AttentionCheck(StudyPart):
    """Shown in place of two answers, after main trial `after`: the text says what to choose."""

    id: Name
    after: Annotated[int, Field(ge=1)]
    text: Text
    answer: Literal["L", "R"]


class Consent(StudyPart):
    """What is agreed to. ask_to_share: also ask whether the texts may be published."""

    version: Annotated[str, Field(min_length=1, max_length=20)]
    locale: Annotated[str, Field(pattern=r"^[a-z]{2}(-[A-Z]{2})?$")] = "en"
    text: Annotated[str, Field(min_length=1, max_length=20_000)]
    ask_to_share: bool = False


class Ethics(StudyPart):
    """Shown on every page. irb: the approval's number; None where none is needed."""

    contact: Annotated[str, Field(min_length=5, max_length=200)]
    irb: Annotated[str, Field(min_length=1, max_length=100)] | None
    content_warning: Text


class LinkRecruitment(StudyPart):
    """Whoever has the link takes part, known by the key in it."""

    kind: Literal["link"]


class ProlificRecruitment(StudyPart):
    """A completion code for each ending; Prolific tells them apart."""

    kind: Literal["prolific"]
    complete: Code
    screened_out: Code
    no_consent: Code
    partial: Code

    @model_validator(mode="after")
    def _codes_differ(self) -> "ProlificRecruitment":
        refuse_twice("codes", [self.complete, self.screened_out, self.no_consent, self.partial])
        return self


class MturkRecruitment(StudyPart):
    """sandbox: hand results in to the requester's test site."""

    kind: Literal["mturk"]
    sandbox: bool


class Quota(StudyPart):
    """complete: how many finished participants to stop at; the outcome stays hidden until then.
    stale_minutes: who is away for so long loses their place to another."""

    complete: Annotated[int, Field(ge=2, le=10_000)]
    stale_minutes: Annotated[int, Field(ge=5, le=10_080)] = 120


class Resume(StudyPart):
    """What a participant who comes back finds: the same place, a fresh start, or a closed door."""

    policy: Literal["resume", "restart", "block"] = "resume"
    max_age_hours: Annotated[int, Field(ge=1, le=720)] = 24


class Study(StudyPart):
    """A whole study. id and title are seen by participants, so they must not name the hypothesis.

    arms: the two answers of a trial; the first is the one whose share of wins is estimated. other:
    the preset of the arm `other`. failed_checks: attention checks that may be missed before a
    participant is left out of the per-protocol analysis. retention_days: after the last vote, when
    the data are deleted.
    """

    schema_version: Literal[1]
    id: Name
    title: Annotated[str, Field(min_length=1, max_length=120)]
    model: Annotated[str, Field(min_length=1, max_length=200)]
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)]
    presets: Annotated[list[PresetUse], Field(min_length=1, max_length=12)]
    arms: Annotated[list[ArmName], Field(min_length=2, max_length=2)]
    other: PresetUse | None = None
    prompts: Annotated[FixedPrompts | FreeChat, Field(discriminator="kind")]
    trials: Trials
    generation: Generation = Generation()
    preference: Preference
    questions: list[Question] = Field(default_factory=list)
    attention: list[AttentionCheck] = Field(default_factory=list)
    failed_checks: Annotated[int, Field(ge=0)] = 1
    consent: Consent
    debrief: Annotated[str, Field(min_length=1, max_length=20_000)]
    ethics: Ethics
    recruitment: Annotated[
        LinkRecruitment | ProlificRecruitment | MturkRecruitment, Field(discriminator="kind")
    ]
    quota: Quota
    resume: Resume = Resume()
    retention_days: Annotated[int, Field(ge=1, le=3650)]

    @model_validator(mode="after")
    def _names_differ(self) -> "Study":
        refuse_twice("presets", (use.label for use in self.presets))
        refuse_twice("arms", self.arms)
        refuse_twice("questions", (question.id for question in self.questions))
        refuse_twice("attention", (check.id for check in self.attention))
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "Study":
        if ("other" in self.arms) != (self.other is not None):
            raise ValueError("other: give a preset here exactly if 'other' is one of the arms")
        if self.trials.presets == "within" and self.trials.main % len(self.presets):
            raise ValueError(
                f"trials.main: must be a multiple of the {len(self.presets)} presets, "
                "so that each comes equally often"
            )
        if self.trials.retest > self.trials.main:
            raise ValueError("trials.retest: there are not so many main trials")
        for check in self.attention:
            if check.after > self.trials.main:
                raise ValueError(f"attention: '{check.id}' comes after the last main trial")
        if isinstance(self.prompts, FixedPrompts):
            n = self.trials.main * self.trials.turns
            if len(self.prompts.items) < n:
                few = f"prompts.items: {n} are needed, one for each turn of each main trial"
                raise ValueError(few)
            if len(self.prompts.practice) < self.trials.practice * self.trials.turns:
                few = "prompts.practice: one is needed for each turn of a practice trial"
                raise ValueError(few)
        return self


def read_study(path: Path) -> Study:
    """The study in a YAML file. Raises StudyError naming the fields that are wrong."""
    found = None
    try:
        found = read_yaml(path)
        return Study.model_validate(found)
    except ValidationError as error:
        raise StudyError(f"{path.name}: {_problems(error, found)}.") from error
    except ValueError as error:
        tab = "found character '\\t'" in str(error)
        raise StudyError(
            f"{path.name} can't be read: {error}",
            hint="Use spaces there instead of a tab." if tab else "",
        ) from error


def _problems(error: ValidationError, document: object) -> str:
    """All that is wrong, each with its place in the file; unknown words come first, since what
    is misspelt is missing under its right name, too."""
    found = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    told = list(dict.fromkeys(f"{_place(one, document)}{_told(one)}" for one in found))
    more = f"; and {len(told) - MAX_PROBLEMS} more" if len(told) > MAX_PROBLEMS else ""
    return "; ".join(told[:MAX_PROBLEMS]) + more


def _place(one: ErrorDetails, document: object) -> str:
    """`questions 'fluent'.options (item 1): `. What the reader adds to a place, such as the kind it
    took a part for, is left out."""
    parts: list[str] = []
    here: Any = document
    for part in one["loc"]:
        if isinstance(part, int):
            here = here[part] if isinstance(here, list) and part < len(here) else None
            name = here.get("id") if isinstance(here, dict) else None
            which = f"'{name}'" if isinstance(name, str) else f"(item {part + 1})"
            parts[-1:] = [" ".join([*parts[-1:], which])]
        elif isinstance(here, dict) and part in here:
            here = here[part]
            parts.append(part)
        elif one["type"] == "missing" and part is one["loc"][-1]:
            parts.append(part)
    return ".".join(parts) + ": " if parts else ""


def _told(one: ErrorDetails) -> str:
    kind, given = one["type"], one["input"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(one["loc"][-1]), sorted(set(_names(StudyPart))), n=1)
        return f"is not known here; did you mean '{near[0]}'?" if near else "is not known here"
    if kind == "union_tag_invalid":
        return f"kind: '{one['ctx']['tag']}' is none of {one['ctx']['expected_tags']}"
    if kind == "union_tag_not_found":
        return "kind: is missing"
    if kind == "string_type" and isinstance(given, bool | int | float):
        return "must be a text: put it in quotes"
    if kind == "list_type" and given is None:
        return "must be a list; for an empty one, write []"
    said = one["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return said[:1].lower() + said[1:]


def _names(kind: type[StudyPart]) -> Iterator[str]:
    """Every word that a part of a study file may have."""
    yield from kind.model_fields
    for each in kind.__subclasses__():
        yield from _names(each)
