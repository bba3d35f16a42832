"""Every check on texts that do and don't do what was asked, as a small model writes them."""

import pytest

from saif.core.verifiers import Check, detect_language, follows, words

CONTENT = "The weather is lovely today."
PASSAGE = (
    "Anna woke up early because the rooster was loud. She fed the chickens, swept the yard and "
    "walked to school with her two brothers. On the way they saw a fox that ran into the grass."
)
FRENCH, SPANISH, GERMAN = (
    Check(kind="language", language=language) for language in ("fr", "es", "de")
)
LIST, QUESTION, VERSE, LETTER, CODE, SUMMARY = (
    Check(kind=kind) for kind in ("list", "question", "verse", "letter", "code", "summary")
)

DOES = [
    (FRENCH, "Le temps est magnifique aujourd'hui."),
    (FRENCH, "La pluie est belle aujourd'hui.\n\nLa pluie est belle."),
    (FRENCH, "LE TEMPS EST BEAU AUJOURD'HUI"),
    (SPANISH, "El tiempo es hermoso hoy."),
    (GERMAN, "Das Wetter ist heute schön."),
    (LIST, "Here are some points:\n- The sun shines\n- It is warm"),
    (LIST, "* warm\n* sunny\n* dry"),
    (LIST, "• One\n• Two"),
    (LIST, "1. The weather is lovely.\n2. It is today."),
    (LIST, "1) warm\n2) dry"),
    (LIST, "Key points: 1. It is warm. 2. It is sunny."),
    (QUESTION, "What is the weather like today?"),
    (QUESTION, '"How is the weather?" she asked.'),
    (QUESTION, "Is the weather lovely today? It is sunny and warm."),
    (QUESTION, "¿Qué tiempo hace hoy?"),
    (QUESTION, "Isn't it lovely?!"),
    (QUESTION, "**Is the weather 3.5 degrees warmer?**"),
    (VERSE, "The sun is bright,\nThe sky is blue,\nThe day is light,\nAnd so are you."),
    (VERSE, "In the night when shadows play\nOn the moon's light\nI dream of day\n\nAnd sing"),
    (LETTER, "Dear friend,\n\nThe weather is lovely today.\n\nYours,\nAnna"),
    (LETTER, "My dearest Anna,\nI hope this finds you well."),
    (LETTER, "Subject: The weather\n\nDear [Name],\nI am writing to you"),
    (LETTER, "To whom it may concern:\nThe weather is lovely."),
    (LETTER, '"Dear Sir or Madam, I write'),
    (CODE, "```python\nprint('lovely')\n```"),
    (CODE, "def weather():\n    return 'lovely'"),
    (CODE, "Here is the code:\nimport numpy as np\n\nx = 1"),
    (CODE, "from os.path import join"),
    (CODE, "class Weather:\n    pass"),
    (CODE, "for day in week:  # all\n    ..."),
    (SUMMARY, "Anna walked to school with her brothers."),
    (SUMMARY, "A girl fed chickens, walked to school and saw a fox."),
]
DOES_NOT = [
    (FRENCH, "The weather is lovely today."),
    (FRENCH, "That is French for a lovely day in Paris, France."),
    (FRENCH, "El tiempo es hermoso hoy."),
    (SPANISH, "O tempo está muito bonito hoje, não é verdade?"),
    (GERMAN, "Het weer is vandaag heel mooi, vind je niet?"),
    (LIST, "The weather is lovely today."),
    (LIST, "- The weather is lovely today."),  # one bullet is a dash, no list
    (LIST, "It was -5 degrees - cold - in 1999."),
    (LIST, "In 2. Bundesliga they won 1.5 games."),
    (LIST, "well-known\nwell-made"),
    (QUESTION, "The weather is lovely today."),
    (QUESTION, "It is lovely. Is it not?"),
    (QUESTION, "The question is what the weather is like"),
    (QUESTION, "Wow!"),
    (VERSE, "The weather is lovely today and I think we should all go out to the park."),
    (VERSE, "- The sun\n- The sky\n- The sea and\n- The land"),
    (VERSE, "The sun is bright,\nThe sky is blue."),
    (VERSE, "```python\nx = one two\ny = three four\nz = five six\n```"),
    (LETTER, "The weather is lovely today, dear friend."),
    (LETTER, "Dearth of rain made the fields dry."),
    (LETTER, "Write a letter: Dear Anna"),
    (CODE, "The weather is lovely today."),
    (CODE, "class sizes are small here\nimport duties are high\nfor people in France: hello"),
    (CODE, "I will define a function from the import menu."),
    (SUMMARY, PASSAGE),
    (SUMMARY, "Anna school"),
    (SUMMARY, "It is a nice story that I like very much."),
    (SUMMARY, "Yes."),
]


@pytest.mark.parametrize(("check", "reply"), DOES)
def test_a_reply_that_does_what_was_asked(check: Check, reply: str) -> None:
    assert follows(check, reply, PASSAGE if check is SUMMARY else CONTENT)


@pytest.mark.parametrize(("check", "reply"), DOES_NOT)
def test_a_reply_that_does_something_else(check: Check, reply: str) -> None:
    assert not follows(check, reply, PASSAGE if check is SUMMARY else CONTENT)


@pytest.mark.parametrize("check", [FRENCH, LIST, QUESTION, VERSE, LETTER, CODE, SUMMARY])
@pytest.mark.parametrize("reply", ["", "   \n\n ", "...", "?!"[:0]])
def test_an_empty_reply_does_nothing(check: Check, reply: str) -> None:
    assert not follows(check, reply, PASSAGE)


def test_the_language_of_several_lines_and_of_none() -> None:
    assert detect_language("Das Wetter ist schön.\n\nDie Sonne scheint.") == "de"
    assert detect_language("The weather is lovely today. " * 400) == "en"
    assert detect_language(" \n ") == ""


def test_words_are_lower_case_and_keep_their_apostrophe() -> None:
    assert words("L'été, c’est “Bon”! It's 3 o'clock_") == [
        "l'été",
        "c’est",
        "bon",
        "it's",
        "3",
        "o'clock",
    ]


@pytest.mark.parametrize("options", [{"kind": "language"}, {"kind": "list", "language": "fr"}])
def test_a_language_goes_with_the_language_check_and_no_other(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="language"):
        Check(**options)
