"""Which tokens a span steers, against the words of its definition."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from saif.core.steering import span_mask
from saif.core.types import SPANS, Span

CONTROL = {0, 1}


def spelled_out(span: Span, token_ids: Sequence[int], prompt_length: int) -> list[bool]:
    """response: the last prompt token and all generated ones, whatever they are.
    prompt: every prompt token that isn't a control token. all: both."""
    prompt = {i for i in range(min(prompt_length, len(token_ids))) if token_ids[i] not in CONTROL}
    response = set(range(prompt_length - 1, len(token_ids)))
    steered = {"prompt": prompt, "response": response, "all": prompt | response}[span]
    return [i in steered for i in range(len(token_ids))]


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """(token ids, prompt length, where a chunk starts)"""
    token_ids = draw(st.lists(st.integers(0, 4), min_size=1, max_size=12))
    prompt_length = draw(st.integers(1, len(token_ids)))
    return token_ids, prompt_length, draw(st.integers(0, len(token_ids)))


@given(rows(), st.sampled_from(SPANS))
def test_a_span_steers_what_its_definition_says(
    row: tuple[list[int], int, int], span: Span
) -> None:
    token_ids, prompt_length, _ = row
    expected = spelled_out(span, token_ids, prompt_length)
    assert span_mask(span, token_ids, prompt_length, CONTROL) == expected


@given(rows(), st.sampled_from(SPANS))
def test_chunks_of_a_row_are_steered_like_the_whole(
    row: tuple[list[int], int, int], span: Span
) -> None:
    """With a KV cache a step sees only the newest tokens; positions stay absolute."""
    token_ids, prompt_length, start = row
    whole = span_mask(span, token_ids, prompt_length, CONTROL)
    assert span_mask(span, token_ids, prompt_length, CONTROL, start) == whole[start:]


@given(rows())
def test_all_is_prompt_and_response_together(row: tuple[list[int], int, int]) -> None:
    token_ids, prompt_length, _ = row
    response, prompt, both = (
        span_mask(span, token_ids, prompt_length, CONTROL) for span in ("response", "prompt", "all")
    )
    assert both == [a or b for a, b in zip(response, prompt, strict=True)]


def test_a_response_starts_with_the_last_prompt_token() -> None:
    ids = [0, 5, 6, 1, 7, 0, 8]  # five of prompt, then two generated, one of them a control token
    assert span_mask("response", ids, 5, CONTROL) == [False] * 4 + [True] * 3
    assert span_mask("prompt", ids, 5, CONTROL) == [False, True, True, False, True, False, False]
