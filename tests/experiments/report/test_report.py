"""The page: what it says, what it never does, and that the same run gives the same bytes."""

import base64
import re
from collections.abc import Callable
from hashlib import sha256
from html import unescape
from pathlib import Path

import pytest
from made_up_runs import (
    cell,
    content,
    evaluation,
    outcomes,
    record,
    replies,
    reply,
    sweep,
    write_run,
)
from typer.testing import CliRunner

from saif.cli.app import app
from saif.core.statistics import Kappa
from saif.errors import InputError
from saif.experiments.judge import grades
from saif.experiments.report import build
from saif.experiments.report.build import PAGE, write_report

N = 20
EVIL = '<script>alert(1)</script><img src="http://evil.example/x.png" onerror=alert(2)> & "so" on'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An evaluation, a sweep over a number, and one over a choice."""
    root = tmp_path_factory.mktemp("runs")
    ways: dict[float | str, int] = {"saif": 3, "signed": 17}
    folders = [
        write_run(root / "evaluated", record(n=N), evaluation(n=N)),
        write_run(
            root / "over-k", record("sweep", n=N, over="k"), sweep({1.0: 2, 15.0: 18, 40.0: 7}, N)
        ),
        write_run(root / "ways", record("sweep", n=N, over="selection"), sweep(ways, N)),
    ]
    return [run.path for run in folders]


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(runs, tmp_path_factory.mktemp("page")).read_text("utf-8")


def words_of(page: str) -> str:
    """The page without its tags and figures, with every space the same."""
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(text))


def test_known_numbers_are_on_the_page(page: str) -> None:
    words = words_of(page)
    # steered, letter: 16 of 20 pre and 12 post; Wilson's intervals by the closed formula.
    assert (
        "Steered, 16 of 20 (pre; 58–92 %) and 12 of 20 (post; 39–78 %) replies followed the "
        "instruction; asked in words, 20 of 20 (pre) and 15 of 20 (post); with neither, 0 of 20."
    ) in words
    assert "steered 80 58–92" in words
    assert "python -m saif evaluate --data sentences" in words
    assert "python -m saif sweep --data sentences" in words
    assert "torch 2.13.0" in words
    # pre and post of one preset: the first 12 texts follow in both, 4 only before the content.
    assert "letter steered 80 58–92 60 39–78 −20 −39 to 0 0 / 4 20 p = 0.12" in words
    assert "Sweep over k" in words
    assert re.search(r"Last|last layer", words)
    assert "not measured" in words


def test_every_claim_has_its_verdict(page: str) -> None:
    held = re.findall(r'<span class="held ([a-z ]+)">([a-z ]+)</span>', page)
    assert len(held) == 11
    assert all(shown == spoken for shown, spoken in held)


def test_latents_are_held_against_mean_difference(page: str, tmp_path: Path) -> None:
    words = words_of(page)
    assert "Latents reach mean difference at its own best setting in 4 of 4." in words
    assert "letter, pre steered 80 58–92 70 48–85 ahead by 10" in words
    without = write_report([small_run(tmp_path / "run")], tmp_path / "out").read_text("utf-8")
    assert "mean difference at its own best setting in" not in words_of(without)
    assert 'href="#baselines"' in page
    assert 'href="#baselines"' not in without


def test_nothing_is_asked_of_another_host_and_nothing_runs(page: str) -> None:
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//""", page, re.I)
    assert not re.search(r"url\(|@import|<script|<link|<iframe|<object|\son\w+=", page, re.I)
    assert "default-src 'none'; img-src data:;" in page
    assert set(re.findall(r'src="([^"]{11})', page)) == {"data:image/"}


def test_every_figure_is_embedded_lies_beside_the_page_and_is_told_in_words(
    runs: list[Path], tmp_path: Path
) -> None:
    text = write_report(runs, tmp_path).read_text("utf-8")
    embedded = [base64.b64decode(data) for data in re.findall(r'base64,([^"]+)"', text)]
    beside = [path.read_bytes() for path in sorted(tmp_path.glob("*.png"))]
    assert sorted(embedded) == sorted(beside)
    assert len(beside) == 4 + 1 + 1 + 1
    assert all(png.startswith(b"\x89PNG") for png in beside)
    alts = re.findall(r'alt="([^"]*)"', text)
    assert len(alts) == len(beside)
    assert any("steered 80 % (58–92)" in alt for alt in alts)
    assert any("15: 90 %" in alt for alt in alts)
    assert any("letter, steered: pre 80 %, post 60 %, p = 0.12" in alt for alt in alts)


def test_the_same_runs_give_the_same_bytes(runs: list[Path], tmp_path: Path) -> None:
    one, two = (write_report(runs[:2], tmp_path / name) for name in ("one", "two"))
    names = sorted(path.name for path in one.parent.iterdir())
    assert names == sorted(path.name for path in two.parent.iterdir())
    for name in names:
        assert (one.parent / name).read_bytes() == (two.parent / name).read_bytes()


def small_run(path: Path, **changes: object) -> Path:
    """One cell of four replies."""
    place = cell("steered")
    found = [
        reply(place, i, outcome, **changes)
        for i, outcome in enumerate(["strict", "followed", "repeats", "plain"])
    ]
    return write_run(path, record(n=4), {place: found}).path


def test_what_a_model_says_stays_text(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", text=EVIL + "\x00\x1b[2J")
    page = write_report([run], tmp_path / "out").read_text("utf-8")
    assert "<script" not in page
    assert "<img src=&" not in page
    assert not re.search(r"<[^>]*onerror", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page)


def test_names_from_a_file_stay_text_and_never_leave_the_folder(tmp_path: Path) -> None:
    place = cell('"><b>$x_', preset="../../<i>evil</i>")
    run = write_run(
        tmp_path / "run", record(n=1, command=EVIL), {place: replies(place, ["strict"])}
    )
    page = write_report([run.path], tmp_path / "a" / "out").read_text("utf-8")
    assert not re.search(r"<script|<i>evil|<b>\$", page)
    assert {path.parent for path in tmp_path.rglob("*.png")} == {tmp_path / "a" / "out"}


def test_the_samples_are_no_choice_of_ours_and_marks_what_is_degenerate(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    words = words_of(write_report([run], tmp_path / "out").read_text("utf-8"))
    assert "the replies to the 3 texts of each preset whose SHA-256 is smallest" in words
    assert words.count("Dear steered") == 3
    smallest = sorted(map(content, range(4)), key=lambda text: sha256(text.encode()).hexdigest())
    assert smallest != sorted(smallest)
    shown = [words.find(text) for text in smallest]
    assert shown[3] == -1
    assert -1 < shown[0] < shown[1] < shown[2]
    verdicts = {
        "Dear steered, strict": "followed, and about the text",
        "Dear steered, followed": "followed, but hardly about the text",
        "Dear steered, repeats": "recognisable but degenerate: repeats itself, one token dominates",
        "Dear steered, plain": "not followed",
    }
    for start, verdict in verdicts.items():
        for told in re.findall(f"{start} .*?(?=Dear|Text|How to)", words):
            assert told.rstrip().endswith(verdict)


def test_a_cell_that_is_not_complete_is_left_out_and_the_page_says_so(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    lines = (run / "replies.jsonl").read_text("utf-8").splitlines()
    started = lines[0].replace('"condition":"steered"', '"condition":"random"')
    (run / "replies.jsonl").write_text("\n".join([*lines, started]) + "\n", "utf-8")
    words = words_of(write_report([run], tmp_path / "out").read_text("utf-8"))
    assert "1 incomplete setting left out" in words
    assert "Dear random" not in words
    (run / "replies.jsonl").write_text(started + "\n", "utf-8")
    with pytest.raises(InputError, match="no complete cell"):
        write_report([run], tmp_path / "out")


def test_a_run_named_twice_counts_once(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    twice = write_report([run, tmp_path / "." / "run"], tmp_path / "out").read_text("utf-8")
    assert twice.count("<section>") == 1


def test_a_judge_s_agreement_is_shown_where_there_are_grades(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(tmp_path / "run")
    kappa = Kappa(0.731, 4, 0.42, 0.99)
    agreement = grades.Agreement(4, kappa, None)
    found = grades.RunAgreement("some-judge", 1, agreement, {"letter": agreement})
    without = words_of(write_report([run], tmp_path / "out").read_text("utf-8"))
    assert "some-judge" not in without
    monkeypatch.setattr(build, "agreement_with_verifier", lambda _: found)
    words = words_of(write_report([run], tmp_path / "out").read_text("utf-8"))
    assert "some-judge graded the replies" in words
    assert "all 0.73 (0.42 to 0.99) undefined 4" in words


def test_runs_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    other = record(n=4).model.model_copy(update={"id": "second", "fingerprint": "0" * 64})
    place = cell("steered")
    second = write_run(
        tmp_path / "b", record(n=4, model=other), {place: replies(place, outcomes(4, 4, 4))}
    )
    page = write_report([small_run(tmp_path / "a"), second.path], tmp_path / "out")
    text = page.read_text("utf-8")
    assert text.count('<div class="scroll claims">') == 2
    assert "<h3><code>second</code></h3>" in text


# The command


def test_the_command_prints_where_the_page_lies(runs: list[Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(runs[1]), "--out", str(tmp_path / "here")])
    assert result.exit_code == 0, result.output
    assert result.stdout.replace("\n", "") == str(tmp_path / "here" / PAGE)
    assert (tmp_path / "here" / PAGE).is_file()


def test_the_page_lies_in_the_first_run_if_nothing_else_is_said(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    assert CliRunner().invoke(app, ["report", str(run)]).exit_code == 0
    assert (run / "report" / PAGE).is_file()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "is not a run: .* Make one with `python -m saif evaluate`"),
        (lambda folder: (folder / "run.json").write_text("{}"), "run.json can't be read"),
        (
            lambda folder: (small_run(folder) / "replies.jsonl").write_text("nonsense\n"),
            "replies.jsonl, line 1",
        ),
        (lambda folder: (small_run(folder) / "replies.jsonl").unlink(), "no complete cell"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(
    make: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    make(folder)
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert re.search(words, result.stderr)
    assert not (folder / "report").exists()
