"""`compare`: one message, answered unsteered, steered and prompted."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from saif.cli.options import (
    DEFAULT_MODEL,
    JsonOption,
    ModelOption,
    PresetsOption,
    QuantizeOption,
    open_engine,
    open_library,
)
from saif.cli.output import chatter_to_stderr, print_json
from saif.core.types import Placement, Sampling, Span
from saif.errors import InputError

if TYPE_CHECKING:
    from saif.chat import Turn, TurnState

_SAMPLING = Sampling()
_STDIN_LIMIT = 1_000_000  # bytes; far more than any message may have


def compare(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="The message; - reads it from stdin.")
    ],
    preset: Annotated[str, typer.Option("--preset", metavar="ID", help="What to steer with.")],
    placement: Annotated[
        Placement,
        typer.Option("--placement", help="The instruction stands before or after the content."),
    ] = "post",
    strength: Annotated[
        float, typer.Option("--strength", metavar="S", help="0 is off, 1 the calibrated dose.")
    ] = 1.0,
    k: Annotated[
        int | None,
        typer.Option("-k", "--k", metavar="K", help="How many latents (default: as calibrated)."),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option("--layer", metavar="L", help="Where to steer (default: as calibrated)."),
    ] = None,
    span: Annotated[
        Span | None,
        typer.Option("--span", help="Which tokens are steered (default: as calibrated)."),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", help="The longest reply.")
    ] = _SAMPLING.max_new_tokens,
    seed: Annotated[
        int, typer.Option("--seed", metavar="I", help="The noise of sampling.")
    ] = _SAMPLING.seed,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="0 is greedy.")
    ] = _SAMPLING.temperature,
    top_p: Annotated[
        float, typer.Option("--top-p", metavar="P", help="1 keeps every token.")
    ] = _SAMPLING.top_p,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", metavar="R", help="1 is off.")
    ] = _SAMPLING.repetition_penalty,
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
        sampling=Sampling(
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
