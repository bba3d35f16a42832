"""`compare`: the JSON that scripts rely on, the columns that people read."""

import json
from typing import Any

import pytest
from rich.console import Console

from saif.cli import columns
from saif.cli.output import plain
from saif.decoding import Sampling
from saif.runtime import load

TEXT = "The weather is lovely today."


def columns_of(result: Any) -> dict[str, dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return {column["name"]: column for column in json.loads(result.stdout)["columns"]}


def test_the_json_has_exactly_the_promised_names_and_types(compare):
    document = json.loads(compare(TEXT, "--json").stdout)
    assert {name: type(value) for name, value in document.items()} == {
        "model": str,
        "preset": str,
        "placement": str,
        "layer": int,
        "k": int,
        "strength": float,
        "dose": float,
        "columns": list,
        "steps_per_second": float,
    }
    assert [column["name"] for column in document["columns"]] == [
        "unsteered",
        "steered",
        "prompted",
    ]
    for column in document["columns"]:
        assert {name: type(value) for name, value in column.items()} == {
            "name": str,
            "text": str,
            "token_ids": list,
            "tokens": int,
            "steered_positions": int,
            "stop_reason": str,
        }
        assert all(type(token) is int for token in column["token_ids"])
        assert column["tokens"] == len(column["token_ids"]) <= 8
        assert column["stop_reason"] in {"end", "length"}
    assert document["model"] == "tiny-llama"
    assert document["preset"] == "translate-french"
    assert document["steps_per_second"] > 0


def test_only_the_steered_column_is_steered(compare):
    found = columns_of(compare(TEXT, "--json"))
    assert found["steered"]["steered_positions"] > 0
    assert found["unsteered"]["steered_positions"] == 0
    assert found["prompted"]["steered_positions"] == 0
    assert found["steered"]["token_ids"] != found["unsteered"]["token_ids"]


@pytest.mark.parametrize("sampling", [(), ("--temperature", 0.8, "--seed", 3)])
def test_strength_zero_is_the_unsteered_reply(compare, sampling):
    found = columns_of(compare(TEXT, "--json", "--strength", 0, "--max-new-tokens", 24, *sampling))
    assert found["steered"]["token_ids"] == found["unsteered"]["token_ids"]
    assert found["steered"]["steered_positions"] == 0


def test_a_seed_gives_the_same_reply_again_and_another_seed_another(compare):
    def sampled(seed: int) -> list[int]:
        result = compare(TEXT, "--json", "--temperature", 1, "--seed", seed)
        return columns_of(result)["unsteered"]["token_ids"]

    assert sampled(1) == sampled(1) != sampled(2)


def test_no_prompted_leaves_that_column_out(compare):
    assert list(columns_of(compare(TEXT, "--json", "--no-prompted"))) == ["unsteered", "steered"]


def test_every_control_reaches_the_engine(compare):
    result = compare(
        TEXT, "--json", "--placement", "pre", "--layer", 3, "--k", 2, "--strength", 0.5,
        "--span", "prompt", "--max-new-tokens", 3,
    )  # fmt: skip
    document = json.loads(result.stdout)
    controls = ("placement", "layer", "k", "strength", "dose")
    assert [document[name] for name in controls] == ["pre", 3, 2, 0.5, 0.5]
    found = columns_of(result)
    assert found["unsteered"]["tokens"] == 3
    # The span "prompt" covers many more positions than the three of the reply.
    assert found["steered"]["steered_positions"] > len(TEXT)


@pytest.mark.parametrize(
    ("base", "changed"),
    [
        (("--temperature", 1.5), ("--top-p", 0.05)),
        (("--repetition-penalty", 1), ("--repetition-penalty", 2)),
        ((), ("--temperature", 2)),
    ],
)
def test_sampling_options_change_the_reply(compare, base, changed):
    options = ("--json", "--no-prompted", "--max-new-tokens", 48, *base)
    without, given = (columns_of(compare(TEXT, *options, *more)) for more in ((), changed))
    assert without["unsteered"]["token_ids"] != given["unsteered"]["token_ids"]


def test_help_states_the_defaults_of_the_sampling(saif):
    text = " ".join(saif("compare", "--help").stdout.split())
    defaults = Sampling()
    for name in ("max_new_tokens", "temperature", "top_p", "repetition_penalty", "seed"):
        option = text.split(f"--{name.replace('_', '-')} ", 1)[1]
        assert option.split("default: ", 1)[1].split("]")[0] == str(getattr(defaults, name))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_dash_reads_the_message_from_stdin(compare, end):
    piped = columns_of(compare("-", "--json", stdin=TEXT + end))
    given = columns_of(compare(TEXT, "--json"))
    assert piped["unsteered"]["token_ids"] == given["unsteered"]["token_ids"]


def test_what_libraries_print_does_not_spoil_the_json(compare, monkeypatch):
    real = load.load_model

    def chatty(*arguments: Any, **options: Any) -> Any:
        print("Loading weights: 100%")  # noqa: T201
        model = real(*arguments, **options)
        step = model.decode_step

        def advance(*rest: Any) -> Any:
            print("Using a slow kernel")  # noqa: T201
            return step(*rest)

        model.decode_step = advance
        return model

    monkeypatch.setattr(load, "load_model", chatty)
    result = compare(TEXT, "--json")
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout)["model"] == "tiny-llama"
    assert "Loading weights" in result.stderr
    assert "slow kernel" in result.stderr


# What a person reads


def test_text_output_shows_the_columns_and_what_was_done(compare):
    result = compare(TEXT)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert all(name in result.stdout for name in ("unsteered", "steered", "prompted"))
    last = " ".join(result.stdout.split("╯")[-1].split("┘")[-1].split())
    assert last.startswith("Steered at layer 1 with 4 latents (")
    assert "dose 1.00" in last
    assert "positions (response)" in last
    assert last.endswith("steps/s.")


def test_text_output_says_when_nothing_was_steered(compare):
    assert "Not steered: strength 0" in compare(TEXT, "--strength", 0).stdout


def test_a_long_reply_is_printed_whole(compare, monkeypatch):
    """The live display cuts off what is taller than the screen; the printed one must not."""
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setenv("COLUMNS", "40")
    result = compare(TEXT, "--no-prompted", "--max-new-tokens", 300, "--repetition-penalty", 2)
    assert result.stdout.count("\n") > 10


def test_a_narrow_screen_has_the_columns_below_each_other(compare, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(3 * columns._NARROWEST - 1))
    heads = [line for line in compare(TEXT).stdout.splitlines() if "──" in line]
    assert [head.split()[0] for head in heads] == ["unsteered", "steered", "prompted"]


def test_replies_are_text_whatever_is_in_them():
    screen = Console(width=80, color_system="truecolor", force_terminal=True)
    with screen.capture() as capture:
        screen.print(plain("[red]a[/red] \x1b[31mb\x9b2J\x07 c\td\ne"))
    shown = capture.get()
    assert "[red]a[/red] [31mb2J c" in shown
    assert not any(code in shown for code in "\x1b\x9b\x07")
