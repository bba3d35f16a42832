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
    """One trial as it is to be shown.

    position: counts from 1 over all kinds. preset: a label of `PresetUse`, None in an attention
    check. prompts: ids, one per turn; empty in free chat. left, right: arms. gen_seed: of both
    arms' sampling. retest_of: the position of the main trial that comes again, sides swapped, with
    the very answers it had. check: id of an attention check.
    """

    position: int
    kind: Kind
    preset: str | None
    prompts: tuple[str, ...]
    left: str
    right: str
    gen_seed: int
    retest_of: int | None = None
    check: str | None = None


def arm_orders(study: Study) -> list[str]:
    """The labels of all arm orders: a row's number and `a` or `b` for the side."""
    return [f"{row}{side}" for row in range(_n_rows(study)) for side in "ab"]


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
    number, arm_order = _parts(study, seed)
    row, flipped = int(arm_order[:-1]), arm_order.endswith("b")
    main = [*_practice(study, number, row), *_main(study, number, row)]
    trials = [*_with_checks(study, main), *_retests(study, number, row, main)]
    positions: dict[int, int] = {}
    planned = []
    for position, draft in enumerate(trials, 1):
        left, right = draft.arms if draft.first_left != flipped else draft.arms[::-1]
        if draft.kind == "main":
            positions[draft.index] = position
        again = positions[draft.index] if draft.kind == "retest" else None
        planned.append(
            PlannedTrial(
                position=position,
                kind=draft.kind,
                preset=draft.preset,
                prompts=draft.prompts,
                left=left,
                right=right,
                gen_seed=gen_seed(seed, again or position),
                retest_of=again,
                check=draft.check,
            )
        )
    return planned


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A trial before it has a position. index: of a main trial, and of the retest of it."""

    kind: Kind
    arms: tuple[str, str]
    preset: str | None = None
    prompts: tuple[str, ...] = ()
    first_left: bool = True
    index: int = -1
    check: str | None = None


def _practice(study: Study, number: int, row: int) -> list[_Draft]:
    rng = _rng(study, "practice", number, row)
    prompts = study.prompts.practice if isinstance(study.prompts, FixedPrompts) else []
    preset = _preset_order(study, row)[0]
    return [
        _Draft(
            kind="practice",
            arms=_arms(study),
            preset=preset,
            prompts=_turns(study, prompts, place),
            first_left=rng.random() < 0.5,
        )
        for place in range(study.trials.practice)
    ]


def _main(study: Study, number: int, row: int) -> list[_Draft]:
    presets = _preset_order(study, row)
    sides = _sides(presets, _rng(study, "sides", number, row))
    prompts: list[Prompt] = []
    if isinstance(study.prompts, FixedPrompts):
        # Drawn for the row, not for the arm order: its two sides differ in nothing but the sides.
        rng = _rng(study, "prompts", number, row)
        prompts = rng.sample(study.prompts.items, study.trials.main * study.trials.turns)
    return [
        _Draft(
            kind="main",
            arms=_arms(study),
            preset=preset,
            prompts=_turns(study, prompts, index),
            first_left=first_left,
            index=index,
        )
        for index, (preset, first_left) in enumerate(zip(presets, sides, strict=True))
    ]


def _with_checks(study: Study, trials: Sequence[_Draft]) -> Iterator[_Draft]:
    """The trials with the attention checks behind the main trials they come after."""
    for draft in trials:
        yield draft
        for check in study.attention:
            if draft.kind == "main" and check.after == draft.index + 1:
                yield _Draft(kind="attention", arms=(CHECK_ARM, CHECK_ARM), check=check.id)


def _retests(study: Study, number: int, row: int, trials: Sequence[_Draft]) -> list[_Draft]:
    """Some main trials again, sides swapped; not the last one if that can be helped, which would
    be remembered."""
    main = [draft for draft in trials if draft.kind == "main"]
    rng = _rng(study, "retest", number, row)
    n = study.trials.retest
    chosen = rng.sample(main[:-1] if n < len(main) else main, n)
    return [replace(draft, kind="retest", first_left=not draft.first_left) for draft in chosen]


def _arms(study: Study) -> tuple[str, str]:
    return study.arms[0], study.arms[1]


def _turns(study: Study, prompts: Sequence[Prompt], place: int) -> tuple[str, ...]:
    """The ids for the turns of the trial at `place`; none in free chat."""
    turns = study.trials.turns
    return tuple(prompt.id for prompt in prompts[place * turns : (place + 1) * turns])


def _preset_order(study: Study, row: int) -> list[str]:
    """The preset of each main trial. Within participants, each round of all presets takes the next
    row of the square, starting at the arm order's own."""
    labels = [use.label for use in study.presets]
    if study.trials.presets == "between":
        return [labels[row]] * study.trials.main
    square = williams(len(labels))
    rounds = study.trials.main // len(labels)
    return [labels[i] for turn in range(rounds) for i in square[(row + turn) % len(square)]]


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


def _n_rows(study: Study) -> int:
    n = len(study.presets)
    return n if study.trials.presets == "between" else len(williams(n))


def _rng(study: Study, *what: object) -> random.Random:
    return random.Random("/".join(map(str, (study.seed, *what))))


def _parts(study: Study, seed: str) -> tuple[int, str]:
    """The block and the arm order that a plan's seed names."""
    own, _, rest = seed.partition("/")
    number, _, arm_order = rest.partition("/")
    if own != str(study.seed) or not number.isdigit() or arm_order not in arm_orders(study):
        raise StudyError(f"'{seed[:80]}' is not the seed of a plan of this study.")
    return int(number), arm_order
