"""From a study's folder to its report, its export and its rehearsal, by command."""

import json
import re
from pathlib import Path

import pytest
from made_up_participants import complete, make_store, published, rows

from saif.cli.study.running import open_study
from saif.study.design.publish import canonical
from saif.study.simulation.simulate import BotBehaviour
from saif.study.store.store import Store

TOLD = re.compile(r"--(\w+) (?:(?!--).)*?\[default: ([\d.]+)\]")


@pytest.fixture
def store(tmp_path) -> Store:
    """A study of two participants of which one is complete, with its version beside its data."""
    version = published(quota__complete=2)
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "version-001.json").write_text(canonical(version), "utf-8")
    (folder / "version-001.sha256").write_text(f"{version.id}  version-001.json\n", "utf-8")
    store = make_store(tmp_path, version=version)
    complete(store, 0)
    return store


def test_the_outcome_is_refused_until_it_is_due(saif, refused, store, tmp_path):
    told = refused(saif("study", "analyse", store.folder))
    assert "hidden until 2 participants are complete; 1 are" in told
    assert not (tmp_path / "store-analysis").exists()
    complete(store, 1)
    result = saif("study", "analyse", store.folder)
    assert result.exit_code == 0, result.stderr
    assert "What limits this" in result.stdout
    assert result.stdout.rstrip().endswith("report.html")
    assert {path.name for path in (tmp_path / "store-analysis").iterdir()} == {
        "report.html",
        "analysis.json",
    }


def test_the_quality_of_the_data_may_be_seen_at_any_time(saif, store, tmp_path):
    shown = saif("study", "analyse", store.folder, "--quality")
    assert shown.exit_code == 0, shown.stderr
    assert "1 of 2 finished" in shown.stdout
    assert "steered" not in shown.stdout
    found = json.loads(saif("study", "analyse", store.folder, "--quality", "--json").stdout)
    assert found["flow"]["complete"] == 1
    assert "steered" not in json.dumps(found)
    assert not (tmp_path / "store-analysis").exists()
    assert rows(store, "SELECT * FROM audit WHERE action = 'unblind'") == []


def test_an_early_look_is_noted_with_its_reason_and_its_actor(saif, refused, store, tmp_path):
    assert "reason" in refused(saif("study", "analyse", store.folder, "--unblind", " "))
    assert rows(store, "SELECT * FROM audit WHERE action = 'unblind'") == []
    out = tmp_path / "out"
    result = saif(
        "study", "analyse", store.folder, "--unblind", "A pilot.", "--actor", "Kim", "--out", out,
        "--json",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert [look["reason"] for look in found["looks"]] == ["A pilot."]
    assert found["page"] == str(out / "report.html")
    assert rows(store, "SELECT actor FROM audit WHERE action = 'unblind'") == [("Kim",)]
    assert "hidden" in refused(saif("study", "analyse", store.folder))  # each look has its reason


def test_an_export_is_analysed_as_its_store_is(saif, store, tmp_path):
    complete(store, 1)
    out = tmp_path / "out"
    result = saif("study", "export", store.folder, "--out", out, "--profile", "full",
                  "--actor", "Kim")  # fmt: skip
    assert result.stdout.strip() == str(out / "SHA256SUMS")
    assert rows(store, "SELECT actor FROM audit WHERE action = 'export'") == [("Kim",)]
    found = [
        json.loads(saif("study", "analyse", source, "--json").stdout)
        for source in (store.folder, out)
    ]
    pages = [one.pop("page") for one in found]
    again = json.loads(saif("study", "analyse", store.folder, "--json").stdout)["page"]
    assert Path(again).parent.name == "store-analysis-2"  # an earlier report stays
    assert found[0] == found[1]
    assert [Path(page).parent.name for page in pages] == ["store-analysis", "out-analysis"]
    late = saif("study", "analyse", out, "--unblind", "Curious.", "--texts", "--json")
    assert "no early look was noted" in late.stderr
    assert json.loads(late.stdout)["questions"][1]["texts"] == ["a remark of 0", "a remark of 1"]
    from_store = saif("study", "analyse", store.folder, "--texts", "--json")
    assert json.loads(from_store.stdout)["questions"][1]["texts"]


def test_a_report_goes_into_a_folder_that_is_new(saif, refused, store, tmp_path):
    complete(store, 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x", "utf-8")
    told = refused(saif("study", "analyse", store.folder, "--out", tmp_path / "full"))
    assert "not empty" in told


def test_an_export_before_the_end_needs_a_reason_as_a_look_does(saif, refused, store, tmp_path):
    out = tmp_path / "out"
    assert "stays hidden until" in refused(saif("study", "export", store.folder, "--out", out))
    assert "reason" in refused(
        saif("study", "export", store.folder, "--out", out, "--unblind", " ")
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x", "utf-8")
    command = ("study", "export", store.folder, "--unblind", "A pilot.", "--actor", "Kim")
    refused(saif(*command, "--out", tmp_path / "full"))
    assert not out.exists()
    assert rows(store, "SELECT * FROM audit WHERE action = 'unblind'") == []
    assert saif(*command, "--out", out).exit_code == 0
    assert rows(store, "SELECT actor FROM audit WHERE action = 'unblind'") == [("Kim",)]
    assert [look["reason"] for look in json.loads((out / "looks.json").read_text())] == ["A pilot."]


def test_what_is_no_study_is_refused(saif, refused, tmp_path, store):
    assert "There is no folder" in refused(saif("study", "analyse", tmp_path / "nowhere"))
    assert "No study was published" in refused(saif("study", "analyse", tmp_path))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x", "utf-8")
    told = refused(saif("study", "export", store.folder, "--out", tmp_path / "full"))
    assert "not empty" in told


# Rehearsing


def test_a_rehearsal_says_whether_it_found_what_was_planted(saif, tmp_path):
    file = tmp_path / "study.yaml"
    saif("study", "init", file)
    result = saif(
        "study", "simulate", file, "--n", 16, "--rate", 0.8, "--icc", 0, "--ties", 0.2,
        "--dropout", 0, "--seed", 1, "--export", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "Bots: 16 complete." in result.stdout
    assert "RECOVERED. translate-french/post/1: 74.0 % was planted" in result.stdout
    assert "NOT RECOVERED" not in result.stdout
    assert (tmp_path / "out" / "trials.csv").exists()
    assert (tmp_path / "out-analysis" / "report.html").exists()


def test_a_published_study_is_rehearsed_beside_its_data_and_past_its_quota(
    saif, refused, store, tmp_path
):
    arguments = ("study", "simulate", store.folder, "--n", 6, "--dropout", 0, "--json")
    result = saif(*arguments, "--keep", tmp_path / "kept")
    found = json.loads(result.stdout)
    assert found["ended"] == {"complete": 6}
    assert found["analysis"]["made_up"] is True
    assert found["recoveries"][0]["planted"] == pytest.approx(0.1 * 0.5 + 0.9 * 0.65)
    assert found["page"] is None
    assert (tmp_path / "kept" / "study.db").exists()
    assert rows(store, "SELECT COUNT(*) FROM participant") == [(1,)]
    assert "not empty" in refused(saif(*arguments, "--keep", tmp_path / "kept"))
    assert "not empty" in refused(saif(*arguments, "--keep", store.folder))
    assert "n must lie" in refused(saif("study", "simulate", store.folder, "--n", 0))
    assert "rate must lie" in refused(saif("study", "simulate", store.folder, "--rate", 2))
    assert open_study(store.folder, to_look=True).version.number == 1


# Power


def test_the_calculator_tells_how_many_to_recruit(saif, refused):
    asked = ("study", "power", "--rate", 0.65, "--studies", 500, "--dropout", 0.5, "--json")
    found = json.loads(saif(*asked).stdout)
    assert 18 <= found["participants"] <= 27  # ICC 0.15; the published table has 18 and 26
    assert found["recruit"] == 2 * found["participants"]
    assert found["scenario"]["votes"] == 10
    fixed = json.loads(saif(*asked, "--participants", found["participants"]).stdout)
    assert fixed["power"] == pytest.approx(found["power"], abs=0.05)
    assert fixed["recruit"] == found["recruit"]
    told = saif("study", "power", "--rate", 0.65, "--studies", 500)
    assert re.search(r"Recruit \d+\.", told.stdout)
    assert "30 %" in told.stderr
    assert saif("study", "power", "--rate", 0.65, "--looks", 3).exit_code == 2  # never analysed
    assert "rate of ½" in refused(saif("study", "power", "--rate", 0.5))
    assert "icc must lie" in refused(saif("study", "power", "--rate", 0.6, "--icc", 2))
    assert "studies must lie" in refused(saif("study", "power", "--rate", 0.6, "--studies", 1))


def test_the_defaults_that_the_help_tells_are_those_of_the_bots_and_the_scenario(saif):
    from saif.study.analysis.power import Scenario

    for command, values in (("simulate", BotBehaviour()), ("power", Scenario(rate=0.6))):
        told = TOLD.findall(" ".join(saif("study", command, "--help").stdout.split()))
        told = [(name, default) for name, default in told if name in values.__slots__]
        assert len(told) >= 7, told
        for name, default in told:
            assert float(default) == getattr(values, name), name
