"""How well the model's own likelihoods tell what a reply is about; run by `make slow`.

Reference translations are replies that surely are about their sentence, shuffled ones surely not.
"""

import os
import random
from pathlib import Path

import pytest

from saif.core.relevance import N_DISTRACTORS, is_relevant
from saif.engine.local import LocalEngine
from saif.experiments.datasets import sentence_pairs, split_of
from saif.presets.instructions import place
from saif.presets.library import Library
from saif.runtime.language_model import LanguageModel

N = 100


def _pairs() -> list[tuple[str, str]]:
    folder = Path(os.environ.get("SAIF_DATA", "nowhere"))
    files = sorted(folder.glob("*fra.tsv.gz"))
    if not files:
        pytest.skip("SAIF_DATA names no folder with French sentence pairs")
    pairs = {
        english: other
        for english, other in sentence_pairs(files[0])
        if 5 <= len(english.split()) <= 14 and split_of(english) == "held-out"
    }
    return random.Random(0).sample(sorted(pairs.items()), N)


def _rate(model: LanguageModel, pairs: list[tuple[str, str]], shift: int) -> float:
    """Share of replies judged to be about the sentence `shift` places on."""
    wording = Library().instruction("translate-french").main_wording
    messages = [place(wording, english, "pre") for english, _ in pairs]
    prompts = [model.render([{"role": "user", "content": text}]) for text in messages]
    places = range(1 + N_DISTRACTORS)
    about = 0
    for i, (_, translation) in enumerate(pairs):
        reply = model.encode_text(translation)
        rows = [(prompts[(i + shift + step) % len(pairs)], reply) for step in places]
        own, *others = [float(scores.sum()) for scores in model.log_probabilities(rows)]
        about += is_relevant(own, others)
    return about / len(pairs)


@pytest.mark.slow
@pytest.mark.embedded
def test_translations_are_about_their_sentence_and_shuffled_ones_are_not(
    embedded: LocalEngine, record_property: pytest.FixtureRequest
) -> None:
    pairs = _pairs()
    own, shuffled = (
        _rate(embedded.language_model, pairs, 0),
        _rate(embedded.language_model, pairs, 7),
    )
    record_property("about", own)  # type: ignore[operator]
    record_property("about, shuffled", shuffled)  # type: ignore[operator]
    assert own >= 0.85, f"{own:.2f} of the right translations, {shuffled:.2f} of shuffled ones"
    assert shuffled <= 0.18, f"{own:.2f} of the right translations, {shuffled:.2f} of shuffled ones"
