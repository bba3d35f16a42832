"""`study simulate` and `study power`: a study with made-up people, before there are real ones."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saif.cli.options import JsonOption, PresetsOption, open_library
from saif.cli.output import console, note, plain, print_json, working
from saif.cli.study.analysing import beside, show

if TYPE_CHECKING:
    from saif.study.design.publish import Version
    from saif.study.simulation.simulate import Recovery

_SOME_EXCLUDE = 0.3
"""As much as was lost to answers of language models on Prolific (AMPPS 2026)."""


def _share(name: str, text: str) -> object:
    return typer.Option(f"--{name}", metavar="SHARE", help=text)


IccOption = Annotated[float, _share("icc", "How alike one participant's votes are.")]


def simulate(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY.yaml|DIR", help="A study file, or a published study.")
    ],
    n: Annotated[int, typer.Option("--n", help="Made-up participants.")] = 50,
    rate: Annotated[float, _share("rate", "Of votes for the first arm.")] = 0.65,
    icc: IccOption = 0.15,
    ties: Annotated[float, _share("ties", "Of votes.")] = 0.1,
    left: Annotated[float, _share("left", "Added to the rate of what is on the left.")] = 0.0,
    dropout: Annotated[float, _share("dropout", "Who leave on the way.")] = 0.2,
    careless: Annotated[float, _share("careless", "Who choose at random.")] = 0.0,
    failing: Annotated[float, _share("failing", "Of trials in which an answer fails.")] = 0.02,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="FOLDER", help="Keep the bots' store here.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep the export here, and a report beside it."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="I", help="Other bots.")] = 0,
    presets: PresetsOption = None,
    json: JsonOption = False,
) -> None:
    """Play a whole study with bots, from consent to analysis, and say whether the analysis finds
    the preference that was planted. Real data are never touched."""
    from saif.study.analysis.report import write_page
    from saif.study.simulation.simulate import BotBehaviour, rehearse

    behaviour = BotBehaviour(
        rate=rate, icc=icc, ties=ties, left=left, dropout=dropout, careless=careless,
        failing=failing,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch, working("Playing …") as say:
        played = rehearse(
            _version_of(study, presets, Path(scratch) / "published"),
            n,
            behaviour,
            data=keep or Path(scratch) / "store",
            out=export or Path(scratch) / "export",
            seed=seed,
            tell=lambda done: say(f"Playing: {done} of {n} participants …"),
        )
    page = write_page(played.analysis, beside(export)) if export else None
    if json:
        print_json(
            {
                "ended": dict(played.ended),
                "recoveries": [
                    asdict(one) | {"recovered": one.recovered} for one in played.recoveries
                ],
                "analysis": asdict(played.analysis),
                "page": str(page) if page else None,
            }
        )
        return
    show(played.analysis)
    ended = ", ".join(f"{count} {how}" for how, count in sorted(played.ended.items()))
    screen = console()
    screen.print(f"Bots: {ended}.")
    for one in played.recoveries:
        screen.print(plain(_verdict(one)), soft_wrap=True)
    if page:
        print(page)


def _version_of(study: Path, presets: Path | None, scratch: Path) -> "Version":
    from saif.study.design.publish import publish
    from saif.study.design.study_file import read_study

    if study.is_dir():
        from saif.study.opening import newest_version

        return newest_version(study)
    return publish(read_study(study), open_library(presets), scratch)[0]


def _verdict(found: "Recovery") -> str:
    planted = f"{found.preset}: {100 * found.planted:.1f} % was planted"
    if found.recovered is None:
        return f"{planted}; there is no interval to hold it against."
    if not found.tells:
        return f"TOO FEW. {planted}, but so wide an interval would hold anything: use more --n."
    if found.recovered:
        return f"RECOVERED. {planted}, and lies within the interval."
    return (
        f"NOT RECOVERED. {planted}, and lies outside the interval. One study in twenty does this "
        "by chance: try another --seed."
    )


def power(
    rate: Annotated[
        float, _share("rate", "Expected of votes for the first arm, or the least that matters.")
    ],
    votes: Annotated[int, typer.Option(help="Per participant and preset.")] = 10,
    icc: IccOption = 0.15,
    ties: Annotated[float, _share("ties", "Of votes.")] = 0.0,
    random: Annotated[float, _share("random", "Participants who answer by chance.")] = 0.0,
    exclusion: Annotated[float, _share("exclusion", "Participants whose data won't count.")] = 0.0,
    dropout: Annotated[float, _share("dropout", "Participants who leave.")] = 0.0,
    presets: Annotated[int, typer.Option(help="Tested in one family, with Holm.")] = 1,
    alpha: Annotated[float, _share("alpha", "Of the test.")] = 0.05,
    target: Annotated[float, _share("target", "Power to reach.")] = 0.8,
    participants: Annotated[
        int | None, typer.Option(metavar="N", help="Tell the power with so many instead.")
    ] = None,
    studies: Annotated[int, typer.Option(help="Simulated for each number.")] = 4000,
    seed: Annotated[int, typer.Option(metavar="I", help="Other simulated people.")] = 0,
    json: JsonOption = False,
) -> None:
    """How many participants a study needs, by simulating it."""
    from saif.core.types import check_between
    from saif.study.analysis.power import Scenario, participants_needed
    from saif.study.analysis.power import power as power_of

    scenario = Scenario(
        rate=rate, votes=votes, icc=icc, ties=ties, random=random, exclusion=exclusion,
        dropout=dropout, presets=presets, alpha=alpha,
    )  # fmt: skip
    check_between("studies", studies, 100, 100_000)
    with working("Simulating …") as say:
        if participants is not None:
            found = power_of(scenario, participants, studies=studies, seed=seed)
        else:
            found = participants_needed(
                scenario,
                target=target,
                studies=studies,
                seed=seed,
                tell=lambda n: say(f"Simulating {studies} studies of {n} participants …"),
            )
    if json:
        print_json({"scenario": asdict(scenario), **asdict(found)})
        return
    screen = console()
    screen.print(
        f"{found.participants} participants whose data count: power {found.power:.3f} "
        f"(± {found.error:.3f} of the simulation)."
    )
    screen.print(f"Recruit {found.recruit}.", style="bold")
    note(
        "This takes everyone's messages to differ. Where all see the same few, the interval allows "
        "for those, too: play the study with `study simulate`."
    )
    if scenario.exclusion < _SOME_EXCLUDE:
        many = scenario.recruit(found.participants, exclusion=_SOME_EXCLUDE)
        note(
            f"Recruit {many} if {100 * _SOME_EXCLUDE:.0f} % have to be excluded: so many were lost "
            "to answers of language models on Prolific."
        )
