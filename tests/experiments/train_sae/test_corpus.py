from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from made_up import instructions, sentences

from saif.decoding import RowStep, Step
from saif.experiments.datasets import split_of
from saif.experiments.train_sae import corpus as module
from saif.experiments.train_sae.corpus import Sequences, build_corpus
from saif.presets.instructions import Instruction
from saif.runtime.batch import Row
from saif.runtime.language_model import LanguageModel

N_TOKENS = 12_000
HEADER = "<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(autouse=True)
def _short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REPLY_TOKENS", 4)
    monkeypatch.setattr(module, "_REPLY_BATCH", 4)


@pytest.fixture
def asked() -> list[Instruction]:
    return instructions("question", "verse")


@pytest.fixture
def built(
    model: LanguageModel, asked: list[Instruction], data: Path, tmp_path: Path
) -> list[Sequences]:
    return build_corpus(model, asked, data, tmp_path / "corpus.json", n_tokens=N_TOKENS)


def _text(model: LanguageModel, ids: Sequence[int]) -> str:
    return model.tokenizer.decode(list(ids))


def test_the_token_budget_is_met_and_not_exceeded_by_more_than_a_sequence_each(
    built: list[Sequences],
) -> None:
    longest = max(len(ids) for part in built for ids in part.token_ids)
    total = sum(part.n_tokens for part in built)
    assert N_TOKENS <= total <= N_TOKENS + 3 * longest
    assert built[1].n_tokens == pytest.approx(N_TOKENS / 4, rel=0.06)


def test_skipped_tokens_are_the_same_in_all_sequences_of_a_part(
    model: LanguageModel, built: list[Sequences]
) -> None:
    for part in built:
        assert len({tuple(ids[: part.skip]) for ids in part.token_ids}) == 1
    chats, plain = built
    assert _text(model, chats.token_ids[0][: chats.skip]) == "<|im_start|>user\n"
    assert plain.token_ids[0][:1] == [model.tokenizer.bos_token_id]


def test_prompts_come_plain_and_in_both_placements_from_texts_kept_for_it(
    model: LanguageModel, asked: list[Instruction], built: list[Sequences]
) -> None:
    wordings = [wording.text for instruction in asked for wording in instruction.wordings]
    known = set(sentences())
    count = {"pre": 0, "post": 0, "plain": 0}
    for ids in built[0].token_ids:
        message = _text(model, ids[built[0].skip :]).partition("<|im_end|>")[0]
        first, _, second = message.partition("\n")
        if not second:
            count["plain"], content = count["plain"] + 1, message
        elif first in wordings:
            count["pre"], content = count["pre"] + 1, second
        else:
            assert second in wordings
            count["post"], content = count["post"] + 1, first
        assert content in known
        assert split_of(content) == "identify"
    assert all(count.values()), count
    assert count["pre"] + count["post"] > 2 * count["plain"]


def test_every_reply_continues_its_own_prompt(
    model: LanguageModel,
    asked: list[Instruction],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decode(model: LanguageModel, rows: Sequence[Row]) -> Iterator[Step]:
        # The last rows end first; every row says the third last letter of its own message.
        for length in (1, 2):
            yield tuple(
                RowStep(i, row.token_ids[-15], "", 0, None)
                for i, row in enumerate(rows)
                if length == 1 or i < 2
            )

    monkeypatch.setattr(module, "decode", decode)
    chats, _ = build_corpus(model, asked, data, tmp_path / "corpus.json", n_tokens=N_TOKENS)
    header = model.tokenizer.encode(HEADER, add_special_tokens=False)
    replied = 0
    for ids in chats.token_ids:
        end = next(i for i in range(len(ids)) if ids[i : i + len(header)] == header) + len(header)
        reply = ids[end:]
        assert set(reply) <= {ids[end - 15]}
        replied += bool(reply)
    assert replied >= 8


def test_a_stored_corpus_is_read_back_as_it_was(
    built: list[Sequences], model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "_prompts")
    again = build_corpus(
        model, [], tmp_path / "no data", tmp_path / "corpus.json", n_tokens=N_TOKENS
    )
    assert again == built


def test_a_text_file_with_few_lines_will_do(
    model: LanguageModel, asked: list[Instruction], tmp_path: Path
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(sentences()[:100]))
    chats, plain = build_corpus(model, asked, file, tmp_path / "corpus.json", n_tokens=N_TOKENS)
    assert chats.n_tokens + plain.n_tokens >= N_TOKENS
    assert "every morning.\nThe cat" in _text(model, [i for s in plain.token_ids for i in s[1:]])
