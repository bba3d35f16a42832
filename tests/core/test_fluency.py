"""What counts as degenerate, and what is ordinary text in any language."""

import math

import pytest

from saif.core.fluency import Fluency, fluency, has_glued_words, perplexity_bound


def problems(
    token_ids: list[int], text: str = "Fine.", perplexity: float | None = 10.0
) -> list[str]:
    return fluency(token_ids, text, perplexity).problems(50.0)


@pytest.mark.parametrize(
    "text",
    [
        "IsWhyWhereHow",
        "What does it? IsWhyWhereHow it",
        "LaMaisonÉtéVert",
        "x" * 31,
        "Ein " + "wort" * 8,
    ],
)
def test_words_run_together_are_found(text: str) -> None:
    assert has_glued_words(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The weather is lovely today.",
        "L'été, c'est l'anniversaire d'Éléonore à Aix-en-Provence, n'est-ce pas ?",
        "Es gibt keine Geschwindigkeitsbegrenzung auf der Autobahn.",
        "Die Rechtsschutzversicherungen und Wohltätigkeitsorganisationen zahlen.",
        "El niño vio a McDonald en YouTube con su iPhone; USA y OTAN, según eBay.",
        "¿Por qué? ¡Porque sí!",
        "anticonstitutionnellement",
        "read_the_file_and_return_its_contents(path_of_the_file)",
        "https://example.org/a/very/long/address/that/goes/on/and/on",
        "Привет, как дела сегодня?",
    ],
)
def test_ordinary_words_are_not_glued(text: str) -> None:
    assert not has_glued_words(text)


def test_a_fluent_reply_has_no_problems() -> None:
    assert problems(list(range(20))) == []


def test_a_loop_repeats_itself() -> None:
    assert problems([1, 2, 3, 4, 5] * 4) == ["repeats itself"]


def test_one_token_over_and_over_dominates() -> None:
    assert "one token dominates" in problems([7] * 10)
    assert problems([7, 1, 7, 2, 7, 3, 4]) == ["one token dominates"]


def test_a_very_short_reply_is_not_called_repetition() -> None:
    assert problems([1, 2]) == []
    assert problems([7, 7]) == []
    assert problems([]) == []


def test_the_numbers_are_what_a_person_would_count() -> None:
    found = fluency([1, 2, 1, 2, 1, 2], "ok", 3.0)
    assert found == Fluency(distinct_2=2 / 5, top_share=0.5, glued=False, perplexity=3.0)


@pytest.mark.parametrize(
    ("perplexity", "beyond"),
    [(50.0, False), (50.1, True), (math.inf, True), (math.nan, True), (None, False)],
)
def test_perplexity_is_held_against_the_bound(perplexity: float | None, beyond: bool) -> None:
    found = problems(list(range(9)), perplexity=perplexity)
    assert found == (["perplexity beyond the bound"] if beyond else [])


def test_the_bound_is_twice_the_95th_percentile_of_the_prompted_replies() -> None:
    assert perplexity_bound([float(n) for n in range(1, 101)]) == 2 * 96
    assert perplexity_bound([3.0]) == 6.0
    assert perplexity_bound([5.0] * 99 + [1e6]) == 10.0


def test_replies_without_a_perplexity_do_not_move_the_bound() -> None:
    assert perplexity_bound([3.0, math.nan, math.inf, 3.0]) == 6.0
    assert perplexity_bound([]) == math.inf
    assert perplexity_bound([math.nan]) == math.inf
