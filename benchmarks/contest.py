"""flowprior beside other libraries and bare matrix products, in interleaved rounds of one process."""

import statistics
from collections.abc import Iterator, Sequence
from importlib import metadata

import torch
from engines import ENGINES
from peers import FUSED, PACKAGES, PEERS, flop, products, with_fused_adam

from flowprior.evaluation.costs import (
    MEASURED,
    OPERATIONS,
    Contestant,
    Row,
    Size,
    flowpriors,
    in_precision,
    measure,
    rounds,
)

RATE_SECONDS = 1.0
RATE_SIZE = {"cpu": 1536, "cuda": 8192}  # rows and columns of the product that the machine's rate is from
FACTS = {
    **MEASURED,
    "flop_per_s": "by the matrix products of the conditioners alone; a step counts three times log_prob",
    "rate_share": "flop_per_s / product_rate, that of a large square product in the same precision",
    "to_products": "time / that of the conditioners' bare matrix products in the same round",
}


def contest(
    sizes: Sequence[Size],
    *,
    device: str = "cpu",
    backends: Sequence[str] = ("nflows",),
    precisions: Sequence[str] = ("float32",),
    compiles: Sequence[str] = ("none",),
    peers: Sequence[str] = (),
    fused: bool = False,
    engines: Sequence[str] = (),
    seconds: float = 2.0,
    least: int = 5,
) -> tuple[list[Row], dict]:
    """The rows of `costs.measure` with `FACTS` on top, and facts for the results file; prints a line each.

    flowprior is measured with each of `backends` and `compiles`, and all with each of `precisions`. Steps of
    peers are by torch's default Adam, as their users write it, with `fused` also by flowprior's fused one.
    """

    def contestants(size: Size, device: str) -> Iterator[Contestant]:
        yield from flowpriors(size, device, backends, compiles)
        for name in peers:
            yield PEERS[name](size, device)
        for name in peers if fused else ():
            yield with_fused_adam(name, size, device)
        for name in engines:
            yield ENGINES[name](size, device)
        yield products(size, device)

    rows, rates = [], {}
    names = [*peers, *(name + FUSED for name in peers if fused), *engines]
    names += [f"flowprior {mode}" for mode in compiles if mode != "none"]
    print(head(names))
    for precision in precisions:
        with in_precision(precision):
            rates[precision] = product_rate(device, min(RATE_SECONDS, seconds))
        for size in sizes:
            measured = measure(
                size, contestants, device=device, precision=precision, seconds=seconds, least=least
            )
            for operation in OPERATIONS:
                new = [row for row in measured if row["operation"] == operation]
                _compare(new, flop(size, operation), rates[precision])
                print(line(new, names), flush=True)
                rows += new
    packages = {PACKAGES.get(name, name) for name in (*peers, *engines)}
    versions = {package: metadata.version(package) for package in sorted(packages)}
    return rows, {"measured": FACTS, "product_rate": rates, "peers": versions, "seconds": seconds, "seed": 0}


def _compare(rows: Sequence[Row], work: int, rate: float) -> None:
    """Add the rate of the arithmetic to all rows and, to the first, its time / that of the products."""
    for row in rows:
        row["flop_per_s"] = 1e3 * work / row["ms"]
        row["rate_share"] = row["flop_per_s"] / rate
    bare = next(row for row in rows if row["contestant"] == "products")
    for name, inverse in (("", ""), ("_low", "_high"), ("_high", "_low")):
        rows[0][f"to_products{name}"] = 1 / bare[f"to_first{inverse}"]


def product_rate(device: str, seconds: float) -> float:
    """Floating-point operations a second of a large square matrix product, the median of many."""
    side = RATE_SIZE[torch.device(device).type]
    left, right = (torch.randn(side, side, device=device) for _ in range(2))
    times = rounds({"product": lambda: left @ right}, device, seconds, 5)["product"]
    return 2 * side**3 / statistics.median(times)


def head(peers: Sequence[str]) -> str:
    """The opening of a Markdown table of `line`s."""
    cells = ["D, depth, width, batch", "operation", "flowprior, ms", "of the machine's rate", "to products"]
    cells += [f"{name} / flowprior" for name in peers]
    return "| " + " | ".join(cells) + " |\n" + "|---" * len(cells) + "|"


def line(rows: Sequence[Row], peers: Sequence[str]) -> str:
    """The rows of one size and operation, in one line of Markdown."""
    first, by_name = rows[0], {row["contestant"]: row for row in rows}
    cells = [
        ", ".join(str(first[name]) for name in Size._fields),
        first["operation"],
        f"{first['ms']:.3f}",
        f"{first['rate_share']:.0%}",
        f"{first['to_products']:.2f}",
    ]
    for name in peers:
        row = by_name.get(name)
        ratio = (
            "-" if row is None else "{to_first:.2f} ({to_first_low:.2f}-{to_first_high:.2f})".format(**row)
        )
        cells.append(ratio)
    return "| " + " | ".join(cells) + " |"
