"""Plans are drawn from the seed, balanced within participants and across them."""

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from made_up_studies import plain, study

from saif.errors import StudyError
from saif.study.design.plan import (
    CHECK_ARM,
    PlannedTrial,
    arm_orders,
    block,
    draw_plan,
    gen_seed,
    plan_seed,
    williams,
)
from saif.study.design.study_file import Study
from saif.study.store import allocation

PRESETS = [
    {"preset": "letter", "placement": "pre"},
    {"preset": "letter", "placement": "post"},
    {"preset": "question", "placement": "pre"},
    {"preset": "question", "placement": "post"},
]
PROMPTS = [{"id": f"q{i}", "text": f"Sentence {i}."} for i in range(24)]


def many(presets: int = 3, main: int = 12, **changes: object) -> Study:
    return study(presets=PRESETS[:presets], trials__main=main, prompts__items=PROMPTS, **changes)


def plans(made: Study, blocks: int) -> Iterator[list[PlannedTrial]]:
    for number in range(1, blocks + 1):
        for cell in block(made, number):
            yield draw_plan(made, plan_seed(made, number, cell))


def main_of(plan: Sequence[PlannedTrial]) -> list[PlannedTrial]:
    return [trial for trial in plan if trial.kind == "main"]


def lefts(trials: Sequence[PlannedTrial]) -> int:
    return sum(trial.left == "steered" for trial in trials)


# One participant's plan


def test_a_plan_holds_the_trials_that_the_study_asks_for() -> None:
    made = study(trials__retest=2)
    plan = draw_plan(made, plan_seed(made, 1, "0a"))
    kinds = [trial.kind for trial in plan]
    assert kinds == [
        "practice",
        *["main"] * 3,
        "attention",
        *["main"] * 3,
        "attention",
        *["main"] * 2,
        *["retest"] * 2,
    ]
    assert [trial.position for trial in plan] == list(range(1, len(plan) + 1))
    assert [trial.check for trial in plan if trial.kind == "attention"] == [
        "attention-1",
        "attention-2",
    ]
    for trial in plan:
        arms = {CHECK_ARM} if trial.kind == "attention" else {"steered", "unsteered"}
        assert {trial.left, trial.right} == arms
    assert plan[0].prompts == ("practice-1",)


def test_a_plan_drawn_again_is_the_same() -> None:
    made = many()
    seed = plan_seed(made, 3, "4b")
    assert draw_plan(made, seed) == draw_plan(many(), seed)
    assert draw_plan(made, seed) != draw_plan(made, plan_seed(made, 4, "4b"))
    other = many(seed=1)
    assert draw_plan(made, seed) != draw_plan(other, plan_seed(other, 3, "4b"))


def test_no_prompt_is_seen_twice() -> None:
    practice = [{"id": "p1", "text": "Hi."}, {"id": "p2", "text": "Hi again."}]
    made = many(main=9, trials__turns=2, prompts__practice=practice)
    for plan in plans(made, 3):
        seen = [prompt for trial in main_of(plan) for prompt in trial.prompts]
        assert len(seen) == len(set(seen)) == 18
        assert all(len(trial.prompts) == 2 for trial in main_of(plan))


def test_a_free_chat_has_no_prompts() -> None:
    made = study(prompts={"kind": "free", "task": "Ask what you like."})
    assert {trial.prompts for trial in draw_plan(made, plan_seed(made, 1, "0a"))} == {()}


def test_a_retest_is_a_main_trial_with_its_sides_swapped() -> None:
    made = many(trials__retest=4)
    for plan in plans(made, 4):
        retests = [trial for trial in plan if trial.kind == "retest"]
        assert len({trial.retest_of for trial in retests}) == 4
        for trial in retests:
            assert trial.retest_of is not None
            first = plan[trial.retest_of - 1]
            assert first.kind == "main"
            assert (trial.left, trial.right) == (first.right, first.left)
            assert (trial.preset, trial.prompts) == (first.preset, first.prompts)
            assert trial.gen_seed == first.gen_seed
            assert first != main_of(plan)[-1]


def test_all_main_trials_can_be_retested() -> None:
    made = study(trials__retest=8)
    plan = draw_plan(made, plan_seed(made, 1, "0a"))
    assert len({trial.retest_of for trial in plan if trial.retest_of}) == 8


def test_every_trial_and_attempt_has_its_own_seed() -> None:
    made = many()
    seeds = [trial.gen_seed for plan in plans(made, 5) for trial in main_of(plan)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**48 for seed in seeds)
    assert gen_seed("1/2/0a", 3, 1) != gen_seed("1/2/0a", 3, 2)
    assert gen_seed("1/2/0a", 3) == gen_seed("1/2/0a", 3, 1)


@pytest.mark.parametrize("seed", ["", "1/1/0a", "20260101/1/9a", "20260101/x/0a", "20260101/1/0c"])
def test_a_seed_of_another_study_is_refused(seed: str) -> None:
    with pytest.raises(StudyError, match="not the seed"):
        draw_plan(study(), seed)


# Balance


@pytest.mark.parametrize(
    ("presets", "main"), [(1, 8), (1, 7), (2, 6), (3, 12), (3, 9), (4, 4), (4, 20)]
)
def test_sides_are_balanced_within_every_participant(presets: int, main: int) -> None:
    for plan in plans(many(presets, main, attention=[]), 20):
        trials = main_of(plan)
        assert abs(2 * lefts(trials) - main) <= main % 2
        for preset in {trial.preset for trial in trials}:
            own = [trial for trial in trials if trial.preset == preset]
            assert len(own) == main // presets
            assert abs(2 * lefts(own) - len(own)) <= len(own) % 2


def test_the_two_sides_of_a_row_mirror_each_other() -> None:
    made = many()
    for row in range(6):
        one, other = (draw_plan(made, plan_seed(made, 1, f"{row}{side}")) for side in "ab")
        for first, second in zip(one, other, strict=True):
            assert (first.left, first.right) == (second.right, second.left)
            assert (first.preset, first.prompts) == (second.preset, second.prompts)


def test_a_block_balances_sides_and_presets_at_every_place() -> None:
    made = many()
    found = [main_of(plan) for plan in plans(made, 1)]
    for place in range(12):
        column = [plan[place] for plan in found]
        assert lefts(column) == len(column) / 2
        assert set(Counter(trial.preset for trial in column).values()) == {len(column) / 3}


def test_the_side_cannot_be_told_from_the_place() -> None:
    """Over many rows, each place and each pair of neighbours is as good as a coin."""
    made = many(1, 8)
    found = [main_of(plan) for plan in plans(made, 300)][::2]
    left = [[trial.left == "steered" for trial in plan] for plan in found]
    for place in range(8):
        assert sum(row[place] for row in left) / len(left) == pytest.approx(0.5, abs=0.09)
    same = sum(row[i] == row[i + 1] for row in left for i in range(7)) / (7 * len(left))
    assert same == pytest.approx(3 / 7, abs=0.05)  # of a balanced shuffle of eight


def test_a_thousand_trials_are_left_half_of_the_time() -> None:
    made = many(1, 7)
    trials = [trial for plan in plans(made, 75) for trial in main_of(plan)]
    assert len(trials) >= 1000
    assert lefts(trials) / len(trials) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("n", range(1, 9))
def test_a_williams_square_balances_places_and_neighbours(n: int) -> None:
    square = williams(n)
    assert len(square) == (n if n % 2 == 0 or n == 1 else 2 * n)
    assert all(sorted(row) == list(range(n)) for row in square)
    for place in range(n):
        assert set(Counter(row[place] for row in square).values()) == {len(square) / n}
    neighbours = Counter((row[i], row[i + 1]) for row in square for i in range(n - 1))
    assert len(neighbours) == n * (n - 1)
    assert len(set(neighbours.values())) <= 1


def test_between_participants_each_meets_one_preset() -> None:
    made = many(3, 8, trials__presets="between")
    met = [{trial.preset for trial in main_of(plan)} for plan in plans(made, 4)]
    assert all(len(presets) == 1 for presets in met)
    assert set(Counter(map(min, met)).values()) == {8}  # four blocks, two sides


def test_a_block_holds_every_cell_once_in_an_order_of_its_own() -> None:
    made = many()
    assert arm_orders(made) == [f"{row}{side}" for row in range(6) for side in "ab"]
    orders = [tuple(block(made, number)) for number in range(1, 30)]
    assert all(sorted(order) == sorted(arm_orders(made)) for order in orders)
    assert len(set(orders)) == len(orders)


# Allocation


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(allocation.TABLE)
    yield connection
    connection.close()


def test_ten_thousand_enrolments_with_dropouts_stay_balanced(db: sqlite3.Connection) -> None:
    made = many()
    rng = random.Random(0)
    present: dict[str, tuple[int, str]] = {}
    done = Counter[tuple[int, str]]()

    def leave(name: str, dropouts: float) -> None:
        place = present.pop(name)
        if rng.random() < dropouts:
            allocation.release(db, name)
        else:
            allocation.complete(db, name)
            done[place] += 1

    for number in range(10_000):
        place = allocation.assign(db, made, "v", f"p{number}", "later")
        assert place not in present.values()
        present[f"p{number}"] = place
        if len(present) > 40:  # forty take part at any time, and end in any order
            leave(rng.choice(list(present)), dropouts=0.3)

    assert sum(done.values()) == pytest.approx(7000, rel=0.03)
    assert max(done.values()) == 1  # within a block no cell has more than one completer
    per_cell = Counter(cell for _, cell in done)
    assert max(per_cell.values()) - min(per_cell.values()) <= 8
    # Whoever is left ends, and others fill the places that were given back: all equal.
    for name in list(present):
        leave(name, dropouts=0.3)
    while allocation._oldest_free(db, "v"):
        name = f"late {len(done)}"
        present[name] = allocation.assign(db, made, "v", name, "later")
        leave(name, dropouts=0)
    assert set(Counter(cell for _, cell in done).values()) == {len(done) / len(arm_orders(made))}


def test_a_place_given_back_is_the_next_one_taken(db: sqlite3.Connection) -> None:
    made = many()
    first = [allocation.assign(db, made, "v", f"p{i}", "later") for i in range(5)]
    allocation.complete(db, "p1")
    allocation.release(db, "p3")
    allocation.release(db, "p1")  # complete, but withdrew
    assert [allocation.assign(db, made, "v", name, "later") for name in ("x", "y")] == [
        first[1],
        first[3],
    ]
    allocation.release(db, "nobody")
    assert allocation.assign(db, made, "v", "z", "later") not in first


def test_an_old_block_is_filled_up_before_the_new_one_goes_on(db: sqlite3.Connection) -> None:
    made = many()
    taken = [allocation.assign(db, made, "v", f"p{i}", "later") for i in range(14)]
    assert {number for number, _ in taken} == {1, 2}
    allocation.release(db, "p7")
    assert allocation.assign(db, made, "v", "x", "later") == taken[7]


def test_versions_have_pools_of_their_own(db: sqlite3.Connection) -> None:
    made = many()
    assert allocation.assign(db, made, "v1", "a", "t") == allocation.assign(
        db, made, "v2", "b", "t"
    )


def test_a_sign_of_life_keeps_a_place(db: sqlite3.Connection) -> None:
    made = many()
    for name in ("a", "b", "c"):
        allocation.assign(db, made, "v", name, "2026-01-01T10")
    allocation.extend(db, "a", "2026-01-01T12")
    allocation.complete(db, "c")
    assert allocation.overdue(db, "2026-01-01T10") == []
    assert allocation.overdue(db, "2026-01-01T11") == ["b"]
    allocation.extend(db, "c", "2026-01-01T09")  # complete: nothing to hold any more
    held = db.execute("SELECT held_until FROM cell_pool WHERE participant_id = 'c'").fetchone()
    assert held == (None,)


def test_one_participant_has_one_place(db: sqlite3.Connection) -> None:
    made = many()
    allocation.assign(db, made, "v", "a", "t")
    with pytest.raises(sqlite3.IntegrityError):
        allocation.assign(db, made, "v", "a", "t")


def test_the_example_s_questions_do_not_change_the_plan() -> None:
    assert draw_plan(study(), plan_seed(study(), 1, "0a")) == draw_plan(
        study(questions=plain()["questions"][:1]), plan_seed(study(), 1, "0a")
    )
