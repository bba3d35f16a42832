"""Who sees what, in which order and on which side: drawn from the study's seed, and balanced.

An *arm order* is one sequence of trials: a row of preset orders (or, between participants, one
preset) and a side. Arm orders are allocated in permuted blocks, each of which holds every one once,
so that they stay balanced however many take part. The two sides of a row mirror each other trial by
trial. Everything follows from the seed, the block and the arm order, so a plan can be drawn again.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

from saif.errors import StudyError
from saif.study.design.study_file import FixedPrompts, Kind, Prompt, Study

CHECK_ARM = "check"
"""What stands for both arms of an attention check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrial:
    """One trial as it is to be shown."""

    position: int = 0
    """Counts from 1 over all kinds."""
    kind: Kind
    preset: str | None = None
    """A label of `PresetUse`; None in an attention check."""
    prompts: tuple[str, ...] = ()
    """Ids, one per message; empty in free chat."""
    left: str
    right: str
    """Arms."""
    gen_seed: int = 0
    """Of both arms' sampling."""
    retest_of: int | None = None
    """Position of the main trial that comes again, sides swapped, with the very answers it had."""
    check: str | None = None
    """Id of an attention check."""


def arm_orders(study: Study) -> list[str]:
    """The labels of all arm orders: a row's number and `a` or `b` for the side."""
    n = len(study.presets)
    n_rows = n if study.trials.presets == "between" else len(williams(n))
    return [f"{row}{side}" for row in range(n_rows) for side in "ab"]


def block(study: Study, number: int) -> list[str]:
    """The arm orders of one block, in the order in which they are allocated."""
    drawn = arm_orders(study)
    _rng(study, "block", number).shuffle(drawn)
    return drawn


def plan_seed(study: Study, block: int, arm_order: str) -> str:
    """What a participant's plan is drawn from."""
    return f"{study.seed}/{block}/{arm_order}"


def gen_seed(plan_seed: str, position: int, attempt: int = 1) -> int:
    """The sampling seed of a trial, below 2^48; a trial that is issued again gets another."""
    digest = hashlib.sha256(f"{plan_seed}/{position}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def draw_plan(study: Study, seed: str) -> list[PlannedTrial]:
    """All trials of one participant, in order. `seed` comes from `plan_seed`.

    Over the main trials, and over those of each preset, the first arm is on the left in half of
    them, or as near to half as an odd number allows. Raises StudyError for the seed of an arm
    order that this study does not have.
    """
    own, _, rest = seed.partition("/")
    block, _, arm_order = rest.partition("/")
    if own != str(study.seed) or not block.isdigit() or arm_order not in arm_orders(study):
        raise StudyError(f"'{seed[:80]}' is not the seed of a plan of this study.")
    number, row, flipped = int(block), int(arm_order[:-1]), arm_order.endswith("b")
    main = _main(study, number, row)
    trials = [*_practice(study, number, row), *_with_checks(study, main)]
    placed = [replace(trial, position=position) for position, trial in enumerate(trials, 1)]
    for again in _retests(study, number, row, [one for one in placed if one.kind == "main"]):
        placed.append(replace(again, position=len(placed) + 1))
    sided = [_flipped(trial) if flipped else trial for trial in placed]
    return [replace(one, gen_seed=gen_seed(seed, one.retest_of or one.position)) for one in sided]


def _flipped(trial: PlannedTrial) -> PlannedTrial:
    return replace(trial, left=trial.right, right=trial.left)


def _practice(study: Study, number: int, row: int) -> list[PlannedTrial]:
    rng = _rng(study, "practice", number, row)
    prompts = study.prompts.practice if isinstance(study.prompts, FixedPrompts) else []
    preset = _preset_order(study, row)[0]
    return [
        _trial(study, "practice", preset, prompts, place, rng.random() < 0.5)
        for place in range(study.trials.practice)
    ]


def _main(study: Study, number: int, row: int) -> list[PlannedTrial]:
    presets = _preset_order(study, row)
    sides = _sides(presets, _rng(study, "sides", number, row))
    prompts: list[Prompt] = []
    if isinstance(study.prompts, FixedPrompts):
        # Drawn for the row, not for the arm order: its two sides differ in nothing but the sides.
        rng = _rng(study, "prompts", number, row)
        prompts = rng.sample(study.prompts.items, study.trials.main * study.trials.turns)
    return [
        _trial(study, "main", preset, prompts, place, first_left)
        for place, (preset, first_left) in enumerate(zip(presets, sides, strict=True))
    ]


def _trial(
    study: Study, kind: Kind, preset: str, prompts: Sequence[Prompt], place: int, first_left: bool
) -> PlannedTrial:
    """A trial without its position and seed, which follow from the whole plan."""
    first, second = study.arms
    left, right = (first, second) if first_left else (second, first)
    n = study.trials.turns
    own = tuple(prompt.id for prompt in prompts[place * n : (place + 1) * n])
    return PlannedTrial(kind=kind, preset=preset, prompts=own, left=left, right=right)


def _with_checks(study: Study, main: Sequence[PlannedTrial]) -> Iterator[PlannedTrial]:
    """The main trials with the attention checks behind those they come after."""
    for n_done, trial in enumerate(main, 1):
        yield trial
        for check in study.attention:
            if check.after == n_done:
                arm = CHECK_ARM
                yield PlannedTrial(kind="attention", check=check.id, left=arm, right=arm)


def _retests(study: Study, number: int, row: int, main: list[PlannedTrial]) -> list[PlannedTrial]:
    """Some main trials again, sides swapped; not the last one if that can be helped, which would
    be remembered."""
    rng = _rng(study, "retest", number, row)
    n = study.trials.retest
    chosen = rng.sample(main[:-1] if n < len(main) else main, n)
    return [_flipped(replace(one, kind="retest", retest_of=one.position)) for one in chosen]


def _preset_order(study: Study, row: int) -> list[str]:
    """The preset of each main trial. Within participants, each round of all presets takes the next
    row of the square, starting at the arm order's own."""
    labels = [use.label for use in study.presets]
    if study.trials.presets == "between":
        return [labels[row]] * study.trials.main
    square = williams(len(labels))
    rounds = study.trials.main // len(labels)
    return [labels[i] for k in range(rounds) for i in square[(row + k) % len(square)]]


def _sides(presets: Sequence[str], rng: random.Random) -> list[bool]:
    """Whether the first arm is on the left: half of the times of each preset, in random order.

    Where a preset has an odd number of trials, the odd one goes left and right in turn.
    """
    odd_one = cycle([True, False])
    left: dict[str, list[bool]] = {}
    for preset in dict.fromkeys(presets):
        n = presets.count(preset)
        left[preset] = [True, False] * (n // 2) + [next(odd_one)] * (n % 2)
        rng.shuffle(left[preset])
    return [left[preset].pop() for preset in presets]


def williams(n: int) -> list[list[int]]:
    """Orders of n things, such that each stands equally often in every place and equally often
    right after every other: n orders for an even n, 2n for an odd one.

    Williams, Australian J. of Scientific Research A 2 (1949) 149.
    """
    zigzag = [(place + 1) // 2 if place % 2 else (n - place // 2) % n for place in range(n)]
    square = [[(thing + shift) % n for thing in zigzag] for shift in range(n)]
    return square if n % 2 == 0 or n == 1 else square + [row[::-1] for row in square]


def _rng(study: Study, *what: object) -> random.Random:
    return random.Random("/".join(map(str, (study.seed, *what))))
