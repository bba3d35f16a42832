"""A study, analysed: everything that is planned to be reported, in one value."""

import json
from dataclasses import asdict
from typing import Any

from saif.study.analysis.data import StudyData
from saif.study.analysis.outcome import outcomes
from saif.study.analysis.quality import quality
from saif.study.analysis.questions import questions
from saif.study.analysis.regression import models
from saif.study.analysis.results import Analysis
from saif.study.analysis.wording import limits, summary
from saif.study.data.unblinding import too_early


def analyse(data: StudyData, *, looked: bool = False, texts: bool = False) -> Analysis:
    """All of it. looked: somebody wrote down why they look early (`saif.study.data.unblinding`).
    texts: quote free answers, where the data hold them.

    Raises StudyError where the outcome of a running study is not to be shown yet;
    `saif.study.analysis.quality` says what may be. Raises InputError where a vote is there twice.
    """
    study = data.version.study
    if data.hidden and not looked:
        raise too_early(study, data.flow["complete"])
    found = quality(data)
    presets = outcomes(data)
    return Analysis(
        study=study.id,
        title=study.title,
        version=data.version.id,
        model=study.model,
        arms=(study.arms[0], study.arms[1]),
        made_up={row["source"] for row in data.tables["participants"]} == {"bot"},
        looks=data.looks,
        presets=presets,
        models=models(data),
        questions=questions(data, texts=texts),
        quality=found,
        summary=tuple(summary(presets, study)),
        limits=tuple(limits(presets, found, data)),
    )


def as_json(found: object) -> str:
    """An analysis, or a part of it, as a JSON document."""
    document: dict[str, Any] = asdict(found)  # type: ignore[call-overload]
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
