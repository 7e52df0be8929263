"""`flowprior compare`: the rows of a study, beside one another and the paper."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowprior.experiments.compare import run_study
from flowprior.experiments.comparison import Comparison
from flowprior.experiments.config import load_study, settings


def run(
    study: str, *, bindings: Sequence[str] = (), plugins: Sequence[str] = (), size: str | None = None,
    data_root: Path | None = None, out: Path | None = None, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Run or resume the study of a config; returns its table.

    Args:
        study: a shipped name or a path.
        bindings, plugins: for all rows, as for `load_study`; `size` and `data_root` are bindings over these.
        out: the study's folder, by default runs/compare/<study>-<size>.
        options: `seeds` of each row, by default 1, and as for `run_study`.

    Raises:
        InputError: as `load_study` and `run_study`.
        RunError: if some of the runs failed.
    """
    all_rows = [*bindings, *settings(size=size, data_root=data_root)]
    rows, sized = load_study(study, all_rows, plugins)
    name = (Path(study).stem if Path(study).is_file() else study).removesuffix(".gin")
    shown = {"seeds": options.get("seeds", 1), "size": sized}
    shown |= {"data-root": data_root and "DATA", "weights": options.get("weights") and "WEIGHTS"}
    words = ["flowprior compare", Path(study).name if Path(study).is_absolute() else study]
    words += [f"--{option} {value}" for option, value in shown.items() if value]
    words += [f"--row {row}" for row in options.get("rows", ())]
    words += [f"--plugin {plugin}" for plugin in plugins]
    words += [f"-b {shlex.quote(binding)}" for binding in bindings]
    out = out or Path("runs/compare") / f"{name}-{sized}".removesuffix("-")
    comparison = Comparison(rows, name, sized, out, options.pop("seeds", 1), " ".join(words))
    return run_study(comparison, config=study, bindings=all_rows, plugins=plugins, **options)
