"""A study's report: one page with everything in it, its pictures each with a text alternative, and
the numbers beside it as JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from saif.files import replace_file
from saif.report.page import page_environment
from saif.report.plots import heading, row_label, row_value, rows
from saif.report.style import INK, SOFT, WIDTH, Picture, Sheet, darker, paler
from saif.study.analysis.analyse import as_json
from saif.study.analysis.estimates import Share
from saif.study.analysis.quality import Bin, Times
from saif.study.analysis.results import Analysis, BySide, PresetOutcome
from saif.study.analysis.wording import interval, p_value, percent

PAGE = "report.html"
NUMBERS = "analysis.json"

FIRST, SECOND, NEITHER, BAD = "#0072b2", "#d55e00", "#b5bcc6", "#7d8692"
"""Colours of votes for the first arm, for the second, of ties and of both bad."""


def write_page(found: Analysis, folder: Path) -> Path:
    """Write the page and the numbers; the path of the page. The same analysis gives the same
    bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / NUMBERS, as_json(found).encode("utf-8", "replace"))
    replace_file(folder / PAGE, render(found).encode("utf-8", "replace"))
    return folder / PAGE


def render(found: Analysis) -> str:
    """The page as HTML. Whatever was typed or comes from a file is escaped."""
    environment = page_environment(Path(__file__).parent)
    environment.filters.update(
        percent=percent,
        interval=interval,
        p_value=p_value,
        number=lambda value: "–" if value is None else f"{value:.2f}",
        odds=lambda value: f"{value:.3g}",
    )
    template = environment.get_template("page.html")
    drawn = (
        forest(found.presets, found.arms[0]),
        people(found.presets, found.arms[0]),
        by_side(found.presets, found.arms),
        clarity(found.presets, found.arms),
        times(found.quality.times),
    )
    return template.render(
        found=found,
        steps=flow_steps(found.quality.flow),
        pictures={picture.name: picture for picture in drawn if picture},
        width=WIDTH,
    )


def flow_steps(flow: Mapping[str, int]) -> list[tuple[str, int, list[tuple[str, int]]]]:
    """The diagram of CONSORT, as far as a study knows of people, from consent on: (a box's words,
    how many are in it, [(why they leave behind it, how many)])."""
    gone = [
        ("screened out", flow["screened"]),
        ("away for too long", flow["stale"]),
        ("withdrew", flow["withdrawn"]),
        ("withdrew, and data erased", flow["erased"]),
        ("still taking part", flow["going_on"]),
    ]
    missed = [("missed too many attention checks", flow["missed_checks"])]
    return [
        (name, n, [one for one in leaving if one[1]])
        for name, n, leaving in (
            ("gave consent", flow["consented"], gone),
            (f"finished, of {flow['planned']} planned", flow["complete"], missed),
            ("per protocol", flow["per_protocol"], []),
        )
    ]


def forest(presets: Sequence[PresetOutcome], first: str) -> Picture | None:
    """The estimate of each preset with its interval; paler, the same without ties and per protocol.
    None where there is no estimate."""
    lines: list[tuple[str, Share | None]] = []
    for one in presets:
        if one.share.value is not None:
            lines += [(one.preset, None), ("everyone", one.share)]
            others = [(name, one.sensitivities[name]) for name in ("ties dropped", "per protocol")]
            lines += [(name, share) for name, share in others if share.value is not None]
    if not lines:
        return None
    height = 86 + 24 * len(lines)
    title = f"Votes for '{first}'"
    told = []
    with Sheet(title, height, left=132, right=96) as sheet:
        axes = sheet.axes
        axes.axvline(50, color=SOFT, linewidth=1)
        for place, (name, share) in enumerate(lines):
            if share is None:
                heading(axes, place, name)
                told.append(name)
            else:
                _estimate(axes, place, share, headline=name == "everyone")
                row_label(axes, place, name, strong=name == "everyone")
                told.append(f"{name} {percent(share.value)} ({interval(share)})")
        rows(axes, len(lines))
        sheet.percent_axis("x", "share of votes, %, with 95 % interval; line: no preference")
        return Picture("forest", f"{title}. {'; '.join(told)}.", sheet.png(), height)


def _estimate(axes: Axes, place: int, share: Share, *, headline: bool) -> None:
    value, colour = 100 * (share.value or 0), FIRST if headline else paler(FIRST)
    told = f"{value:.0f} %"
    if share.low is not None and share.high is not None:
        low, high = 100 * share.low, 100 * share.high
        axes.plot([low, high], [place] * 2, color=colour, linewidth=2.4 if headline else 1.4)
        told += f" ({low:.0f} to {high:.0f})"
    marker = "s" if headline else "o"
    axes.plot(value, place, marker, color=colour, markersize=7 if headline else 4, clip_on=False)
    row_value(axes, place, told, strong=headline)


def people(presets: Sequence[PresetOutcome], first: str) -> Picture | None:
    """A dot for each participant; equal shares are stacked. None where nobody voted."""
    shown = [one for one in presets if one.participants]
    if not shown:
        return None
    height = 78 + 92 * len(shown)
    title = f"Each participant's share of votes for '{first}'"
    told = []
    with Sheet(title, height, left=24, right=24) as sheet:
        axes = sheet.axes
        axes.axvline(50, color=SOFT, linewidth=1)
        for place, one in enumerate(shown):
            heading(axes, place - 0.42, one.preset)
            shares = [person.share for person in one.participants]
            _dots(axes, place + 0.08, shares)
            if one.share.value is not None:
                value = 100 * one.share.value
                axes.plot([value, value], [place + 0.44, place - 0.28], color=FIRST, linewidth=1.6)
            above, below = sum(x > 0.5 for x in shares), sum(x < 0.5 for x in shares)
            told.append(
                f"{one.preset}: {above} of {len(shares)} above one half, {below} below, "
                f"from {percent(min(shares))} to {percent(max(shares))}"
            )
        axes.set_ylim(len(shown) - 0.5, -0.58)
        axes.set_yticks([])
        sheet.percent_axis("x", "share of votes, %; a dot is a participant, blue: their mean")
        return Picture("people", f"Dot plot. {title}. {'; '.join(told)}.", sheet.png(), height)


def _dots(axes: Axes, place: float, shares: Sequence[float]) -> None:
    """Shares within two points of each other are stacked, as close as their number demands."""
    stacks = Counter(round(share * 50) for share in shares)
    gap = min(0.1, 0.66 / max(stacks.values()))
    for where, n in stacks.items():
        heights = [place + gap * (level - (n - 1) / 2) for level in range(n)]
        axes.plot(
            [2 * where] * n, heights, "o", color=INK, alpha=0.55, markersize=4.2,
            markeredgewidth=0, clip_on=False,
        )  # fmt: skip


def by_side(presets: Sequence[PresetOutcome], arms: Sequence[str]) -> Picture | None:
    """How the votes fell with the first arm on the left, and on the right."""
    lines: list[str | BySide] = []
    for one in presets:
        if one.counts["votes"]:
            lines += [one.preset, *one.by_side]
    if not lines:
        return None
    height = 96 + 30 * len(lines)
    title = f"Votes by the side of '{arms[0]}'"
    told = []
    with Sheet(title, height, left=96, right=24) as sheet:
        axes = sheet.axes
        for place, line in enumerate(lines):
            if isinstance(line, str):
                heading(axes, place, line)
                told.append(line)
                continue
            row_label(axes, place, f"on the {line.first_arm_on}")
            told.append(
                f"{arms[0]} on the {line.first_arm_on}: {line.first} for {arms[0]}, {line.tie} "
                f"ties, {line.both_bad} both bad, {line.second} for {arms[1]}"
            )
        bars = {place: line for place, line in enumerate(lines) if isinstance(line, BySide)}
        ends = [0.0] * len(bars)
        for name, label, colour in (
            ("first", arms[0], FIRST),
            ("tie", "tie", NEITHER),
            ("both_bad", "both bad", BAD),
            ("second", arms[1], SECOND),
        ):
            counts = [getattr(side, name) for side in bars.values()]
            wide = [100 * n / max(1, one.n) for n, one in zip(counts, bars.values(), strict=True)]
            drawn = axes.barh(
                list(bars), wide, left=ends, height=0.62, color=colour, linewidth=0, label=label
            )
            axes.bar_label(
                drawn, [f"{n}" if width > 5 else "" for n, width in zip(counts, wide, strict=True)],
                label_type="center", fontsize=8, color=INK if colour == NEITHER else "white",
            )  # fmt: skip
            ends = [end + width for end, width in zip(ends, wide, strict=True)]
        rows(axes, len(lines), margin=0.35)
        sheet.percent_axis("x", "votes, %")
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=4, frameon=False, fontsize=7.5,
            handlelength=0.9, handleheight=0.9, columnspacing=1.1, handletextpad=0.4,
            borderaxespad=0.1,
        )  # fmt: skip
        return Picture("sides", f"Stacked bars. {title}. {'; '.join(told)}.", sheet.png(), height)


def times(found: Times) -> Picture | None:
    """How long participants took to decide."""
    if not found.n:
        return None
    return _columns("times", "Seconds until the vote", found.histogram, [("votes", FIRST)])


def clarity(presets: Sequence[PresetOutcome], arms: Sequence[str]) -> Picture | None:
    """How clear preferences were, over all presets, for either arm."""
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for one in (one for preset in presets for one in preset.strengths):
        first[one.label] += one.n
        second[one.label] += one.second or 0
    if not first.total() + second.total():
        return None
    summed = [Bin(label, n, second[label]) for label, n in first.items()]
    pairs = [(f"for {arms[0]}", FIRST), (f"for {arms[1]}", SECOND)]
    return _columns("strengths", "Strength of preference", summed, pairs)


def _columns(
    name: str, title: str, bins: Sequence[Bin], kinds: Sequence[tuple[str, str]]
) -> Picture:
    height = 240
    width = 0.8 / len(kinds)
    with Sheet(title, height, left=44, right=16) as sheet:
        axes = sheet.axes
        for nth, (kind, colour) in enumerate(kinds):
            counts = [(one.n, one.second or 0)[nth] for one in bins]
            shift = (nth - (len(kinds) - 1) / 2) * width
            drawn = axes.bar(
                [place + shift for place in range(len(bins))], counts, width=width * 0.94,
                color=colour, linewidth=0, label=kind,
            )  # fmt: skip
            labels = [f"{n}" if n else "" for n in counts]
            axes.bar_label(drawn, labels, fontsize=7.5, color=darker(colour))
        axes.set_xticks(range(len(bins)), [one.label for one in bins], fontsize=7.5)
        axes.set_yticks([])
        axes.margins(y=0.12)
        if len(kinds) > 1:
            axes.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1.0, 1.16),
                        ncols=2, handlelength=0.9)  # fmt: skip
        told = [
            f"{one.label}: {one.n}" + ("" if one.second is None else f" and {one.second}")
            for one in bins
        ]
        what = " and ".join(kind for kind, _ in kinds)
        return Picture(name, f"Bars. {title}, {what}. {'; '.join(told)}.", sheet.png(), height)
