import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from made_up import instructions, sentences
from tiny import tiny_steering

from saif.core.fluency import Fluency
from saif.decoding import Sampling
from saif.engine.local import LocalEngine
from saif.engine.protocol import Message, Reply, Request, complete
from saif.errors import InputError
from saif.experiments.evaluate import score
from saif.experiments.evaluate.score import CheckedReply, Task, check_replies, make_replies
from saif.presets.instructions import place

QUESTION, SUMMARISE = instructions("question", "summarise")
WORDING = QUESTION.main_wording
GOOD, BAD = "Who ate my big plum?", "It is so."
FLUENT = Fluency(1.0, 0.0, False, 10.0)
REPEATING = Fluency(0.1, 0.0, False, 10.0)


def _reply(text: str, stop: Any = "end") -> Reply:
    return Reply(text, tuple(text.encode()), 0, stop)


def _checked(
    *, loose: bool = True, fluency: Fluency = FLUENT, about: bool | None = True, text: str = "x"
) -> CheckedReply:
    return CheckedReply("content", _reply(text), loose, fluency, about)


class Likelihoods:
    """Stands in for the model's likelihoods: `own` for a reply's own content, else `other`."""

    def __init__(self, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.own, self.other = -10.0, -20.0
        self.shift: Callable[[str, str], float] = lambda content, said: 0.0
        self.asked: list[tuple[str, str, bool]] = []
        """(content, reply, whether the instruction stood before the content)"""
        self._model = engine.language_model
        self.belongs: dict[str, str] = {}
        monkeypatch.setattr(engine.language_model, "log_probabilities", self._log_probabilities)

    def _log_probabilities(
        self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[torch.Tensor]:
        result = []
        for prompt, reply in rows:
            text = self._model.tokenizer.decode(list(prompt))
            message = text.split("user\n")[1].split("<|im_end|>")[0]
            content = message.rpartition("\n")[2]
            said = bytes(reply).decode()
            self.asked.append((content, said, message == place(WORDING, content, "pre")))
            total = self.own if self.belongs[said] == content else self.other
            total -= self.shift(content, said)
            result.append(torch.full((len(reply),), total / len(reply)))
        return result


@pytest.fixture
def likelihoods(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> Likelihoods:
    return Likelihoods(engine, monkeypatch)


def _check_each(
    engine: LocalEngine, likelihoods: Likelihoods, contents: list[str], texts: list[str]
) -> list[CheckedReply]:
    """One reply per content; the texts must differ."""
    likelihoods.belongs = dict(zip(texts, contents, strict=True))
    tasks = [Task(content, content) for content in contents]
    return check_replies(
        engine, QUESTION, tasks, [_reply(text) for text in texts], contents=contents
    )


# Making replies


def test_replies_come_back_in_the_order_of_the_tasks(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "BATCH", 2)
    texts = ["a text that is long", "b", "in between", "cc", "the longest of all the texts"]
    tasks = [Task(text, text) for text in texts]
    done: list[int] = []
    replies = make_replies(engine, tasks, sampling=Sampling(max_new_tokens=5), advance=done.append)
    for text, reply in zip(texts, replies, strict=True):
        request = Request(messages=(Message("user", text),), sampling=Sampling(max_new_tokens=5))
        assert reply.token_ids == complete(engine, [request])[0].token_ids
    assert len({reply.token_ids for reply in replies}) > 1
    assert sum(done) == 5


def test_the_message_is_what_is_sent_and_steering_goes_with_its_task(engine: LocalEngine) -> None:
    steering = tiny_steering()
    tasks = [Task("one", "x"), Task("one", "x", steering), Task("something else", "x")]
    replies = make_replies(engine, tasks, sampling=Sampling(max_new_tokens=4))
    assert [reply.steered for reply in replies][::2] == [0, 0]
    assert replies[1].steered == len(replies[1].token_ids) + (replies[1].stop == "end")
    assert replies[0].token_ids != replies[2].token_ids


def test_each_content_draws_its_own_noise_the_same_under_every_condition(
    engine: LocalEngine,
) -> None:
    warm = Sampling(max_new_tokens=12, temperature=1.5, seed=3)
    tasks = [Task("same", "one"), Task("same", "two"), Task("same", "one"), Task("same", "two")]
    one, two, *again = [r.token_ids for r in make_replies(engine, tasks, sampling=warm)]
    assert one != two
    assert again == [one, two]
    other = make_replies(engine, tasks[:1], sampling=replace(warm, seed=99))[0].token_ids
    assert other != one


# Judging


def test_perplexity_is_that_of_the_reply_after_the_content_alone(engine: LocalEngine) -> None:
    model = engine.language_model
    texts = sentences()[:4]
    replies = [_reply(text) for text in ("short", "a reply of more tokens", "Is it?", "x")]
    tasks = [Task(f"{text}\nDo this.", text, tiny_steering()) for text in texts]
    checked = check_replies(engine, QUESTION, tasks, replies, contents=texts)
    for text, reply, found in zip(texts, replies, checked, strict=True):
        prompt = model.render([{"role": "user", "content": text}])
        ids = torch.tensor([[*prompt, *reply.token_ids]])
        with torch.no_grad():
            scores = model._model(ids).logits[0].log_softmax(dim=-1)
        at = range(len(prompt) - 1, ids.shape[1] - 1)
        mean = sum(float(scores[i, ids[0, i + 1]]) for i in at) / len(reply.token_ids)
        assert found.fluency.perplexity == pytest.approx(math.exp(-mean), rel=1e-3)
        assert found.content == text
        assert found.reply is reply


def test_a_loose_reply_is_compared_with_three_other_contents_after_the_instruction(
    engine: LocalEngine, likelihoods: Likelihoods
) -> None:
    contents = sentences()[:5]
    texts = [f"{GOOD} {i}" for i in range(4)] + [BAD]
    _check_each(engine, likelihoods, contents, texts)
    for content, text in zip(contents, texts, strict=True):
        alone = [c for c, said, instructed in likelihoods.asked if said == text and not instructed]
        asked = [c for c, said, instructed in likelihoods.asked if said == text and instructed]
        assert alone == [content]  # for its perplexity
        if text == BAD:
            assert asked == []
        else:
            assert content in asked
            assert len({*asked}) == len(asked) == 4
            assert set(asked) <= set(contents)


@pytest.mark.parametrize(("other", "about"), [(-20.0, True), (-11.0, False), (-5.0, False)])
def test_about_means_much_likelier_after_its_own_content(
    engine: LocalEngine, likelihoods: Likelihoods, other: float, about: bool
) -> None:
    likelihoods.other = other
    texts = [f"{GOOD} {i}" for i in range(2)] + [BAD, f"{BAD} "]
    checked = _check_each(engine, likelihoods, sentences()[:4], texts)
    assert [j.relevant for j in checked] == [about, about, None, None]
    assert [j.loose for j in checked] == [True, True, False, False]
    assert [j.strict(1e9) for j in checked] == [about, about, False, False]


def test_each_reply_is_held_against_its_own_likelihoods(
    engine: LocalEngine, likelihoods: Likelihoods, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = sentences()[:4]
    seen: list[tuple[float, tuple[float, ...]]] = []

    def is_relevant(own: float, others: Sequence[float]) -> bool:
        seen.append((round(own), tuple(round(other) for other in others)))
        return True

    monkeypatch.setattr(score, "is_relevant", is_relevant)
    likelihoods.shift = lambda content, said: contents.index(content) + 10 * int(said[-1])
    _check_each(engine, likelihoods, contents, [f"{GOOD} {i}" for i in range(4)])
    # own: 10; another: 20; plus one per content and ten per reply
    assert seen[:2] == [(-10, (-21, -22, -23)), (-21, (-32, -33, -30))]
    assert seen[2:] == [(-32, (-43, -40, -41)), (-43, (-50, -51, -52))]


@pytest.mark.parametrize("n", [1, 3])
def test_too_few_contents_to_compare_with_are_refused(engine: LocalEngine, n: int) -> None:
    contents = sentences()[:n]
    with pytest.raises(InputError, match=f"{n} texts are too few"):
        check_replies(engine, QUESTION, [Task("x", contents[0])], [_reply(GOOD)], contents=contents)


def test_strict_is_loose_and_fluent_and_about() -> None:
    assert _checked().strict(20)
    assert not _checked(loose=False).strict(20)
    assert not _checked(fluency=REPEATING).strict(20)
    assert not _checked(about=False).strict(20)
    assert not _checked(about=None).strict(20)
    assert not _checked().strict(9)  # its perplexity is 10
    assert _checked().degenerate(9)
    assert not _checked().degenerate(10)


def test_a_repeating_reply_is_degenerate_however_likely(
    engine: LocalEngine, likelihoods: Likelihoods
) -> None:
    texts = ["why why why why why why why why?", GOOD, BAD, "So it be."]
    checked = _check_each(engine, likelihoods, sentences()[:4], texts)
    assert [j.degenerate(1e9) for j in checked] == [True, False, False, False]
    assert checked[0].loose
    assert not checked[0].strict(1e9)


def test_an_empty_reply_is_neither_loose_nor_fluent(engine: LocalEngine) -> None:
    contents = sentences()[:3]
    (checked,) = check_replies(
        engine, QUESTION, [Task("x", contents[0])], [_reply("")], contents=contents
    )
    assert not checked.loose
    assert checked.relevant is None
    assert checked.degenerate(1e9)


def test_a_summary_that_was_cut_off_is_no_summary(engine: LocalEngine) -> None:
    contents = [f"{text} {sentences()[i + 40]}" for i, text in enumerate(sentences()[:4])]
    task, text = Task("x", contents[0]), "The cat watches the farmer."
    for stop, loose in (("end", True), ("length", False), ("cancelled", False)):
        (checked,) = check_replies(
            engine, SUMMARISE, [task], [_reply(text, stop)], contents=contents
        )
        assert checked.loose is loose
    (question,) = check_replies(
        engine, QUESTION, [task], [_reply(GOOD, "length")], contents=contents
    )
    assert question.loose  # what other instructions ask for shows at once
