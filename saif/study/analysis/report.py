"""A study's report: one page with everything in it, and the numbers beside it as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saif.files import replace_file
from saif.report.page import page_environment
from saif.report.style import WIDTH, Picture
from saif.study.analysis import figures
from saif.study.analysis.analyse import as_json
from saif.study.analysis.results import Analysis, Flow
from saif.study.analysis.wording import interval, p_value, percent

PAGE = "report.html"
NUMBERS = "analysis.json"


@dataclass(frozen=True, slots=True)
class Step:
    """A box of the flow diagram, and what leaves behind it."""

    name: str
    n: int
    leaving: tuple[tuple[str, int], ...] = ()


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
    return template.render(
        found=found, steps=flow_steps(found.quality.flow), pictures=_pictures(found), width=WIDTH
    )


def _pictures(found: Analysis) -> dict[str, Picture]:
    drawn: Sequence[Picture | None] = [
        figures.forest(found.presets, found.arms[0]),
        figures.people(found.presets, found.arms[0]),
        figures.by_side(found.presets, found.arms),
        figures.strengths(found.presets, found.arms),
        figures.times(found.quality.times),
    ]
    return {picture.name: picture for picture in drawn if picture}


def flow_steps(flow: Flow) -> tuple[Step, ...]:
    """The diagram of CONSORT, as far as a study knows of people: from consent on."""
    gone = (
        ("screened out", flow.screened),
        ("away for too long", flow.stale),
        ("withdrew", flow.withdrawn),
        ("withdrew, and data erased", flow.erased),
        ("still taking part", flow.going_on),
    )
    return (
        Step("gave consent", flow.consented, tuple(one for one in gone if one[1])),
        Step(
            f"finished, of {flow.planned} planned",
            flow.complete,
            (("missed too many attention checks", flow.missed_checks),)
            if flow.missed_checks
            else (),
        ),
        Step("per protocol", flow.per_protocol),
    )
