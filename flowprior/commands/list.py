"""`flowprior list`: the shipped experiments, the metrics, the figures."""

from collections.abc import Sequence

from flowprior import registry
from flowprior.experiments.shipped import shipped, summary


def run(what: str | None = None, plugins: Sequence[str] = ()) -> None:
    """Print the shipped experiments and the parts of the plugins; or the metrics, or the figures.

    Args:
        what: "metrics", "figures", or None for the experiments.
        plugins: modules to import first.

    Raises:
        InputError: if a plugin cannot be imported.
    """
    if plugins:
        from flowprior.experiments.plugins import import_plugins

        import_plugins(plugins)
    if what == "metrics":
        from flowprior.evaluation import describe_metrics

        print(describe_metrics())
        return
    if what == "figures":
        from flowprior.figures import describe_figures

        print(describe_figures())
        return
    lines = {name: summary(path) for name, path in shipped().items()}
    lines |= {name: (part.__doc__ or "").strip().split("\n")[0] for name, part in registry.PARTS.items()}
    width = max(map(len, lines), default=0)
    for name, line in lines.items():
        print(f"{name:<{width}}  {line}".rstrip())
