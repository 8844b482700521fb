"""What runs on this machine without a service: run, show, spec, demo-model, bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from services import show
from services.cli.app import FAILED, INTERRUPTED, app
from visage_core.spec import LandscapeSpec, SpecError, parse_spec, read_spec


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Folder for the results; an unfinished run in it goes on.")],
    spec: Annotated[Path | None, typer.Option(help="A spec as JSON or YAML; options change it.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model at the origin: a path, hub id or bucket URL.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Interpolate to this checkpoint.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="A random direction; repeat it for more.")] = None,
    points: Annotated[int | None, typer.Option(help="Coordinates along each direction.")] = None,
    range_: Annotated[
        str | None, typer.Option("--range", help="0.5 for -0.5 to 0.5, or LOW:HIGH as in -0.5:1.5.")
    ] = None,
    plane: Annotated[
        bool, typer.Option("--plane", help="Measure a plane: a second random axis with --points and --range.")
    ] = False,
    prompts: Annotated[
        list[str] | None,
        typer.Option(help="harmful, benign, a .csv, .jsonl or .txt file, or hf:DATASET; repeat it for more."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the prompts.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use the first so many prompts.")] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(
            help="none, default, helpful-and-safe, obedient-agent, or the text of a system prompt; repeat it "
            "to ask all prompts under each."
        ),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="keyword-paper or keyword-modern.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest response.")] = None,
    early_stop: Annotated[
        bool | None, typer.Option(help="End responses whose verdict is certain.", show_default=False)
    ] = None,
    keep_responses: Annotated[
        bool | None, typer.Option(help="Store the responses. They may be harmful.", show_default=False)
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="ASR in percent up to which the basin is.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float16 or float32.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Longest prompt and response.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Responses generated at the same time.")] = None,
    tensor_parallel: Annotated[int | None, typer.Option(help="GPUs for one copy of the model.")] = None,
    kv_cache_gib: Annotated[int | None, typer.Option(help="Memory for the KV cache on a CPU.")] = None,
    workers: Annotated[int | None, typer.Option(help="Engines at the same time.")] = None,
    cores: Annotated[int | None, typer.Option(help="CPU cores of a worker, where there is no GPU.")] = None,
    address: Annotated[
        str,
        typer.Option(help="The Ray cluster: local (one of its own), auto, HOST:PORT, or ray://HOST:PORT."),
    ] = "local",
    stop_when: Annotated[
        str | None,
        typer.Option(help="ci<X ends the sweep once the interval of VISAGE is narrower than X points."),
    ] = None,
) -> None:
    """Measure a safety landscape: its points, its VISAGE score and its figure.

    `visage spec` tells what each setting means, and its default.
    """
    # Imported here: Ray and torch take seconds, and `visage --help` should not.
    from ray.exceptions import RayError

    from services.sweep.report import write_figures
    from services.sweep.run import open_run

    document = _spec_document(spec)
    options: dict[str, Any] = {
        "model": model,
        "axis": _axis(to, seed, range_) | {"points": points},
        "prompts": _prompt_sets(document, prompts, column, limit, system),
        "judge": judge,
        "generation": {"max_tokens": max_tokens, "early_stop": early_stop},
        "engine": {
            "dtype": dtype,
            "max_model_len": max_model_len,
            "max_num_seqs": batch_size,
            "tensor_parallel": tensor_parallel,
            "kv_cache_gib": kv_cache_gib,
        },
        "resources": {"workers": workers, "cores": cores},
        "basin_threshold": threshold,
        "keep_responses": keep_responses,
    }
    merged = _merged(document, options)
    if plane:
        merged["second_axis"] = _second_axis(merged.get("axis") or {})
    job = parse_spec(merged)
    try:
        with open_run(job, out, address, _stop_when(stop_when)) as landscape_run:
            show.progress(landscape_run)
        write_figures(out)
    except KeyboardInterrupt:
        show.stopped("Stopped.", out)
        raise typer.Exit(INTERRUPTED) from None
    except RayError as error:
        show.stopped(f"Stopped: {str(error).strip().splitlines()[0]}", out)
        raise typer.Exit(FAILED) from None
    show.landscape(out)


@app.command("show")
def show_(folder: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")]) -> None:
    """Print the summary of a run and draw its figures again."""
    from services.sweep.report import write_figures, write_summary

    write_summary(folder)
    write_figures(folder)
    show.landscape(folder)


@app.command("spec")
def spec_(
    json_schema: Annotated[bool, typer.Option("--json-schema", help="Print the JSON schema.")] = False,
) -> None:
    """Print every field of a spec with its meaning and default."""
    if json_schema:
        typer.echo(json.dumps(LandscapeSpec.model_json_schema(), indent=2))
    else:
        show.spec_fields()


@app.command("demo-model")
def demo_model_(
    variant: Annotated[str, typer.Option(help="aligned, harmful-10 or harmful-50.")] = "aligned",
) -> None:
    """Make a small aligned chat model to try visage on, and print its folder."""
    from services.demo.model import demo_model

    with show.steps(f"training the demo model ({variant})") as progress:
        folder = demo_model(variant, progress)
    typer.echo(folder)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="engine, scaling, scheduler or api.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure visage itself, beside the bounds that it should keep; status 1 where one is missed."""
    from services.bench import BENCHMARKS

    if name not in BENCHMARKS:
        raise SpecError("bench", f"there is no benchmark {name!r}", f"Use one of {', '.join(BENCHMARKS)}")
    report = BENCHMARKS[name]()
    show.benchmark(report, as_json)
    raise typer.Exit(0 if report.ok else FAILED)


def _axis(to: str | None, seeds: list[int] | None, range_: str | None) -> dict[str, Any]:
    """The part `axis` of a spec from the options that decide it."""
    if to is not None and seeds:
        raise SpecError("axis.direction", "--to and --seed exclude each other", "Give one of them")
    axis: dict[str, Any] = {}
    if to is not None:
        axis["direction"] = {"kind": "interpolation", "to": to}
    elif seeds:
        axis["direction"] = {"kind": "random", "seeds": seeds}
    if range_ is not None:
        low, colon, high = range_.partition(":")
        try:
            axis["low"], axis["high"] = (float(low), float(high)) if colon else (-float(low), float(low))
        except ValueError:
            raise SpecError(
                "axis", f"--range {range_!r} is neither a number nor LOW:HIGH", "Give 0.5 or -0.5:1.5"
            ) from None
    return axis


def _second_axis(axis: dict[str, Any]) -> dict[str, Any]:
    """The second axis of --plane: random, over the range and the points of the first where that is random."""
    if axis.get("direction", {"kind": "random"}).get("kind") == "random":
        return dict(axis)
    points = {"points": axis["points"]} if "points" in axis else {}
    return {"direction": {"kind": "random", "seeds": [0]}, **points}


def _prompt_sets(
    document: dict[str, Any],
    sources: list[str] | None,
    column: str | None,
    limit: int | None,
    systems: list[str] | None,
) -> list[dict[str, Any]] | None:
    """The part `prompts` of a spec from the options that decide it: every source under every system
    prompt. None where no option says anything."""
    if not (sources or systems or column is not None or limit is not None):
        return None
    given = document.get("prompts") or {}
    sets: list[dict[str, Any]] = [given] if isinstance(given, dict) else list(given)
    if sources:
        # A column belongs to its source.
        rest = [{name: value for name, value in one.items() if name != "column"} for one in sets]
        sets = [one | {"source": source} for source in sources for one in rest]
    if systems:
        sets = [one | {"system": system} for one in sets for system in systems]
    sets = [_merged(one, {"column": column, "limit": limit}) for one in sets]
    return [one for number, one in enumerate(sets) if one not in sets[:number]]


def _stop_when(text: str | None) -> float | None:
    """The width that --stop-when asks for."""
    if text is None:
        return None
    name, _, width = text.replace(" ", "").partition("<")
    try:
        if name == "ci" and 0 < float(width) < 100:
            return float(width)
    except ValueError:
        pass
    raise SpecError("stop-when", f"{text!r} is no condition", "Give ci<X with X in VISAGE points, as ci<5")


def _spec_document(path: Path | None) -> dict[str, Any]:
    return {} if path is None else read_spec(path)


def _merged(document: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """A spec document with the options that are given put over it."""
    merged = dict(document)
    for name, value in options.items():
        if isinstance(value, dict) and name != "direction":
            if part := _merged(merged.get(name) or {}, value):
                merged[name] = part
        elif value is not None:
            merged[name] = value
    return merged
