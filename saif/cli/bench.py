"""`bench`: how fast a model answers here, beside what else could run it."""

from typing import Annotated, Any

import typer

from saif.cli.options import DEFAULT_MODEL, JsonOption, ModelOption, QuantizeOption, open_engine


def bench(
    model: ModelOption = DEFAULT_MODEL,
    quantize: QuantizeOption = "auto",
    rounds: Annotated[int, typer.Option(help="How often everything is measured.")] = 5,
    steps: Annotated[int, typer.Option(help="Tokens per reply.")] = 32,
    start_up: Annotated[
        bool, typer.Option(help="Also time a fresh process up to its first token.")
    ] = True,
    concurrent: Annotated[
        bool, typer.Option("--crowd", help="Also answer 1, 4, 16 and 64 people at once.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure decoding, first tokens, reading, memory and start-up on this machine."""
    from saif.cli.output import print_json
    from saif.engine.local import CACHE_BYTES, LocalEngine
    from saif.experiments.bench.run import PEOPLE, run_bench

    engine = LocalEngine(open_engine(model, quantize).language_model, cache_bytes=CACHE_BYTES)
    found = run_bench(
        engine,
        quantize,
        rounds=rounds,
        n_steps=steps,
        start_up=model if start_up else "",
        people=PEOPLE if concurrent else (),
    )
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    from saif.cli.output import console, plain

    out, machine = console(), found["machine"]
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads"
    out.print(plain(f"{found['model']}, {found['about']}; {where}, {machine['vector_unit']}"))
    table = Table("decoding", "steps/s", "slowest–fastest", "of the baseline")
    for case in found["decoding"]:
        table.add_row(
            case["name"],
            f"{case['steps_per_second']:.1f}",
            f"{case['slowest']:.1f}–{case['fastest']:.1f}",
            f"{case['ratio']:.2f}×",
        )
    out.print(table)
    for what, cost in found["costs"].items():
        out.print(f"{what.capitalize()}: {100 * cost:+.0f} %")
    band = found["bandwidth"]
    if band:
        out.print(
            f"A step of one row reads {band['weights'] / 1e6:.0f} MB of weights: "
            f"{band['reached'] / 1e9:.1f} GB/s, {band['reached'] / band['machine']:.0%} of what "
            f"this machine reads ({band['machine'] / 1e9:.1f} GB/s)"
        )
    turns = ", ".join(f"{1000 * seconds:.0f}" for seconds in found["first_token_seconds"])
    out.print(f"First token of turns 1–{len(found['first_token_seconds'])}: {turns} ms")
    out.print(f"Reading: {found['read_tokens_per_second']:.0f} tokens/s")
    memory = found["memory_bytes"]
    peak = f", the process {memory['process_peak'] / 1e9:.2f} GB" if memory["process_peak"] else ""
    out.print(f"Memory: the model {memory['model'] / 1e9:.2f} GB{peak} at most")
    for many in found["crowd"]:
        first, last_first = many["median_first_token_seconds"], many["last_first_token_seconds"]
        whole, last = many["median_answer_seconds"], many["last_answer_seconds"]
        out.print(
            f"{many['people']} at once: {many['tokens_per_second']:.0f} tokens/s together; first "
            f"token after {first:.1f} s (the last one's {last_first:.1f}), answered after "
            f"{whole:.1f} s (the last one {last:.1f})"
        )
    start = found["start_up_seconds"]
    if start:
        out.print(
            f"Fresh process: loaded in {start['loaded']:.1f} s, first token in "
            f"{start['first_token']:.1f} s"
        )
