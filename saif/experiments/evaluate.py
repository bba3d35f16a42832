"""Measure a preset on held-out texts, beside every baseline that belongs there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from saif.core.spec import Placement
from saif.core.steering import Steering
from saif.engine import LocalEngine
from saif.errors import PresetError
from saif.experiments.directions import (
    CONDITIONS,
    Condition,
    plain_saif,
    random_latents,
    single_latent,
)
from saif.experiments.scoring import Judged, Task, judge, make_replies, summarise
from saif.presets.instructions import Instruction, place
from saif.presets.preset import ConditionScores, LoadedPreset, Scores
from saif.presets.push import choice_push, mean_difference_push, steering_for
from saif.runtime.sae import Sae


@dataclass
class Evaluation:
    """A run over held-out texts. Replies that no steering touches are made once and shared by
    all presets with the same texts."""

    engine: LocalEngine
    load_sae: Callable[[int], Sae]
    max_new_tokens: int
    advance: Callable[[int], None]
    _unsteered: dict[tuple[str, str], list[Judged]] = field(default_factory=dict)

    def scores(
        self,
        preset: LoadedPreset,
        instruction: Instruction,
        placement: Placement,
        contents: Sequence[str],
        *,
        bound: float,
        command: str,
    ) -> Scores:
        """All conditions on `contents`, greedy. bound: see `saif.core.fluency`."""
        part = preset.preset.placements[placement]
        if part.mean_difference is None:
            raise PresetError(
                f"The preset '{preset.id}' is not calibrated.",
                hint="Run `python -m saif calibrate` first.",
            )
        rival = mean_difference_push(part.mean_difference)
        steerings: dict[Condition, Steering] = {
            "steered": steering_for(preset, placement, choice_push(part.choice)),
            "mean-difference": steering_for(preset, placement, rival),
            "random": random_latents(preset, placement, self.load_sae),
            "single-latent": single_latent(preset, placement),
            "saif": plain_saif(preset, placement),
        }
        judged = self._judged(instruction, placement, contents, steerings)
        rows = [_row(name, judged[name], bound, steerings.get(name)) for name in CONDITIONS]
        return Scores(
            split="held-out",
            n=len(contents),
            max_new_tokens=self.max_new_tokens,
            perplexity_bound=round(bound, 2),
            command=command,
            conditions=rows,
        )

    def _judged(
        self,
        instruction: Instruction,
        placement: Placement,
        contents: Sequence[str],
        steerings: dict[Condition, Steering],
    ) -> dict[Condition, list[Judged]]:
        tasks = {
            name: [Task(text, text, steering) for text in contents]
            for name, steering in steerings.items()
        }
        tasks["prompted"] = [
            Task(place(instruction.main_wording, text, placement), text) for text in contents
        ]
        flat = [task for group in tasks.values() for task in group]
        replies = make_replies(
            self.engine, flat, max_new_tokens=self.max_new_tokens, advance=self.advance
        )
        judged = judge(self.engine, instruction, flat, replies, contents=contents)
        n = len(contents)
        found = {name: judged[i * n : (i + 1) * n] for i, name in enumerate(tasks)}
        found["unsteered"] = self._plain(instruction, contents)
        return found

    def _plain(self, instruction: Instruction, contents: Sequence[str]) -> list[Judged]:
        key = (instruction.id, "\n".join(contents))
        if key not in self._unsteered:
            tasks = [Task(text, text) for text in contents]
            same_texts = (old for (_, texts), old in self._unsteered.items() if texts == key[1])
            known = next(same_texts, None)
            replies = (
                [judged.reply for judged in known]
                if known is not None
                else make_replies(
                    self.engine, tasks, max_new_tokens=self.max_new_tokens, advance=self.advance
                )
            )
            self._unsteered[key] = judge(
                self.engine, instruction, tasks, replies, contents=contents
            )
        return self._unsteered[key]


def _row(
    name: Condition, judged: Sequence[Judged], bound: float, steering: Steering | None
) -> ConditionScores:
    if steering is None:
        return summarise(name, judged, bound)
    layer = next(iter(steering.dose))
    return summarise(name, judged, bound, layer=layer, dose=sum(steering.dose.values()))
