"""The command line: words to values, InputError to one sentence and exit status 2; `commands` works."""

import sys
from pathlib import Path
from typing import Any

import click

from flowprior.errors import InputError, RunError


class _Sentences(click.Group):
    """Bad input ends in one sentence on stderr and exit status 2, never in a traceback."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        try:
            sys.exit(super().main(*args, standalone_mode=False, **extra) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
        except click.ClickException as error:
            click.echo(f"flowprior: {error.format_message()}", err=True)
        except InputError as error:
            click.echo(f"flowprior: {error}", err=True)
        except RunError as error:
            click.echo(f"flowprior: {error}", err=True)
            sys.exit(1)
        except click.Abort:
            click.echo("flowprior: interrupted.", err=True)
            sys.exit(130)
        sys.exit(2)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from flowprior.bindings import nearest

        if args and self.get_command(ctx, args[0]) is None:
            verbs = self.list_commands(ctx)
            hint = nearest(args[0], verbs) or f": the commands are {', '.join(verbs)}."
            raise InputError(f"Unknown command '{args[0]}'{hint}")
        return super().resolve_command(ctx, args)


_device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
_data_root = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    envvar="FLOWPRIOR_DATA",
    help="Folder in torchvision's layout (default: $FLOWPRIOR_DATA).",
)
_weights = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    envvar="FLOWPRIOR_WEIGHTS",
    help="Folder of feature networks' weights (default: $FLOWPRIOR_WEIGHTS).",
)
_seed = click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")


@click.group(
    cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="flowprior", prog_name="flowprior")
def main() -> None:
    """Learned normalizing-flow priors for autoencoders and VAEs."""


@main.command("list")
def list_command() -> None:
    """Show the shipped experiments, one line each."""
    from flowprior.shipped import shipped, summary

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
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [default: runs/<experiment>].")
@click.option("--resume", is_flag=True, help="Go on from the run folder's newest valid checkpoint.")
@click.option("--steps", type=click.IntRange(min=1), help="Stop after this many optimizer steps.")
@click.option("--seed", type=int, help="Seed of the run (the config's `experiment.seed`).")
@_device
@click.option("--precision", default=None, help="32-true, bf16-mixed, ... (Lightning Fabric's names).")
@click.option(
    "--devices", type=click.IntRange(min=1), default=1, show_default=True, help="Processes or GPUs."
)
@_data_root
@click.option("--quiet", is_flag=True, help="No progress bar.")
def train(config: str | None, gin_files: tuple[str, ...], **options: Any) -> None:
    """Train CONFIG: a shipped name such as glf/digits, or a path to a .gin file."""
    from flowprior.commands.train import run

    files = ([config] if config else []) + list(gin_files)
    if not files:
        raise InputError("CONFIG is missing: give a name from `flowprior list`, or a path to a .gin file.")
    run(files, **options)


@main.command()
@click.argument("source", metavar="RUN|PRIOR", type=click.Path(path_type=Path))
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=64, show_default=True, help="How many draws."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help=".png (grid), .npy, .npz or .pt.")
@click.option("--context", type=click.Path(path_type=Path), help="One row per draw, for a conditional prior.")
@click.option("--key", help="The array to read from --context FILE.npz.")
@_seed
@_device
def sample(**options: Any) -> None:
    """Draw images from a run folder, or latents from the folder of a fitted prior."""
    from flowprior.commands.sample import run

    run(**options)


@main.command("eval")
@click.argument("source", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--metrics", required=True, help="Names with commas between them, e.g. reconstruction,nll,fid.")
@click.option("--samples", "count", type=click.IntRange(min=2), default=10000, show_default=True)
@_data_root
@_weights
@_seed
@_device
def eval_command(**options: Any) -> None:
    """Measure a run: print a table and update RUN/report.json."""
    from flowprior.commands.evaluate import run

    run(**options)


@main.command()
@click.argument("source", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("figures", nargs=-1, metavar="[FIGURE]...")
@_data_root
@_seed
@_device
def plot(**options: Any) -> None:
    """Draw curves, samples, reconstructions, interpolation, neighbours, latent; by default all that apply."""
    from flowprior.commands.plot import run

    run(**options)


def _widths(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """`--hidden 64,64` as (64, 64)."""
    if value is None:
        return None
    try:
        return tuple(int(width) for width in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value}' is not a list of widths: write e.g. 128,128.") from None


@main.command()
@click.argument("latents", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the fitted prior.")
@click.option("--key", help="The array to read from an .npz or a .pt of several tensors.")
@click.option(
    "--context", type=click.Path(path_type=Path), help="One row of context per latent (npy, npz, pt)."
)
@click.option("--recipe", default=None, help="glf, actnorm, masked or spline.")
@click.option("--transforms", type=click.IntRange(min=1), help="Number of coupling layers.")
@click.option("--hidden", callback=_widths, help="Widths of a conditioner's hidden layers, e.g. 128,128.")
@click.option("--base", type=click.Choice(["normal", "mixture"]), default=None, help="Distribution of z0.")
@click.option("--backend", type=click.Choice(["nflows", "pyro"]), default=None)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the latents at most.")
@click.option("--seed", type=int, default=0, show_default=True)
@_device
@click.option("--quiet", is_flag=True, help="No progress bar.")
def fit(**options: Any) -> None:
    """Fit a FlowPrior to the rows of LATENTS (npy, npz, pt); `flowprior sample PRIOR` then draws from it."""
    from flowprior.commands.fit import run

    run(**options)
