"""`compare`: one message, answered unsteered, steered and prompted."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saif.cli.options import (
    DEFAULT_MODEL,
    JsonOption,
    LayerOption,
    ModelOption,
    PlacementOption,
    PresetsOption,
    QuantizeOption,
    SeedOption,
    SpanOption,
    open_engine,
    open_library,
)
from saif.cli.output import chatter_to_stderr, print_json
from saif.errors import InputError

if TYPE_CHECKING:
    from saif.chat import Turn, TurnState
    from saif.decoding import Sampling

_STDIN_LIMIT = 1_000_000  # bytes; far more than any message may have


def add_to(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="The message; - reads it from stdin.")
    ],
    preset: Annotated[str, typer.Option("--preset", metavar="ID", help="What to steer with.")],
    placement: PlacementOption = "post",
    strength: Annotated[
        float, typer.Option("--strength", metavar="S", help="0 is off, 1 the calibrated dose.")
    ] = 1.0,
    k: Annotated[
        int | None,
        typer.Option("-k", "--k", metavar="K", help="How many latents (default: as calibrated)."),
    ] = None,
    layer: LayerOption = None,
    span: SpanOption = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", metavar="N", help="The longest reply (default: 128)."),
    ] = None,
    seed: SeedOption = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", metavar="T", help="0 is greedy (default: 0.0)."),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", metavar="P", help="1 keeps every token (default: 1.0)."),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option("--repetition-penalty", metavar="R", help="1 is off (default: 1.1)."),
    ] = None,
    prompted: Annotated[
        bool, typer.Option(help="Show a column that is told the instruction in words.")
    ] = True,
    model: ModelOption = DEFAULT_MODEL,
    quantize: QuantizeOption = "none",
    presets: PresetsOption = None,
    json: JsonOption = False,
) -> None:
    """Answer TEXT unsteered, steered and prompted, side by side."""
    from saif.runtime.load import model_id

    # Whatever can be refused is refused before torch and the model load, which takes seconds.
    library = open_library(presets)
    loaded = library.preset(model_id(model), preset)
    instruction = library.instruction(loaded.preset.instruction)

    from saif.chat import Comparison, Turn, check_message, take_turn
    from saif.presets.controls import Controls

    message = check_message(_from_stdin() if text == "-" else text)
    controls = Controls(placement=placement, strength=strength, k=k, layer=layer, span=span)
    loaded.steering_with(controls)
    turn = Turn(
        text=message,
        preset=loaded,
        instruction=instruction,
        controls=controls,
        sampling=_sampling(
            max_new_tokens=max_new_tokens,
            seed=seed,
            temperature=temperature,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
        ),
        with_prompted=prompted,
    )
    engine = open_engine(model, quantize)
    states = take_turn(engine, Comparison(), turn)
    if json:
        with chatter_to_stderr():
            *_, last = states
        print_json(_document(engine.model.id, turn, last))
    else:
        from saif.cli.columns import show

        show(states)


def _from_stdin() -> str:
    content = sys.stdin.buffer.read(_STDIN_LIMIT)
    try:
        return content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        if len(content) == _STDIN_LIMIT:  # cut inside a character; too long in any case
            return content.decode("utf-8", "ignore")
        raise InputError("stdin is not UTF-8 text.", hint="Convert it first.") from error


def _sampling(**given: float | None) -> "Sampling":
    """What was asked for; the rest as `Sampling` has it."""
    from saif.decoding import Sampling

    # A dictionary loses which value has which type; typer has converted each already.
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return Sampling(**asked)


def _document(model: str, turn: "Turn", state: "TurnState") -> dict[str, object]:
    """The contract of `compare --json`; scripts rely on every name and type in it."""
    return {
        "model": model,
        "preset": turn.preset.id,
        "placement": turn.controls.placement,
        "layer": state.steering.layers[0],
        "k": state.steering.k,
        "strength": state.steering.strength,
        "dose": state.steering.total_dose,
        "columns": [
            {
                "name": column.name,
                "text": column.reply.text,
                "token_ids": list(column.reply.token_ids),
                "tokens": len(column.reply.token_ids),
                "steered_positions": column.reply.steered,
                "stop_reason": column.reply.stop,
            }
            for column in state.columns
        ],
        "steps_per_second": round(state.steps / max(state.seconds, 1e-9), 2),
    }
