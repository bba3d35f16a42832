"""The table of conditions."""

from saif.experiments.baselines import ALL_CONDITIONS
from saif.report.conditions import CONDITIONS, rank_of, shown, title_of


def test_every_condition_that_can_be_measured_is_shown_with_a_colour_of_its_own() -> None:
    assert {condition.name for condition in CONDITIONS} == set(ALL_CONDITIONS)
    for text in ("title", "colour", "label"):
        assert len({getattr(condition, text) for condition in CONDITIONS}) == len(CONDITIONS)


def test_an_unknown_condition_comes_last_under_its_own_name() -> None:
    names = ["brand-new", "random", "another", "unsteered"]
    assert sorted(names, key=rank_of) == ["unsteered", "random", "another", "brand-new"]
    assert title_of("brand-new") == "brand-new"
    assert shown("brand-new").label == "Brand new"
    assert not shown("brand-new").control
