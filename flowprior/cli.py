"""The command line: words to values; `commands` does the work, and an error is one sentence."""

import errno
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from flowprior.checks import check_known
from flowprior.errors import InputError, RunError, clip
from flowprior.terminal import ENDING, ended_by_signals, prepare_streams

Verb = TypeVar("Verb", bound=Callable[..., None])


class Sentences(click.Group):
    """Errors end in one sentence on stderr, and status 2 (bad input), 1 (a failed run), 130 (interrupted).

    SIGTERM and SIGHUP end a command with status 143 and 129.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        if not extra.pop("standalone_mode", True):
            return super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]
        prepare_streams()
        try:
            with ended_by_signals():
                status = super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]
            sys.exit(status or 0)
        except SystemExit as ended:
            if ended.code in [128 + number for number in ENDING]:
                with suppress(OSError):  # the terminal may be gone
                    click.echo("flowprior: ended by a signal; a run continues with --resume.", err=True)
            raise
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
        except click.ClickException as error:
            _end(error.format_message(), 2)
        except InputError as error:
            _end(str(error), 2)
        except RunError as error:
            _end(str(error), 1)
        except BrokenPipeError:  # nobody reads what is printed, as after `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:  # a full disk, a folder without permission
            status = 2 if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else 1  # a name that can be none
            _end(f"{error.strerror or error}: {error.filename or 'output'}", status)
        except click.Abort:
            _end("interrupted; a run continues with --resume, a study when called again.", 130)
        sys.exit(2)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            check_known("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


def _end(sentence: str, status: int) -> None:
    click.echo(f"flowprior: {clip(sentence, 700)}", err=True)
    sys.exit(status)


def _words(_: Any, __: Any, value: str) -> tuple[str, ...]:
    """`--precision float32,float64` as ("float32", "float64")."""
    return tuple(word.strip() for word in value.split(",") if word.strip())


def _integers(_: Any, __: Any, value: str | None) -> tuple[int, ...] | None:
    """`--hidden 64,64` as (64, 64)."""
    try:
        numbers = None if value is None else tuple(map(int, value.split(",")))
        if numbers and max(numbers) > 2**31 - 1:
            raise click.BadParameter(f"'{value}' is more than {2**31 - 1}.")
        return numbers
    except ValueError:
        raise click.BadParameter(f"'{value}' is not a list of whole numbers: write e.g. 128,128.") from None


def _finite(_: Any, __: Any, value: float) -> float:
    """Not NaN, which is in any range."""
    if not math.isfinite(value):
        raise click.BadParameter(f"'{value}' is not a finite number.")
    return value


_PATH: Any = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1, max=2**31 - 1)
_SEED = click.IntRange(min=0, max=2**62)
_FEW = click.IntRange(min=1, max=1024)

# What several verbs take.
_run = click.argument("folder", metavar="RUN", type=_PATH)
_size = click.option("--size", type=click.Choice(["cpu", "paper"]), help="The config's SIZE.")
_bindings = click.option(
    "-b", "--binding", "--gin_bindings", "bindings", multiple=True, help="A gin binding; repeatable."
)
_plugins = click.option(
    "--plugin", "plugins", multiple=True, help="A module (or .py file) with parts of your own; repeatable."
)
_data_root = click.option("--data-root", type=_PATH, help="As torchvision's [default: $FLOWPRIOR_DATA].")
_weights = click.option("--weights", type=_PATH, help="Of feature networks [default: $FLOWPRIOR_WEIGHTS].")
_download = click.option("--download", is_flag=True, help="Fetch missing Inception weights (92 MB).")
_seed = click.option("--seed", type=_SEED, default=0, help="Seed of the draws.")
_device = click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
_quiet = click.option(
    "--quiet", "progress", flag_value=False, default=True, show_default=False, help="No progress bar."
)
_MODES = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}
_COMPILE = "torch.compile's mode: none, default, reduce-overhead (CUDA graphs)."
_compiled = click.option(
    "--compile", flag_value=True, type=bool, default=None, help="Compile the training steps; for long runs."
)
_STRATEGY = "How processes share the model; auto is ddp for several."


@click.group(cls=Sentences, context_settings=_MODES)
@click.version_option(package_name="flowprior", prog_name="flowprior")
def main() -> None:
    """Learned normalizing-flow priors for autoencoders and VAEs."""


@main.command("list")
@click.option("--metrics", "what", flag_value="metrics", help="The metrics, and what they need.")
@click.option("--figures", "what", flag_value="figures", help="The figures, and what they need.")
@_plugins
def list_command(**options: Any) -> None:
    """Show the shipped experiments, one line each; or the metrics, or the figures."""
    from flowprior.commands import list as command

    command.run(**options)


@main.command()
@click.argument("config", required=False)
@_size
@_bindings
@click.option("--gin_file", "gin_files", multiple=True, help="As CONFIG; more files add to the first.")
@_plugins
@click.option("--out", type=_PATH, help="Run folder [default: runs/<experiment>].")
@click.option(
    "--resume", is_flag=True, help="Continue from the newest valid checkpoint; start if there is none."
)
@click.option("--allow-changed", is_flag=True, help="Resume although config.gin or metrics.csv was changed.")
@click.option("--overwrite", is_flag=True, help="Replace the run in the folder.")
@click.option("--steps", type=_COUNT, help="Stop after this many optimizer steps.")
@click.option("--seed", type=_SEED, help="Seed of the run (the config's `experiment.seed`).")
@_device
@click.option("--precision", help="32-true, bf16-mixed, 16-mixed or 64-true [default: the config's].")
@_compiled
@click.option("--devices", type=_FEW, default=1, help="Processes or GPUs.")
@click.option("--strategy", type=click.Choice(["auto", "ddp", "fsdp"]), default="auto", help=_STRATEGY)
@click.option("--sync-batch-norm", is_flag=True, help="Batch statistics over all processes; GPUs only.")
@_data_root
@_quiet
def train(config: str | None, gin_files: tuple[str, ...], **options: Any) -> None:
    """Train CONFIG: a shipped name such as glf/digits, or a path to a .gin file."""
    from flowprior.commands import train as command

    command.run([*([config] if config else []), *gin_files], **options)


@main.command()
@click.argument("folder", metavar="RUN|PRIOR", type=_PATH)
@click.option("-n", "count", type=_COUNT, default=64, help="How many draws.")
@click.option("--out", type=_PATH, required=True, help=".png (grid), .npy, .npz or .pt.")
@click.option("--context", type=_PATH, help="For a conditional prior: -n draws for each row of this file.")
@click.option("--key", help="The array to read from a --context file of several.")
@click.option("--temperature", type=float, default=1.0, help="Scale of the noise.")
@click.option("--truncate", type=float, help="Only the most probable share of draws, such as 0.9.")
@_plugins
@_seed
@_device
def sample(**options: Any) -> None:
    """Draw images from a run folder, or latents from the folder of a fitted prior."""
    from flowprior.commands import sample as command

    command.run(**options)


@main.command()
@click.argument("folder", metavar="RUN|PRIOR", type=_PATH)
@click.option("--out", type=_PATH, required=True, help=".pt2 (torch.export) or .onnx.")
@_plugins
def export(**options: Any) -> None:
    """Write a prior's log_prob and its map from z0 to z as programs, OUT's name with theirs put in."""
    from flowprior.commands import export as command

    command.run(**options)


@main.command("eval")
@_run
@click.option("--metrics", required=True, help="Names with commas between them, e.g. reconstruction,nll,fid.")
@click.option("--samples", "count", type=click.IntRange(2, 10**8), default=10000)
@click.option("--importance-samples", type=click.IntRange(2, 10**8), default=1000, help="Of iw_nll, each.")
@_plugins
@_data_root
@_weights
@_download
@_seed
@_device
def eval_command(folder: Path, data_root: Path | None, plugins: tuple[str, ...], **options: Any) -> None:
    """Measure a run: print a table and update RUN/report.json. `flowprior list --metrics` names them."""
    from flowprior.commands import evaluate as command
    from flowprior.experiments.config import load_run

    command.run(load_run(folder, data_root, plugins).experiment, folder, **options)


@main.command()
@_run
@click.argument("figures", nargs=-1, metavar="[FIGURE]...")
@_plugins
@_data_root
@_weights
@_seed
@_device
def plot(folder: Path, data_root: Path | None, plugins: tuple[str, ...], **options: Any) -> None:
    """Draw figures of a run, by default all that apply. `flowprior list --figures` names them."""
    from flowprior.commands import plot as command
    from flowprior.experiments.config import load_run

    command.run(load_run(folder, data_root, plugins).experiment, folder, **options)


@main.command()
@_run
def repair(folder: Path) -> None:
    """Put a damaged run in order: list its valid checkpoints, put back its config, set aside a bad report."""
    from flowprior.commands import repair as command

    command.run(folder)


@main.command()
@click.argument("study")
@_size
@click.option("--seeds", type=_FEW, default=1, help="Runs of each row.")
@click.option("--out", type=_PATH, help="Folder of the study [default: runs/compare/<study>-<size>].")
@click.option("--row", "rows", multiple=True, help="Only this row; repeatable.")
@click.option("--jobs", type=_FEW, help="Runs at a time [default: one for each core, on a GPU one].")
@_bindings
@_plugins
@_data_root
@_weights
@_download
@_device
@_quiet
def compare(**options: Any) -> None:
    """Run or resume the rows of STUDY, such as dpvae/moons, and print their table beside the paper's.

    Runs lie in OUT/ROW/seedK, and are kept: calling it again measures or trains only what is missing. Writes
    OUT/table.json, OUT/table.md and figures.
    """
    from flowprior.commands import compare as command

    command.run(**options)


@main.command()
@click.argument("latents", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="Folder of the fitted prior; a new one.")
@click.option("--key", help="The array to read from a file of several.")
@click.option("--context", type=_PATH, help="A file with a row or map of context per latent (npy, npz, pt).")
@click.option("--context-key", help="The array to read from a context file of several.")
@click.option(
    "--recipe",
    type=click.Choice(["glf", "actnorm", "masked", "spline", "spatial", "transformer", "jet"]),
)
@click.option("--transforms", type=_COUNT, help="Number of coupling layers.")
@click.option("--hidden", "hidden_features", callback=_integers, help="Hidden widths, e.g. 128,128.")
@click.option(
    "--base",
    type=click.Choice(["normal", "mixture"]),
    help="Of z0 [default of a flow: mixture; normal with a context].",
)
@click.option("--backend", type=click.Choice(["nflows", "pyro"]))
@click.option("--seconds", type=float, help="Time to stay within [default: 60, unless a flow is asked for].")
@click.option("--epochs", type=_COUNT, help="Passes over the latents at most.")
@click.option("--batch-size", type=_COUNT)
@click.option("--lr", type=click.FloatRange(0, 1e6, min_open=True), help="Peak learning rate.")
@click.option("--patience", type=_COUNT, help="Stop after so many epochs without improvement.")
@click.option("--standardize", type=click.Choice(["full", "diagonal", "none"]))
@click.option("--overwrite", is_flag=True, help="Replace the prior in the folder.")
@_compiled
@_seed
@_device
@_quiet
def fit(latents: Path, **options: Any) -> None:
    """Fit a prior to the rows of LATENTS (npy, npz, pt); `flowprior sample PRIOR` then draws from it.

    It is chosen by held-out likelihood among a Gaussian, mixtures and flows; or it is the flow that --recipe,
    --transforms, --hidden, --base, --backend or --standardize ask for.
    """
    from flowprior.commands import fit as command

    given = {name: value for name, value in options.items() if value is not None}
    flow = _part(given, "recipe", "transforms", "hidden_features", "base", "backend", "standardize")
    training = _part(given, "seconds", "epochs", "batch_size", "lr", "patience", "compile")
    if flow.get("standardize") == "none":
        flow["standardize"] = None
    command.run(latents, flow=flow, training=training, **given)


@main.command("fit-images")
@click.argument("images", metavar="FOLDER|ARRAY")
@click.option("--autoencoder", required=True, help="taef2, or a folder or ENCODER,DECODER files.")
@click.option("--out", type=_PATH, required=True, help="Folder of the fitted prior; a new one.")
@click.option("--size", type=_COUNT, help="Pixels a side [default: as stored].")
@click.option("--limit", type=_COUNT, help="At most so many images.")
@click.option("--cache", type=_PATH, help="Folder to keep the codes in, for the next time.")
@click.option("--noise", type=float, help="On codes, in their deviations [default: by a scan].")
@click.option("--channels", type=_COUNT, help="Keep so many principal channels.")
@click.option("--epochs", type=_COUNT, help="Passes over the codes at most.")
@click.option("--batch-size", type=_COUNT)
@click.option("--lr", type=float, help="Peak learning rate.")
@_data_root
@_seed
@_device
@_quiet
def fit_images(images: str, **options: Any) -> None:
    """Fit a prior to the codes of pictures under a pretrained autoencoder.

    `flowprior sample PRIOR --out grid.png` then draws new ones.
    """
    from flowprior.commands import fit_images as command

    given = {name: value for name, value in options.items() if value is not None}
    training = _part(given, "noise", "channels", "epochs", "batch_size", "lr", "cache")
    command.run(images, training=training, **given)


def _part(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of `names` that are there, taken out of `options`."""
    return {name: options.pop(name) for name in names if name in options}


@main.command()
@click.option("--features", default="20", callback=_integers)
@click.option("--depth", default="2,8,32", callback=_integers, help="Couplings.")
@click.option("--width", default="64,256", callback=_integers)
@click.option("--batch", default="100,1000", callback=_integers)
@click.option("--backend", default="nflows", callback=_words)
@click.option("--precision", default="float32", callback=_words, help="float32, float64; tf32 on a GPU.")
@click.option("--compile", default="none", callback=_words, help=_COMPILE)
@_device
@click.option("--threads", type=_FEW, help="Of the CPU [default: torch's].")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    callback=_finite,
    default=2.0,
    help="At least, of each size.",
)
@click.option("--out", type=_PATH, default=Path("runs/benchmark"), help="Folder.")
@_seed
@click.option("--quick", is_flag=True, help="Small sizes, few rounds: within two minutes.")
@click.pass_context
def benchmark(ctx: click.Context, out: Path, quick: bool, **options: Any) -> None:
    """Measure what a flow costs, all combinations of sizes, backends, precisions and compilers.

    These take several values with commas between. Writes OUT/benchmark.json, benchmark.csv and costs.png.
    """
    from flowprior.commands.benchmark import KNOWN, LEAST, run

    words = ["flowprior benchmark"]
    for name in (parameter.name or "" for parameter in ctx.command.params):
        if name != "out" and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            words.append(f"--{name}" if name == "quick" else f"--{name} {_spelled(ctx.params[name])}")
    options["least"] = 5
    if quick:
        small = {"depth": (2, 4, 8), "width": (32, 64), "batch": (100, 400), "seconds": 0.3, "least": 3}
        given = click.core.ParameterSource.COMMANDLINE
        options |= {k: v for k, v in small.items() if ctx.get_parameter_source(k) is not given}
    sweep = {name: options.pop(name) for name in (*LEAST, *KNOWN)}
    run(sweep, folder=out, command=" ".join(words), **options)


def _spelled(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
