"""How the command line ends: InputError in one sentence and exit status 2, an interrupted run in 130."""

import sys
from typing import Any

import click

from flowprior.errors import InputError, RunError


class Sentences(click.Group):
    """Bad input ends in one sentence on stderr and exit status 2, never in a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        if not extra.pop("standalone_mode", True):
            return super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]
        try:
            sys.exit(super().main(*args, standalone_mode=False, **extra) or 0)  # type: ignore[call-overload]
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
        except click.ClickException as error:
            click.echo(f"flowprior: {error.format_message()}", err=True)
        except InputError as error:
            click.echo(f"flowprior: {error}", err=True)
        except RunError as error:
            click.echo(f"flowprior: {error}", err=True)
            sys.exit(1)
        except OSError as error:  # a full disk, a folder without permission
            click.echo(f"flowprior: {error.strerror or error}: {error.filename or 'output'}", err=True)
            sys.exit(1)
        except click.Abort:
            click.echo(
                "flowprior: interrupted; a run goes on with --resume, a study when called again.", err=True
            )
            sys.exit(130)
        sys.exit(2)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from flowprior.checks import nearest

        if args and self.get_command(ctx, args[0]) is None:
            verbs = self.list_commands(ctx)
            hint = nearest(args[0], verbs) or f": the commands are {', '.join(verbs)}."
            raise InputError(f"Unknown command '{args[0]}'{hint}")
        return super().resolve_command(ctx, args)
