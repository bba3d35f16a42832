"""The decode loop: what is drawn, when a row ends, and what text comes out."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tiny import tiny_model, tiny_steering, tiny_tokenizer
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from saif.core.types import SPANS, Span
from saif.decoding import RowStep, Sampling, _nucleus, _penalise, _SharedNoise, choose, decode
from saif.errors import InputError
from saif.runtime.batch import Batch, Row, StepResult
from saif.runtime.language_model import LanguageModel
from saif.runtime.prefix_cache import PrefixCache

END = 257
PROMPTS = [list(b"Hi"), list(b"Tell me about the sea."), list(b"What? ")]
NOTHING_SEEN = torch.tensor([], dtype=torch.long)


class ScriptedModel:
    """Says what it is told to: per row a list of tokens, each the likeliest at its step."""

    def __init__(self, *scripts: Sequence[int]) -> None:
        self.tokenizer = tiny_tokenizer()
        self.end_ids = frozenset({END})
        self.turn_end: str | None = None
        self.scripts = list(scripts)
        self.alive = list(range(len(scripts)))
        self.n_steps = 0

    def _result(self) -> StepResult:
        logits = torch.zeros(len(self.alive), 258)
        for place, row in enumerate(self.alive):
            logits[place, self.scripts[row][self.n_steps]] = 30.0
        self.n_steps += 1
        return StepResult(logits, (0,) * len(self.alive))

    def prefill(
        self, rows: Sequence[Row], *, cache: PrefixCache | None = None
    ) -> tuple["ScriptedModel", StepResult]:
        return self, self._result()

    def decode_step(self, batch: "ScriptedModel", token_ids: Sequence[int]) -> StepResult:
        return self._result()

    def keep(self, rows: Sequence[int]) -> None:
        """As a batch does, which it plays as well."""
        self.alive = [self.alive[row] for row in rows]


def run(model, rows: Sequence[Row], **options) -> list[list[RowStep]]:
    """Each row's own steps."""
    found: list[list[RowStep]] = [[] for _ in rows]
    for step in decode(model, rows, **options):
        for row_step in step:
            found[row_step.row].append(row_step)
    return found


def tokens(steps: Sequence[RowStep]) -> list[int]:
    return [step.token_id for step in steps if step.token_id is not None]


def say(*scripts: Sequence[int], **sampling) -> list[list[RowStep]]:
    plain = Sampling(repetition_penalty=1.0, **sampling)
    rows = [Row([65], sampling=plain) for _ in scripts]
    return run(ScriptedModel(*scripts), rows)


# Agreement with transformers


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_text_agrees_with_generate(seed: int, penalty: float) -> None:
    model = tiny_model(seed)
    sampling = Sampling(max_new_tokens=24, repetition_penalty=penalty)
    found = run(model, [Row(ids, sampling=sampling) for ids in PROMPTS])
    for ids, steps in zip(PROMPTS, found, strict=True):
        expected = model._model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            do_sample=False,
            max_new_tokens=24,
            repetition_penalty=penalty,
            pad_token_id=END,
        )[0, len(ids) :].tolist()
        assert tokens(steps) == [token for token in expected if token != END]


def test_greedy_text_that_ends_early_agrees_with_generate() -> None:
    model = tiny_model()
    model._model.get_output_embeddings().weight.data[END] *= 3  # an end that comes soon
    sampling = Sampling(max_new_tokens=60, repetition_penalty=1.0)
    ended = 0
    for ids in PROMPTS:
        expected = model._model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=60, pad_token_id=END
        )[0, len(ids) :].tolist()
        (steps,) = run(model, [Row(ids, sampling=sampling)])
        assert tokens(steps) == [token for token in expected if token != END]
        assert (steps[-1].stop == "end") == (expected[-1] == END)
        ended += steps[-1].stop == "end"
    assert ended


@given(seed=st.integers(0, 1000), penalty=st.floats(0.5, 2.0))
@settings(max_examples=30, deadline=None)
def test_the_repetition_penalty_is_transformers_own(seed: int, penalty: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(20, generator=generator)
    seen = torch.randint(0, 20, (8,), generator=generator)  # with repeats
    before = logits.clone()
    expected = RepetitionPenaltyLogitsProcessor(penalty)(seen[None], logits[None].clone())[0]
    torch.testing.assert_close(_penalise(logits, seen, penalty), expected)
    assert torch.equal(logits, before)


# Rows are independent


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("span", SPANS)
def test_a_row_equals_its_solo_run(model: LanguageModel, span: Span, temperature: float) -> None:
    """Mixed lengths, seeds and steerings; rows end at different steps."""
    rows = [
        Row(
            token_ids=ids,
            steering=steering,
            sampling=Sampling(max_new_tokens=n, temperature=temperature, seed=seed, top_p=0.95),
        )
        for ids, steering, n, seed in [
            (PROMPTS[0], tiny_steering(1, span=span), 12, 0),
            (PROMPTS[1], None, 6, 0),
            (PROMPTS[2], tiny_steering(2, span="all", seed=4), 9, 3),
            (PROMPTS[1] * 3, tiny_steering(3, span=span, seed=5), 12, 3),
        ]
    ]
    together = run(model, rows)
    for place, row in enumerate(rows):
        (alone,) = run(model, [row])
        assert [(s.token_id, s.text, s.steered, s.stop) for s in together[place]] == [
            (s.token_id, s.text, s.steered, s.stop) for s in alone
        ]


def test_rows_with_equal_logits_and_seed_draw_equal_tokens(model: LanguageModel) -> None:
    sampling = Sampling(max_new_tokens=20, temperature=1.0, seed=5)
    row = Row(PROMPTS[1], sampling=sampling)
    first, second, third = run(model, [row, row, row])
    assert tokens(first) == tokens(second) == tokens(third)


def test_another_seed_draws_other_tokens_and_the_same_seed_the_same(model: LanguageModel) -> None:
    rows = [
        Row(PROMPTS[1], sampling=Sampling(max_new_tokens=20, temperature=1.0, seed=s))
        for s in (1, 2)
    ]
    first, second = run(model, rows)
    assert tokens(first) != tokens(second)
    assert [tokens(first), tokens(second)] == [tokens(steps) for steps in run(model, rows)]


def test_noise_differs_from_step_to_step_and_is_shared_within_one() -> None:
    noise = _SharedNoise()
    noise.next_step()
    first = noise.gumbel(0, 50)
    assert torch.equal(noise.gumbel(0, 50), first)
    assert not torch.equal(noise.gumbel(1, 50), first)
    noise.next_step()
    assert not torch.equal(noise.gumbel(0, 50), first)


# What is drawn


def test_every_step_draws_anew() -> None:
    """Where all tokens are equally likely, noise that stayed would repeat one of them."""

    class Undecided(ScriptedModel):
        def _result(self) -> StepResult:
            return StepResult(torch.zeros(len(self.alive), 256), (0,) * len(self.alive))

    sampling = Sampling(max_new_tokens=20, temperature=1.0, repetition_penalty=1.0)
    (steps,) = run(Undecided([]), [Row([65], sampling=sampling)])
    assert len(set(tokens(steps))) > 10


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    sampling = Sampling(temperature=0.7, repetition_penalty=1.0, seed=3)
    noise, counts, n = _SharedNoise(), torch.zeros(5), 6000
    for _ in range(n):
        noise.next_step()
        counts[choose(logits, NOTHING_SEEN, sampling, noise)] += 1
    expected = n * (logits / 0.7).softmax(dim=-1)
    assert (
        chisquare(counts.double().numpy(), expected.double().numpy(), sum_check=False).pvalue > 0.01
    )


def nucleus_by_hand(logits: Tensor, top_p: float) -> set[int]:
    """Add the likeliest token until the set holds top_p of the probability."""
    probabilities = logits.double().softmax(dim=-1)
    kept: set[int] = set()
    total = 0.0
    for token in probabilities.argsort(descending=True).tolist():
        if total >= top_p:
            break
        kept.add(token)
        total += float(probabilities[token])
    return kept


@given(
    values=st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True),
    top_p=st.floats(0.01, 0.99),
)
@settings(max_examples=150, deadline=None)
def test_the_nucleus_is_the_smallest_set_with_enough_probability(
    values: list[int], top_p: float
) -> None:
    logits = torch.tensor([value / 8 for value in values])
    kept = set(torch.isfinite(_nucleus(logits, top_p)).nonzero()[:, 0].tolist())
    # Sums within a rounding error of top_p may fall either way.
    assert kept in [nucleus_by_hand(logits, top_p + error) for error in (0.0, 1e-5, -1e-5)]
    assert torch.equal(_nucleus(logits, 1.0), logits)


@pytest.mark.parametrize("top_p", [0.3, 0.99])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_a_nucleus_in_a_large_vocabulary_is_as_large_as_it_has_to_be(
    spread: float, top_p: float
) -> None:
    """Both where a few tokens hold it and where it takes a thousand."""
    logits = spread * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    found = _nucleus(logits, top_p)
    kept = torch.isfinite(found)
    chances = logits.double().softmax(dim=0)
    assert torch.equal(found[kept], logits[kept])
    assert logits[kept].min() > logits[~kept].max()
    assert chances[kept].sum() >= top_p - 1e-5 > chances[kept].sum() - chances[kept].min() - 2e-5


def test_only_tokens_of_the_nucleus_are_drawn() -> None:
    logits = torch.tensor([3.0, 2.9, 0.0, 0.0, 0.0])
    sampling = Sampling(temperature=1.0, top_p=0.5, repetition_penalty=1.0)
    noise, seen = _SharedNoise(), set()
    for _ in range(200):
        noise.next_step()
        seen.add(choose(logits, NOTHING_SEEN, sampling, noise))
    assert seen == {0, 1}


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-39])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = torch.tensor([9.9, 10.0, 0.5, -3.0])
    sampling = Sampling(temperature=temperature, repetition_penalty=1.0)
    noise = _SharedNoise()
    for _ in range(50):
        noise.next_step()
        assert choose(logits, NOTHING_SEEN, sampling, noise) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 5000),
        ("temperature", -0.1),
        ("temperature", 5.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_a_sampling_value_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^{name} must lie between"):
        Sampling(**{name: value})


# How rows end


def test_every_row_ends_with_exactly_one_stop() -> None:
    rows = say([65, 66, END], [65] * 9, [END], max_new_tokens=5)
    assert [[step.stop for step in row] for row in rows] == [
        [None, None, "end"],
        [None, None, None, None, "length"],
        ["end"],
    ]
    assert [tokens(row) for row in rows] == [[65, 66], [65] * 5, []]


def test_any_of_several_end_tokens_ends_a_row_and_is_not_part_of_it() -> None:
    model = ScriptedModel([65, 10, 66])
    model.end_ids = frozenset({10, END})
    (steps,) = run(model, [Row([65], sampling=Sampling(repetition_penalty=1.0))])
    assert [(step.token_id, step.text, step.stop) for step in steps] == [
        (65, tiny_tokenizer().decode([65]), None),
        (None, "", "end"),
    ]


def test_the_last_allowed_token_may_be_the_end() -> None:
    (steps,) = say([65, END], max_new_tokens=2)
    assert [step.stop for step in steps] == [None, "end"]


def test_rows_may_have_different_lengths(model: LanguageModel) -> None:
    rows = [Row(PROMPTS[0], sampling=Sampling(max_new_tokens=n)) for n in (1, 4, 2)]
    assert [len(tokens(steps)) for steps in run(model, rows)] == [1, 4, 2]


@pytest.mark.parametrize("after", [0, 1, 3])
def test_cancelling_ends_all_rows_within_two_steps(after: int) -> None:
    """Asked for once `after` steps have been seen."""
    model = ScriptedModel([65] * 20, [66, 66, END], [67] * 20)
    rows = [Row([65], sampling=Sampling(repetition_penalty=1.0)) for _ in range(3)]
    steps = []
    for step in decode(model, rows, cancelled=lambda: len(steps) >= after):
        steps.append(step)
    assert len(steps) == after + 1
    assert model.n_steps <= after + 2
    stops = [
        [s.stop for step in steps for s in step if s.row == row and s.stop] for row in range(3)
    ]
    assert stops == [["cancelled"], ["end"] if after == 3 else ["cancelled"], ["cancelled"]]


def test_dropping_the_iterator_runs_no_further_step() -> None:
    model = ScriptedModel([65] * 20)
    steps = decode(model, [Row([65])])
    next(steps)
    steps.close()
    assert model.n_steps == 1


# The visible text

CHARACTERS = "naïve – 日本語 🎉👩‍👩‍👧 é\u0301 done"


def ids_of(text: str) -> list[int]:
    return tiny_tokenizer().encode(text, add_special_tokens=False)


def test_half_a_character_is_never_shown() -> None:
    script = ids_of(CHARACTERS)
    (steps,) = say([*script, END])
    pieces = [step.text for step in steps]
    assert "".join(pieces) == CHARACTERS
    assert not any("\ufffd" in piece for piece in pieces)
    shown = ""
    for piece in pieces:
        shown += piece
        assert CHARACTERS.startswith(shown)


def test_a_reply_cut_inside_a_character_shows_only_whole_ones() -> None:
    script = ids_of("ab🎉")
    for n in range(1, len(script) + 1):
        (steps,) = say(script, max_new_tokens=n)
        text = "".join(step.text for step in steps)
        assert text == tiny_tokenizer().decode(script[:n]).rstrip("\ufffd")


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_the_pieces_of_any_tokens_make_their_decoded_text(script: list[int]) -> None:
    (steps,) = say([*script, END])
    text = "".join(step.text for step in steps)
    # A byte that belongs to no character is not shown at all.
    whole = tiny_tokenizer().decode(script).replace("\N{REPLACEMENT CHARACTER}", "")
    assert whole.startswith(text)
    assert whole.removeprefix(text).startswith("\ufffd") or whole == text


def test_control_tokens_inside_a_reply_are_tokens_but_no_text() -> None:
    (steps,) = say([*ids_of("a"), 256, *ids_of("b"), END])
    assert tokens(steps) == [*ids_of("a"), 256, *ids_of("b")]
    assert "".join(step.text for step in steps) == "ab"


# Counting


def test_every_forward_pass_that_led_to_a_token_or_an_end_is_counted(
    model: LanguageModel,
) -> None:
    """A `response` span: one position for each token, and one for the end."""
    row = Row(PROMPTS[1], steering=tiny_steering(), sampling=Sampling(max_new_tokens=6))
    (steps,) = run(model, [row])
    assert [step.steered for step in steps] == [1] * len(steps)
    model.end_ids = frozenset({steps[3].token_id})
    (ended,) = run(model, [row])
    assert ended[-1].stop == "end"
    assert [step.steered for step in ended] == [1] * len(ended)


def test_an_unsteered_row_counts_nothing(model: LanguageModel) -> None:
    rows = [
        Row(PROMPTS[1], steering=steering, sampling=Sampling(max_new_tokens=4))
        for steering in (None, tiny_steering())
    ]
    plain, _ = run(model, rows)
    assert {step.steered for step in plain} == {0}


def test_scripted_model_has_what_the_loop_uses() -> None:
    """So that the fake can't drift from the real one."""
    names = {"tokenizer", "end_ids", "turn_end", "prefill", "decode_step"}
    assert names <= set(dir(tiny_model())) & set(dir(ScriptedModel([65])))
    assert "keep" in dir(Batch)


# A base model writes the next turn instead of an end token


def base_model_steps(said: str, *, max_new_tokens: int = 99, stop_after: int = 99) -> list[RowStep]:
    """What a model says that ends its turn by beginning the next one; cancelled after some."""
    model: Any = ScriptedModel([*tiny_tokenizer().encode(said), END])
    model.turn_end = "\nUser:"
    rows = [Row(PROMPTS[0], steering=None, sampling=Sampling(max_new_tokens=max_new_tokens))]
    found: list[RowStep] = []
    for (step,) in decode(model, rows, cancelled=lambda: len(found) == stop_after):
        found.append(step)
    return found


def test_a_reply_ends_where_the_next_turn_begins() -> None:
    steps = base_model_steps("Yes.\n\nUser: And then?")
    assert "".join(step.text for step in steps) == "Yes.\n"
    assert steps[-1].stop == "end"


@pytest.mark.parametrize("said", ["No.\nUse", "a\nUser b", "\n\n\n", "User:"])
def test_what_only_looks_like_the_next_turn_is_shown_in_the_end(said: str) -> None:
    n = len(said)
    for steps, stop in (
        (base_model_steps(said), "end"),
        (base_model_steps(said, max_new_tokens=n), "length"),
        (base_model_steps(said, stop_after=n), "cancelled"),
    ):
        assert "".join(step.text for step in steps) == said
        assert steps[-1].stop == stop
