"""What runs on this machine without a service: run, show, spec, demo-model, bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services import show
from services.cli import progress
from services.cli.app import FAILED, app, set_field
from services.cli.stopping import kept_in
from visage_core.spec import LandscapeSpec, SpecError, kind_of, parse_experiment, read_spec

if TYPE_CHECKING:
    from services.sweep.coordinator import Progress


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Folder for the results; an unfinished run in it goes on.")],
    spec: Annotated[Path | None, typer.Option(help="A spec as JSON or YAML; options change it.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="The model at the origin: a path, hub id or bucket URL; repeat it to compare several."
        ),
    ] = None,
    to: Annotated[str | None, typer.Option(help="Interpolate to this checkpoint.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Go along a LoRA adapter; at 1 it is merged.")] = None,
    difference: Annotated[
        tuple[str, str] | None, typer.Option(help="Go along the difference END - START of two checkpoints.")
    ] = None,
    direction: Annotated[
        str | None, typer.Option(help="Go along the tensors of a .safetensors file.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="A random direction; repeat it for more.")] = None,
    norm: Annotated[str | None, typer.Option(help="layer, filter, global or none.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Move these tensors alone: attention, mlp, embeddings, layers:0-7, *.q_proj.*, ..."
        ),
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="Leave these tensors as they are; norms unless given.")
    ] = None,
    points: Annotated[int | None, typer.Option(help="Coordinates along each direction.")] = None,
    range_: Annotated[
        str | None, typer.Option("--range", help="0.5 for -0.5 to 0.5, or LOW:HIGH as in -0.5:1.5.")
    ] = None,
    plane: Annotated[
        bool, typer.Option("--plane", help="Measure a plane: a second random axis with --points and --range.")
    ] = False,
    second_to: Annotated[
        str | None, typer.Option(help="Measure a plane: the second axis leads to this checkpoint.")
    ] = None,
    trajectory: Annotated[
        list[str] | None,
        typer.Option(help="Mark where this checkpoint lies; repeat it for a finetuning's steps."),
    ] = None,
    adaptive: Annotated[
        bool | None,
        typer.Option(help="Measure only where the edge of the basin is.", show_default=False),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help="harmful, benign, a .csv, .jsonl, .json or .txt file, or hf:DATASET; repeat it for more."
        ),
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
    attack: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT_OR_FILE",
            help="Put each request into a text with {request} in it, or into that of a .txt or .json file.",
        ),
    ] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option(
            help="Also put multiple-choice questions: facts, a .csv or .jsonl file, hf:DATASET, or "
            "lm-eval:TASK."
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Also measure the perplexity of a .txt file.")
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="keyword-paper, keyword-modern, a .txt file of phrases or python:NAME; repeat it for more, "
            "the first one counts. Models and endpoints need a spec."
        ),
    ] = None,
    coherence: Annotated[
        str | None, typer.Option(help="What tells gibberish from text: likelihood, statistics or none.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest response.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Draw responses; 0 unless given.")] = None,
    samples: Annotated[int | None, typer.Option(help="Responses to each prompt.")] = None,
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
    cores: Annotated[
        int | None, typer.Option(help="CPU cores of a worker, or with GPUs of each of them.")
    ] = None,
    gpu: Annotated[
        bool | None,
        typer.Option(help="Workers have GPUs, though the cluster has none yet.", show_default=False),
    ] = None,
    mixed_versions: Annotated[
        bool | None,
        typer.Option(
            help="Workers may have differing versions of visage and vLLM; else that ends the run.",
            show_default=False,
        ),
    ] = None,
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
    from visage_core.landscape import has_visage

    document = _spec_document(spec)
    along = _direction(to, adapter, difference, direction, seed)
    along |= {"norm": norm, "only": only, "leave_out": leave_out}
    options: dict[str, Any] = {
        "axis": {"direction": along, **_range(range_), "points": points},
        "trajectory": trajectory,
        "adaptive": adaptive,
        "prompts": _prompt_sets(
            document,
            prompts,
            system,
            {"column": column, "limit": limit, "attack": attack},
            _capability(choices, text),
        ),
        "judges": judge,
        "coherence": coherence,
        "generation": {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "samples": samples,
            "early_stop": early_stop,
        },
        "engine": {
            "dtype": dtype,
            "max_model_len": max_model_len,
            "max_num_seqs": batch_size,
            "tensor_parallel": tensor_parallel,
            "kv_cache_gib": kv_cache_gib,
        },
        "resources": {"workers": workers, "cores": cores, "gpu": gpu, "mixed_versions": mixed_versions},
        "basin_threshold": threshold,
        "keep_responses": keep_responses,
    }
    merged = _merged(document, options)
    if second_to is not None:
        merged["second_axis"] = {"direction": {"to": second_to}, "points": points or 9, **_range(range_)}
    elif plane:
        merged["second_axis"] = _second_axis(merged.get("axis") or {})
    if model is not None:
        merged = {name: value for name, value in merged.items() if name not in ("model", "models")}
        merged |= {"models": model} if len(model) > 1 else {"model": model[0]}
    specs = parse_experiment(merged)
    if stop_when is not None and not has_visage(specs[0], specs[0].prompts[0]):
        raise SpecError(
            "stop-when",
            "an adaptive sweep, and a first prompt set that should not be refused, have no VISAGE",
            "Leave it out",
        )
    _measure(specs, out, address, _stop_when(stop_when))


def _measure(specs: list[LandscapeSpec], out: Path, address: str, stop_when: float | None) -> None:
    """Measure one landscape into a folder, or several into folders below it, and compare those."""
    with kept_in(out, FAILED):
        with progress.shown("preparing") as tell:
            folders = _measured(specs, out, address, stop_when, tell)
        from services.sweep.compare import write_comparison

        for folder in folders:
            show.landscape(folder, "scores" if len(folders) == 1 else "words")
        if len(folders) > 1:
            show.comparison(write_comparison(folders, out))


def _measured(
    specs: list[LandscapeSpec], out: Path, address: str, stop_when: float | None, tell: progress.Tell
) -> list[Path]:
    """Measure each landscape into its folder, with its figures; gives the folders."""
    # Imported here: Ray and torch take seconds, and `visage --help` should not.
    from services.sweep.compare import folders_of
    from services.sweep.coordinator import DONE, ENDED_EARLY
    from services.sweep.engines import Engines
    from services.sweep.estimate import Work
    from services.sweep.memory import plan_memory
    from services.sweep.report import write_figures
    from services.sweep.run import open_runs
    from visage_core.checkpoints import Checkpoint
    from visage_core.grid import count_points

    folders = folders_of(specs, out)
    parts = progress.Parts([count_points(spec) for spec in specs])
    with open_runs(specs, folders, address, stop_when) as runs:
        base, engines = Checkpoint.open(Path(runs[0].plan.model.path)), runs[0].engines
        assert isinstance(engines, Engines)
        resources = engines.resources
        work = Work.of(specs[0], runs[0].plan, base.parameters, len(specs), resources.cores, resources.gpus)
        show.work(work, out)
        if address == "local":
            show.memory(plan_memory(base, specs[0].engine, specs[0].resources.workers))
        for number, one in enumerate(runs):
            model = Path(one.plan.spec.model).name if len(runs) > 1 else ""
            for now in one:
                tell(parts.now(number, model, now))
            if now.state == ENDED_EARLY and now.estimate is not None:
                show.ended_early(now.estimate)
            if now.state == DONE:
                work.remember(now.tokens, now.worker_seconds)
    for folder in folders:
        tell(progress.Now("drawing the figures"))
        write_figures(folder)
    return folders


@app.command("show")
def show_(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Print each score's meaning, the numbers of the curves and all notes too."
        ),
    ] = False,
) -> None:
    """Draw a run's landscapes here, print its summary, and draw its figures again."""
    from services.sweep.report import write_figures, write_summary

    write_summary(folder)
    write_figures(folder)
    show.landscape(folder, "everything" if explain else "drawings")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    out: Annotated[Path, typer.Option(help="The .html file to write.")],
) -> None:
    """Write a run as one page, with all figures and numbers, that needs no connection."""
    from services.report.page import report as make_report

    out.write_text(make_report(folder), encoding="utf-8")
    typer.echo(out)


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of runs on the same directions and prompts.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.json and the figure.")] = None,
) -> None:
    """Compare the scores of several models with those of the first: differences, intervals, p-values."""
    from services.sweep.compare import write_comparison

    if len(folders) < 2:
        raise SpecError("folders", "there is one", "Give two folders or more")
    show.comparison(write_comparison(folders, out))


@app.command()
def search(
    out: Annotated[Path, typer.Option(help="Folder for the results; an unfinished search in it goes on.")],
    spec: Annotated[
        Path | None, typer.Option(help="A landscape's spec as JSON or YAML; its direction is searched.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model at the origin.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A field of that spec, as axis.points=41.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="seeds, layers or subspace.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="random, optuna or cmaes.")] = None,
    trials: Annotated[int | None, typer.Option(help="Candidates to measure.")] = None,
    dimension: Annotated[int | None, typer.Option(help="Directions that span the subspace.")] = None,
    prompts: Annotated[int | None, typer.Option(help="Prompts with which candidates are measured.")] = None,
    beside: Annotated[int | None, typer.Option(help="Random directions to compare with.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the search's own choices.")] = None,
    address: Annotated[str, typer.Option(help="The Ray cluster: local, auto or HOST:PORT.")] = "local",
) -> None:
    """Look for the direction in which safety is lost soonest, and compare it with random ones."""
    from services.search.search import search as run_search
    from services.search.spec import parse_search

    document = _spec_document(spec)
    for text in setting or []:
        set_field(document, text)
    if model is not None:
        document["model"] = model
    options = {"space": space, "algorithm": algorithm, "trials": trials, "dimension": dimension}
    options |= {"prompts": prompts, "beside": beside, "seed": seed}
    given = {name: value for name, value in options.items() if value is not None}
    job = parse_search({"landscape": document, **given})
    pace = progress.Pace()
    with kept_in(out, FAILED), progress.shown("preparing") as tell:

        def told(what: str, done: int, now: Progress | None) -> None:
            text = what if now is None else f"{what}: point {now.done} of {now.points}, {progress.doing(now)}"
            left = pace.left(done, job.trials) if now is None else None
            tell(progress.Now(text, done, job.trials, left, "candidates"))

        found = run_search(job, out, address, told)
    show.search(found, out)


@app.command("import-direction")
def import_direction_(
    source: Annotated[Path, typer.Argument(help="A dirs1.pt or dirs2.pt of the paper's published code.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    steps: Annotated[int, typer.Option(min=1, help="Its setting `steps`.")] = 20,
    multiplier: Annotated[
        float, typer.Option(min=1e-9, help="Its setting `multiplier`; 1 for an interpolation.")
    ] = 1.0,
) -> None:
    """Convert a direction of the paper's published code, for `visage run --direction`."""
    from visage_core.reference import import_direction

    count = import_direction(source, target, steps, multiplier)
    typer.echo(f"{target}: {count} tensors")


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
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain", help="Train its adapter again first, in the place of the one that is here."
        ),
    ] = False,
) -> None:
    """Make a small aligned chat model to try visage on, and print its folder."""
    from services.demo import model

    if retrain:
        with progress.steps(f"training the adapter {variant}") as step:
            model.retrain(variant, step)
    with progress.shown(f"making the demo model ({variant})"):
        folder = model.demo_model(variant)
    typer.echo(folder)


@app.command()
def reproduce(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report; what is there is kept.")],
    points: Annotated[int, typer.Option(min=3, help="Coordinates along each random direction.")] = 21,
    limit: Annotated[int, typer.Option(min=2, help="Prompts.")] = 40,
    seeds: Annotated[int, typer.Option(min=2, help="Random directions.")] = 3,
) -> None:
    """Measure the paper's claims on the demo models, and write them up with figures."""
    from services.reproduce import reproduce as run_reproduction

    names: list[str] = []
    parts = progress.Parts([])
    with kept_in(out, FAILED), progress.shown("making the demo models") as tell:

        def planned(points_of: dict[str, int]) -> None:
            nonlocal parts
            names.extend(points_of)
            parts = progress.Parts(list(points_of.values()))

        def told(name: str, now: Progress) -> None:
            tell(parts.now(names.index(name), name, now))

        claims = run_reproduction(out, points, limit, seeds, told, planned)
    show.claims(claims, out / "report")


@app.command()
def bench(
    name: Annotated[
        str, typer.Argument(help="engine, scaling, scheduler, api, judges, gate, pages or soak.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    minutes: Annotated[
        float | None, typer.Option(min=1, help="Of soak: how long the service is at work; 10 unless given.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of soak: which kills and jobs come when; it prints the seed.")
    ] = None,
    real: Annotated[
        bool | None, typer.Option("--real", help="Of soak: a real engine in place of fake workers.")
    ] = None,
) -> None:
    """Measure visage itself, beside the bounds that it should keep; status 1 where one is missed."""
    from services.bench import BENCHMARKS

    if name not in BENCHMARKS:
        raise SpecError("bench", f"there is no benchmark {name!r}", f"Use one of {', '.join(BENCHMARKS)}")
    options = {
        option: value
        for option, value in {"minutes": minutes, "seed": seed, "real": real}.items()
        if value is not None
    }
    if options and name != "soak":
        raise SpecError(next(iter(options)), f"the benchmark {name} has no such option", "Leave it out")
    with progress.shown(f"measuring the benchmark {name}"):
        report = BENCHMARKS[name](**options)
    show.benchmark(report, as_json)
    raise typer.Exit(0 if report.ok else FAILED)


def _direction(
    to: str | None,
    adapter: str | None,
    difference: tuple[str, str] | None,
    file: str | None,
    seeds: list[int] | None,
) -> dict[str, Any]:
    """The direction of a spec from the options that say what it is; nothing where none does."""
    given = {
        "--to": to,
        "--adapter": adapter,
        "--difference": difference,
        "--direction": file,
        "--seed": seeds,
    }
    named = [option for option, value in given.items() if value]
    if len(named) > 1:
        raise SpecError("axis.direction", f"{' and '.join(named)} exclude each other", "Give one of them")
    if to is not None:
        return {"kind": "interpolation", "to": to}
    if adapter is not None:
        return {"kind": "adapter", "adapter": adapter}
    if difference:
        return {"kind": "difference", "start": difference[0], "end": difference[1]}
    if file is not None:
        return {"kind": "file", "file": file}
    return {"kind": "random", "seeds": seeds} if seeds else {}


def _range(text: str | None) -> dict[str, float]:
    """The ends of an axis that --range says."""
    if text is None:
        return {}
    low, colon, high = text.partition(":")
    try:
        first, last = (float(low), float(high)) if colon else (-float(low), float(low))
    except ValueError:
        raise SpecError(
            "axis", f"--range {text!r} is neither a number nor LOW:HIGH", "Give 0.5 or -0.5:1.5"
        ) from None
    return {"low": first, "high": last}


def _second_axis(axis: dict[str, Any]) -> dict[str, Any]:
    """The second axis of --plane: random, over the range and the points of the first where that is random."""
    if kind_of(axis.get("direction") or {}) == "random":
        return dict(axis)
    points = {"points": axis["points"]} if "points" in axis else {}
    return {"direction": {"kind": "random", "seeds": [0]}, **points}


def _prompt_sets(
    document: dict[str, Any],
    sources: list[str] | None,
    systems: list[str] | None,
    rest: dict[str, Any],
    more: list[dict[str, Any]],
) -> list[dict[str, Any]] | None:
    """The part `prompts` of a spec from the options that decide it: every source under every system
    prompt, with the rest for all of them, and then what is no request. None where no option says
    anything."""
    if not (sources or systems or more or any(value is not None for value in rest.values())):
        return None
    given = document.get("prompts") or {}
    sets: list[dict[str, Any]] = [given] if isinstance(given, dict) else list(given)
    more = [one for one in sets if one.get("kind", "requests") != "requests"] + more
    sets = [one for one in sets if one not in more] or [{}] * bool(sources or systems)
    if sources:
        # A column belongs to its source, and so does whether its requests should be refused.
        of_source = ("column", "harmful")
        bare = [{name: value for name, value in one.items() if name not in of_source} for one in sets]
        sets = [one | {"source": source} for source in sources for one in bare]
    if systems:
        sets = [one | {"system": system} for one in sets for system in systems]
    sets = [_merged(one, rest) for one in sets] + [_merged(one, {"limit": rest["limit"]}) for one in more]
    return [one for number, one in enumerate(sets) if one not in sets[:number]]


def _capability(choices: list[str] | None, texts: list[str] | None) -> list[dict[str, Any]]:
    """The prompt sets of --choices and --text."""
    asked = [{"kind": "choices", "source": source} for source in choices or []]
    return asked + [{"kind": "text", "source": source} for source in texts or []]


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
        if isinstance(value, dict):
            before = merged.get(name) or {}
            # Another kind of direction has nothing to do with the one before.
            if name == "direction" and value.get("kind") not in (None, kind_of(before)):
                before = {}
            if part := _merged(before, value):
                merged[name] = part
        elif value is not None:
            merged[name] = value
    return merged
