import gzip
from pathlib import Path

import pytest
from made_up import sentences

from saif.errors import InputError
from saif.experiments.datasets import read_contents, split_of

SPLITS = ("identify", "develop", "held-out")


def test_splits_share_no_text_whatever_the_size_and_the_seed(data: Path) -> None:
    seen: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for n, seed in ((20, 0), (60, 0), (60, 1)):
            seen[split] |= set(read_contents(data, "sentence", split, n, seed=seed))
    assert all(len(texts) > 60 for texts in seen.values())
    assert not seen["identify"] & seen["develop"]
    assert not (seen["identify"] | seen["develop"]) & seen["held-out"]


def test_a_text_stays_in_its_split_for_good() -> None:
    # Written down once: a changed hash would move held-out texts into calibration.
    assert [split_of(f"text {i}") for i in range(4)] == [
        "identify",
        "develop",
        "identify",
        "held-out",
    ]


def test_splits_have_their_shares() -> None:
    found = [split_of(text) for text in sentences()]
    shares = [found.count(split) / len(found) for split in SPLITS]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.03)


def test_texts_are_drawn_once_each_and_the_same_every_time(data: Path) -> None:
    texts = read_contents(data, "sentence", "develop", 50)
    assert len(set(texts)) == 50
    assert texts == read_contents(data, "sentence", "develop", 50)
    assert texts != read_contents(data, "sentence", "develop", 50, seed=1)


def test_passages_have_forty_to_ninety_words(data: Path) -> None:
    texts = read_contents(data, "passage", "identify", 999, fewer=True)
    assert len(texts) > 20
    assert all(40 <= len(text.split()) <= 90 for text in texts)


@pytest.mark.parametrize("kind", ["sentence", "passage"])
def test_too_few_texts_are_refused_by_number(data: Path, kind: str) -> None:
    with pytest.raises(InputError, match=rf"{kind} texts for the split 'develop'; 99999 are need"):
        read_contents(data, kind, "develop", 99_999)


def test_fewer_texts_than_wanted_will_do_if_asked_for_but_not_none(
    data: Path, tmp_path: Path
) -> None:
    assert len(read_contents(data, "sentence", "develop", 99_999, fewer=True)) > 100
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="holds 0 sentence texts"):
        read_contents(tmp_path / "empty.txt", "sentence", "develop", 5, fewer=True)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no data at .*nowhere"):
        read_contents(tmp_path / "nowhere", "sentence", "develop", 1)


def test_overused_names_and_odd_lengths_are_left_out(tmp_path: Path) -> None:
    kept = [f"Tomorrow the old man number {i} sings." for i in range(40)]
    dropped = [f"I saw Tom eat {i} apples there." for i in range(40)]
    dropped += [f"Mary's house has {i} windows now." for i in range(40)]
    dropped += [f"Only {i} words." for i in range(40)]
    dropped += ["No translation stands beside this sentence."]
    lines = [f"{text}\tx" for text in kept + dropped[:-1]] + dropped[-1:]
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    found = {
        text
        for split in SPLITS
        for text in read_contents(tmp_path, "sentence", split, 999, fewer=True)
    }
    assert found == set(kept)


def test_a_text_file_gives_its_lines_for_every_kind(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    lines = [f"line {i}" for i in range(60)]
    file.write_text("\n\n".join(f"  {line} " for line in lines))
    for kind in ("sentence", "passage"):
        found = read_contents(file, kind, "identify", 20)
        assert set(found) <= set(lines)
