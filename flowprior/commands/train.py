"""`flowprior train`: an experiment in its run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowprior.errors import InputError
from flowprior.experiments.config import load, settings
from flowprior.experiments.run import run_experiment
from flowprior.experiments.runs import CONFIG


def run(
    configs: Sequence[str], *, bindings: Sequence[str] = (), plugins: Sequence[str] = (),
    size: str | None = None, seed: int | None = None, steps: int | None = None, precision: str | None = None,
    compile: bool | None = None, data_root: Path | None = None, out: Path | None = None, resume: bool = False,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train what the configs say; returns the report.

    Args:
        configs: shipped names or paths; those after the first add to it.
        bindings, plugins: as for `load`; `size` to `data_root` are bindings over these.
        out: the run folder, by default runs/<experiment>; on resuming from a RUN/config.gin, that RUN.
        resume: continue the run in it.
        options: as for `run_experiment`.

    Raises:
        InputError: if no config is given, and as `load` and `run_experiment`.
    """
    if not configs:
        raise InputError("CONFIG is missing: give a name from `flowprior list`, or a path to a .gin file.")
    over = settings(
        size=size, seed=seed, steps=steps, precision=precision, compile=compile, data_root=data_root
    )
    loaded = load(configs, [*bindings, *over], plugins)
    if resume and out is None and Path(configs[0]).name == CONFIG:
        out = Path(configs[0]).parent
    return run_experiment(loaded, folder=out, resume=resume, **options)
