"""`flowprior list`: the shipped experiments, the metrics, the figures."""

from collections.abc import Sequence

from flowprior import registry
from flowprior.experiments.shipped import shipped, summary


def run(what: str | None = None, plugins: Sequence[str] = ()) -> None:
    """Print the "metrics" or the "figures", or else the shipped experiments and the parts of the plugins.

    Raises:
        InputError: if a plugin, which is imported first, cannot be.
    """
    if plugins:
        from flowprior.experiments.plugins import import_plugins

        import_plugins(plugins)
    if what == "metrics":
        from flowprior.evaluation import describe_metrics

        print(describe_metrics())
    elif what == "figures":
        from flowprior.figures import describe_figures

        print(describe_figures())
    else:
        lines = {name: summary(path) for name, path in shipped().items()}
        lines |= {name: (part.__doc__ or "").strip().split("\n")[0] for name, part in registry.PARTS.items()}
        width = max(map(len, lines), default=0)
        for name, line in lines.items():
            print(f"{name:<{width}}  {line}".rstrip())
