"""What the panel says about a preset, as HTML. gr.HTML doesn't sanitise, so all text that comes
from a file is escaped here."""

from html import escape
from typing import Literal

from saif.core.types import Placement
from saif.presets.preset import ConditionScores, Interval, Latent, Preset, Selected
from saif.report.conditions import shown
from saif.runtime.catalog import KnownModel, Quantize

SHOWN_WORDS = 5


def dose_line(card: Preset, placement: Placement, strength: float) -> str:
    """What the strength comes to, in a unit that means the same on every model."""
    if strength == 0:
        return '<p class="readout"><b>Off.</b> Nothing is added; the columns will be the same.</p>'
    dose = strength * card.placements[placement].choice.dose
    mark = "calibrated" if strength == 1 else f"{strength:g} × calibrated"
    return (
        f'<p class="readout"><b>Dose {dose:.2f}</b> = {dose:.0%} of the residual '
        f"stream’s length <span>({mark})</span></p>"
    )


def latents_table(selected: Selected, *, strength: float) -> str:
    """The latents that steer: which, which way, and the words each one raises."""
    pairs = zip(selected.latents, selected.coefficients.tolist(), strict=True)
    rows = "".join(_latent_row(latent, coefficient) for latent, coefficient in pairs)
    off = '<p class="fine">Strength is 0: none of these steers now.</p>' if not strength else ""
    return (
        f'{off}<table class="latents"><thead><tr><th scope="col">Steered</th>'
        '<th scope="col">Latent</th><th scope="col">Words it raises when active</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _latent_row(latent: Latent, coefficient: float) -> str:
    arrow, way = ("↑", "up") if coefficient >= 0 else ("↓", "down")
    words = " ".join(
        f"<q>{escape(word.strip())}</q>" for word in latent.words[:SHOWN_WORDS] if word.strip()
    )
    return (
        f'<tr><td class="{way}"><span aria-hidden="true">{arrow}</span> {way}</td>'
        f"<td>{latent.id}</td><td>{words}</td></tr>"
    )


def scores_table(card: Preset, placement: Placement) -> str:
    """The preset's measured rates beside all baselines, or that there are none."""
    scores = card.placements[placement].scores
    if scores is None:
        return '<p class="fine">This preset has not been measured.</p>'
    rows = "".join(_score_row(condition) for condition in scores.conditions)
    return (
        '<table class="scores"><thead><tr><th scope="col">Replies</th>'
        '<th scope="col">Follow it</th><th scope="col">Strictly</th>'
        f'<th scope="col">Broken</th></tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="fine">{scores.n} texts ({escape(scores.split)}), at most '
        f"{scores.max_new_tokens} tokens, greedy. Broken: repeats itself or falls apart. "
        "Hover over a rate for its 95 % interval.</p>"
    )


def _score_row(condition: ConditionScores) -> str:
    title = shown(condition.condition).label
    cells = "".join(
        _rate(rate) for rate in (condition.loose, condition.strict, condition.degenerate)
    )
    here = ' class="here"' if condition.condition == "steered" else ""
    return f'<tr{here}><th scope="row">{escape(title[:1].upper() + title[1:])}</th>{cells}</tr>'


def _rate(rate: Interval) -> str:
    return (
        f'<td title="{rate.successes} of {rate.n}; 95 % interval {rate.low:.0%} to '
        f'{rate.high:.0%}">{rate.value:.0%}</td>'
    )


def problems_line(problems: list[str]) -> str:
    """Sentences as one notice; empty when there is nothing to say."""
    if not problems:
        return ""
    lines = "".join(f"<p>{escape(problem)}</p>" for problem in problems)
    return f'<div class="notice" role="alert">{lines}</div>'


def said(sentence: str) -> str:
    """A sentence in small print."""
    return f'<p class="fine">{escape(sentence)}</p>'


def status_line(model_id: str, state: Literal["loading", "ready", "failed"], said: str) -> str:
    """The page's head: which model answers, and whether it can yet, which `said` puts in words."""
    return (
        '<header class="page-head"><h1>SAIF</h1>'
        "<p>One model, answering twice: left alone, and steered from inside</p>"
        f'<div class="model {state}" role="status" title="{escape(model_id)}">'
        f"<b>{escape(model_id.rsplit('/', 1)[-1])}</b>"
        f"<span>{escape(said)}</span></div></header>"
    )


def model_line(entry: KnownModel | None, where: str) -> str:
    """What loading a model means. entry: None for one that isn't known. where: its weights are."""
    if entry is None:
        return '<p class="fine">A hub id or a local folder of any language model.</p>'
    kind = "Trained to chat." if entry.chat else "A base model: it continues text."
    gate = " Its licence has to be accepted on the hub." if entry.gated else ""
    sizes = " · ".join(f"{_BITS[way]} {size} GB" for way, size in entry.gigabytes.items())
    layers = entry.saes[0].layers if entry.saes else ()
    saes = f"SAEs at {len(layers)} of {entry.n_layers} layers."
    return f'<p class="fine">{kind}{gate} {escape(where)} {saes}<br>{sizes}</p>'


_BITS: dict[Quantize, str] = {"none": "16-bit", "int8": "8-bit", "4bit": "4-bit"}


def cost_line(prompts: int, replies: int, seconds: float) -> str:
    read = f"{prompts:,} prompts to read and " if prompts else ""
    return (
        f'<p class="fine">{read}{replies:,} replies to write and judge: {about_time(seconds)} '
        "here. Chatting goes on meanwhile, and goes first.</p>"
    )


def about_time(seconds: float) -> str:
    """A duration as a person would say it."""
    if seconds < 90:
        n = max(5, 5 * round(seconds / 5))
        return f"about {n} seconds"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"about {minutes} minutes"
    return f"about {minutes / 60:.1f} hours"


def progress_line(title: str, share: float, seconds_left: float, *, paused: bool) -> str:
    """How far a preset in the making is."""
    left = "waiting until the reply is written" if paused else f"{about_time(seconds_left)} left"
    return (
        f'<p class="readout"><b>{escape(title)}</b>: {share:.0%} <span>({left})</span></p>'
        f'<progress value="{share:.3f}" max="1" aria-label="{escape(title)}"></progress>'
    )
