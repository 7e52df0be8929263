"""The command line: words to values; `commands` works, `sentences` says what went wrong."""

import shlex
from pathlib import Path
from typing import Any

import click

from flowprior.errors import InputError
from flowprior.sentences import Sentences

_PATH: Any = click.Path(path_type=Path)
_FLOW = ("recipe", "transforms", "hidden_features", "base", "backend")
_TRAINING = ("epochs", "batch_size", "lr", "patience", "standardize")
_device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
_data_root = click.option(
    "--data-root",
    type=_PATH,
    help="Folder in torchvision's layout (default: $FLOWPRIOR_DATA).",
)
_weights = click.option(
    "--weights",
    type=_PATH,
    help="Folder of feature networks' weights (default: $FLOWPRIOR_WEIGHTS).",
)
_seed = click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")


@click.group(
    cls=Sentences, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="flowprior", prog_name="flowprior")
def main() -> None:
    """Learned normalizing-flow priors for autoencoders and VAEs."""


@main.command("list")
def list_command() -> None:
    """Show the shipped experiments, one line each."""
    from flowprior.experiments.shipped import shipped, summary

    names = shipped()
    width = max(map(len, names), default=0)
    for name, path in names.items():
        click.echo(f"{name:<{width}}  {summary(path)}")


@main.command()
@click.argument("config", required=False)
@click.option("--size", type=click.Choice(["cpu", "paper"]), help="The config's size (its SIZE binding).")
@click.option(
    "-b", "--binding", "--gin_bindings", "bindings", multiple=True, help="A gin binding; repeatable."
)
@click.option(
    "--gin_file", "gin_files", multiple=True, help="Synonym of CONFIG; more files add to the first."
)
@click.option("--out", type=_PATH, help="Run folder [default: runs/<experiment>].")
@click.option("--resume", is_flag=True, help="Go on from the run folder's newest valid checkpoint.")
@click.option("--steps", type=click.IntRange(min=1), help="Stop after this many optimizer steps.")
@click.option("--seed", type=int, help="Seed of the run (the config's `experiment.seed`).")
@_device
@click.option("--precision", help="32-true, bf16-mixed, 16-mixed or 64-true [default: the config's].")
@click.option(
    "--devices", type=click.IntRange(min=1), default=1, show_default=True, help="Processes or GPUs."
)
@_data_root
@click.option("--quiet", is_flag=True, help="No progress bar.")
def train(
    config: str | None,
    size: str | None,
    bindings: tuple[str, ...],
    gin_files: tuple[str, ...],
    out: Path | None,
    resume: bool,
    steps: int | None,
    seed: int | None,
    device: str,
    precision: str | None,
    devices: int,
    data_root: Path | None,
    quiet: bool,
) -> None:
    """Train CONFIG: a shipped name such as glf/digits, or a path to a .gin file."""
    from flowprior.experiments.config import load

    files = ([config] if config else []) + list(gin_files)
    if not files:
        raise InputError("CONFIG is missing: give a name from `flowprior list`, or a path to a .gin file.")
    given = {
        "SIZE": size,
        "experiment.seed": seed,
        "experiment.steps": steps,
        "experiment.precision": precision,
    }
    given["Source.root"] = None if data_root is None else str(data_root.absolute())
    options = [f"{name} = {value!r}" for name, value in given.items() if value is not None]
    loaded = load(files, [*bindings, *options])
    if resume and out is None and Path(files[0]).name == "config.gin":
        out = Path(files[0]).parent

    folder = Path("runs") / loaded.experiment.name if out is None else out
    kept = folder / "config.gin"
    previous = load([str(kept)]).text if resume and kept.is_file() else None

    from flowprior.commands.train import run

    run(
        loaded.experiment,
        loaded.text,
        folder=folder,
        previous=previous,
        settings=loaded.settings,
        resume=resume,
        steps=loaded.steps,
        threads=loaded.threads,
        device=device,
        precision=loaded.precision,
        devices=devices,
        progress=not quiet,
    )


@main.command()
@click.argument("source", metavar="RUN|PRIOR", type=_PATH)
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=64, show_default=True, help="How many draws."
)
@click.option("--out", type=_PATH, required=True, help=".png (grid), .npy, .npz or .pt.")
@click.option("--context", type=_PATH, help="For a conditional prior: -n draws for each row of this file.")
@click.option("--key", help="The array to read from a --context file of several.")
@_seed
@_device
def sample(source: Path, **options: Any) -> None:
    """Draw images from a run folder, or latents from the folder of a fitted prior."""
    from flowprior.commands import sample as command
    from flowprior.experiments.runs import config_of, is_prior

    if is_prior(source):
        command.of_prior(source, **options)
        return
    from flowprior.experiments.config import load_model

    command.of_run(load_model(str(config_of(source))), source, **options)


def _experiment(run: Path, data_root: Path | None) -> Any:
    """The experiment of a run folder, with its data where `data_root` says."""
    from flowprior.experiments.config import load
    from flowprior.experiments.runs import config_of

    root = [] if data_root is None else [f"Source.root = {str(data_root.absolute())!r}"]
    return load([str(config_of(run))], root).experiment


@main.command("eval")
@click.argument("run", metavar="RUN", type=_PATH)
@click.option("--metrics", required=True, help="Names with commas between them, e.g. reconstruction,nll,fid.")
@click.option("--samples", "count", type=click.IntRange(min=2), default=10000, show_default=True)
@click.option(
    "--importance-samples",
    type=click.IntRange(min=2),
    default=1000,
    show_default=True,
    help="Draws for each example of iw_nll.",
)
@_data_root
@_weights
@click.option("--download", is_flag=True, help="Fetch missing Inception weights (92 MB).")
@_seed
@_device
def eval_command(run: Path, data_root: Path | None, **options: Any) -> None:
    """Measure a run: print a table and update RUN/report.json."""
    experiment = _experiment(run, data_root)
    from flowprior.commands import evaluate

    evaluate.run(experiment, run, **options)


@main.command()
@click.argument("run", metavar="RUN", type=_PATH)
@click.argument("figures", nargs=-1, metavar="[FIGURE]...")
@_data_root
@_seed
@_device
def plot(run: Path, data_root: Path | None, **options: Any) -> None:
    """Draw figures of a run, by default all that apply.

    They are curves, samples, reconstructions, interpolation, neighbors, latent; of prior against aggregate
    posterior, pockets, leakage, traversal, factors; and, of z against z0, paths, plane, attributes, change,
    components.
    """
    experiment = _experiment(run, data_root)
    from flowprior.commands import plot as command

    command.run(experiment, run, **options)


@main.command()
@click.argument("study")
@click.option("--size", type=click.Choice(["cpu", "paper"]), help="The study's size (its SIZE binding).")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of each row.")
@click.option("--out", type=_PATH, help="Folder of the study [default: runs/compare/<study>-<size>].")
@click.option("--row", "rows", multiple=True, help="Only this row; repeatable.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Runs at a time [default: one for each core, on a GPU one].",
)
@click.option(
    "-b",
    "--binding",
    "--gin_bindings",
    "bindings",
    multiple=True,
    help="A gin binding for all rows; repeatable.",
)
@_data_root
@_weights
@click.option("--download", is_flag=True, help="Fetch missing Inception weights (92 MB).")
@_device
@click.option("--quiet", is_flag=True, help="No progress bar.")
def compare(
    study: str,
    size: str | None,
    out: Path | None,
    bindings: tuple[str, ...],
    data_root: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Run or resume the rows of STUDY, such as dpvae/moons, and print their table beside the paper's.

    Runs lie in OUT/ROW/seedK, and are kept: calling it again measures or trains only what is missing. Writes
    OUT/table.json, OUT/table.md and figures.
    """
    from flowprior.experiments.config import load, load_study

    given = {"SIZE": size, "Source.root": None if data_root is None else str(data_root.absolute())}
    all_rows = [*bindings, *(f"{name} = {value!r}" for name, value in given.items() if value is not None)]
    found, sized = load_study(study, all_rows)

    from flowprior.commands.compare import run

    name = (Path(study).stem if Path(study).is_file() else study).removesuffix(".gin")
    words = [
        "flowprior compare",
        Path(study).name if Path(study).is_absolute() else study,
        f"--seeds {options['seeds']}",
    ]
    words += [
        f"--{option} {value}"
        for option, value in (("size", sized), ("data-root", data_root and "DATA"))
        if value
    ]
    words += ["--weights WEIGHTS"] if options["weights"] else []
    words += [f"--row {row}" for row in options["rows"]]
    words += [f"-b {shlex.quote(binding)}" for binding in bindings]
    run(
        found,
        load,
        name=name,
        size=sized,
        command=" ".join(words),
        config=study,
        bindings=all_rows,
        folder=out or Path("runs/compare") / f"{name}-{sized}".removesuffix("-"),
        progress=not quiet,
        **options,
    )


def _integers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """`--hidden 64,64` as (64, 64)."""
    if value is None:
        return None
    try:
        return tuple(int(number) for number in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value}' is not a list of whole numbers: write e.g. 128,128.") from None


def _words(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    """`--precision float32,float64` as ("float32", "float64")."""
    return tuple(word.strip() for word in value.split(","))


@main.command()
@click.argument("latents", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="Folder of the fitted prior; a new one.")
@click.option("--key", help="The array to read from a file of several.")
@click.option("--context", type=_PATH, help="A file with a row or map of context per latent (npy, npz, pt).")
@click.option("--context-key", help="The array to read from a context file of several.")
@click.option("--recipe", type=click.Choice(["glf", "actnorm", "masked", "spline", "spatial"]))
@click.option("--transforms", type=click.IntRange(min=1), help="Number of coupling layers.")
@click.option(
    "--hidden", "hidden_features", callback=_integers, help="Widths of hidden layers, e.g. 128,128."
)
@click.option(
    "--base",
    type=click.Choice(["normal", "mixture"]),
    help="Distribution of z0 [default: mixture; normal with a context].",
)
@click.option("--backend", type=click.Choice(["nflows", "pyro"]))
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the latents at most.")
@click.option("--batch-size", type=click.IntRange(min=1))
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--patience", type=click.IntRange(min=1), help="Stop after so many epochs without improvement.")
@click.option("--standardize", type=click.Choice(["full", "diagonal", "none"]))
@_seed
@_device
@click.option("--quiet", is_flag=True, help="No progress bar.")
def fit(latents: Path, quiet: bool, **options: Any) -> None:
    """Fit a FlowPrior to the rows of LATENTS (npy, npz, pt); `flowprior sample PRIOR` then draws from it."""
    from flowprior.commands.fit import run

    given = {name: value for name, value in options.items() if value is not None}
    flow = {name: given.pop(name) for name in _FLOW if name in given}
    training = {name: given.pop(name) for name in _TRAINING if name in given}
    if training.get("standardize") == "none":
        training["standardize"] = None
    run(latents, flow=flow, training=training, progress=not quiet, **given)


@main.command()
@click.option("--features", default="20", show_default=True, callback=_integers)
@click.option("--depth", default="2,8,32", show_default=True, callback=_integers, help="Couplings.")
@click.option("--width", default="64,256", show_default=True, callback=_integers)
@click.option("--batch", default="100,1000", show_default=True, callback=_integers)
@click.option("--backend", default="nflows", show_default=True, callback=_words)
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    callback=_words,
    help="float32, float64; tf32 on a GPU.",
)
@click.option(
    "--compile",
    default="none",
    show_default=True,
    callback=_words,
    help="torch.compile's mode: none, default, reduce-overhead (CUDA graphs).",
)
@_device
@click.option("--threads", type=click.IntRange(min=1), help="Of the CPU [default: torch's].")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="For each size and operation, at least.",
)
@click.option("--out", type=_PATH, default=Path("runs/benchmark"), show_default=True, help="Folder.")
@_seed
@click.option("--quick", is_flag=True, help="Small sizes, few rounds: within two minutes.")
@click.pass_context
def benchmark(ctx: click.Context, out: Path, quick: bool, **options: Any) -> None:
    """Measure what a flow costs, all combinations of sizes, backends, precisions and compilers.

    These take several values with commas between. Writes OUT/benchmark.json, benchmark.csv and costs.png.
    """
    from flowprior.commands.benchmark import KNOWN, LEAST, run

    given = [
        parameter.opts[0] if parameter.name == "quick" else f"{parameter.opts[0]} {_spelled(value)}"
        for parameter in ctx.command.params
        for value in [ctx.params.get(parameter.name or "")]
        if parameter.name is not None
        and parameter.name != "out"
        and ctx.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    ]
    options["least"] = 5
    if quick:
        options |= {"depth": (2, 4, 8), "width": (32, 64), "batch": (100, 400), "seconds": 0.3, "least": 3}
    sweep = {name: options.pop(name) for name in (*LEAST, *KNOWN)}
    run(sweep, folder=out, command=" ".join(["flowprior benchmark", *given]), **options)


def _spelled(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
