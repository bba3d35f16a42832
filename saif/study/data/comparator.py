"""Votes and answers as LLM Comparator reads them, a viewer for slices of side-by-side judgements.

Scores run from -1.5 (the second arm is much better) to 1.5 (the first is); answers A are those of
the study's first arm. https://github.com/PAIR-code/llm-comparator describes the format.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from saif.study.data.tables import Row, Value, vote_of
from saif.study.design.study_file import Study

BEST = 1.5
UNGRADED = 1.0
"""The score of a vote for an arm in a study that asks for no strength."""


def comparator(study: Study, found: Mapping[str, Sequence[Row]]) -> dict[str, Any] | None:
    """The document, from the tables of an export. Identical answers to the same message are one
    example with several ratings. None where no text may be shown, or there is none."""
    texts = _texts(found["turns"])
    examples: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for row in found["trials"]:
        rated = (row["kind"], row["state"]) == ("main", "voted") and row["choice"] != "skip"
        if rated and row["trial"] in texts:
            message, left, right = texts[row["trial"]]
            flipped = row["left_arm"] != study.arms[0]
            answers = (right, left) if flipped else (left, right)
            rationale = str(row["reason"] or "")
            examples.setdefault((str(row["preset"]), message, *answers), []).append(
                {"is_flipped": flipped, "score": score(study, row), "rationale": rationale}
            )
    if not examples:
        return None
    return {
        "metadata": {
            "source_path": study.id,
            "custom_fields_schema": [
                {"name": "preset", "type": "category"},
                {"name": "ratings", "type": "number"},
            ],
        },
        "models": [{"name": arm} for arm in study.arms],
        "examples": [
            {
                "input_text": message,
                "tags": [preset],
                "output_text_a": first,
                "output_text_b": second,
                "score": sum(rating["score"] for rating in ratings) / len(ratings),
                "individual_rater_scores": ratings,
                "custom_fields": {"preset": preset, "ratings": len(ratings)},
            }
            for (preset, message, first, second), ratings in sorted(
                examples.items(), key=lambda example: example[0]
            )
        ],
    }


def _texts(exchanges: Sequence[Row]) -> dict[Value, list[str]]:
    """trial -> messages, left answers and right answers; without those that are kept back."""
    parts: dict[Value, list[list[Value]]] = {}
    for row in sorted(exchanges, key=lambda row: int(row["turn"] or 0)):
        shown = [row[name] for name in ("user_text", "left_text", "right_text")]
        parts.setdefault(row["trial"], []).append(shown)
    return {
        trial: ["\n\n".join(map(str, column)) for column in zip(*shown, strict=True)]
        for trial, shown in parts.items()
        if not any(text is None for texts in shown for text in texts)
    }


def score(study: Study, row: Row) -> float:
    """Of one vote: the sign says for whom, the size how strongly."""
    preferred = vote_of(row).preferred
    if preferred is None:
        return 0.0
    labels, strength = study.preference.strength, row["strength"]
    size = UNGRADED if strength is None else BEST * int(strength) / len(labels)
    return size if preferred == study.arms[0] else -size
