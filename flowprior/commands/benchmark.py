"""`flowprior benchmark`: what a flow costs over sizes, backends, precisions and compilers."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import torch

from flowprior.bijectors.build import BACKENDS
from flowprior.commands.figures.costs import draw
from flowprior.commands.flow_costs import (
    COMPILES,
    OPERATIONS,
    PRECISIONS,
    TURN,
    Contestant,
    Setting,
    Size,
    contestants,
    peak_memory,
    product_rate,
    rounds,
    spread,
)
from flowprior.commands.peers import PACKAGES, choose
from flowprior.commands.train import threads_set
from flowprior.errors import InputError
from flowprior.experiments import report
from flowprior.files import make_folder, write_atomically, write_json
from flowprior.training.fabric import resolve_device

RATE_SECONDS = 1.0
Row = dict[str, Any]
MEASURED = {
    "ms": "median milliseconds a call, `low` and `high` its quartiles over interleaved rounds in one "
    f"process; a turn in a round is a loop of {1e3 * TURN:.0f} ms, shorter where little time was given",
    "flop_per_s": "by the matrix products of the conditioners alone; a step counts three times log_prob",
    "rate_share": "flop_per_s / product_rate, that of a large square product in the same precision",
    "to_products": "time / that of the conditioners' bare matrix products in the same round",
    "to_flowprior": "time / that of the first contestant in the same round",
    "memory": "bytes; CUDA: peak of the call beyond what it found; CPU: saved by log_prob for its backward "
    "pass, parameters left out, in the rows of step",
}


def sizes(
    features: Sequence[int], depths: Sequence[int], widths: Sequence[int], batches: Sequence[int]
) -> list[Size]:
    """Every combination.

    Raises:
        InputError: if a number is not positive, or there is one feature only, which no coupling can split.
    """
    for name, values, least in (
        ("features", features, 2),
        ("depth", depths, 1),
        ("width", widths, 1),
        ("batch", batches, 1),
    ):
        for value in values:
            if value < least:
                raise InputError(f"`{name}` (={value}) must be at least {least}, such as {max(least, 64)}.")
    return [Size(*each) for each in product(features, depths, widths, batches)]


def run(
    chosen: Sequence[Size],
    *,
    folder: Path,
    command: str = "",
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Measure (see `measure`), and write table and figures into `folder`; returns the table."""
    known = ("device", "backends", "precisions", "compiles", "peers")
    check(**{name: options[name] for name in known if name in options})
    make_folder(folder)
    table = measure(chosen, command=command, seed=seed, **options)
    write_json(folder / "benchmark.json", table)
    write_atomically(folder / "benchmark.csv", as_csv(table["rows"]).encode())
    for path in (folder / "benchmark.json", folder / "benchmark.csv", *draw(table["rows"], folder)):
        print(path)
    return table


def check(
    *,
    device: str = "auto",
    backends: Sequence[str] = ("nflows",),
    precisions: Sequence[str] = ("float32",),
    compiles: Sequence[str] = ("none",),
    peers: str = "installed",
) -> None:
    """Refuse what is not known, or not to be had on the device.

    Raises:
        InputError: as said.
    """
    place = resolve_device(device)
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"`device` (={device!r}) cannot be measured: take 'cpu' or 'cuda'.")
    for name, values, known in (
        ("backend", backends, BACKENDS),
        ("precision", precisions, tuple(PRECISIONS)),
        ("compile", compiles, COMPILES),
    ):
        for value in values:
            if value not in known:
                raise InputError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, known))}.")
    if place.type == "cpu" and "tf32" in precisions:
        raise InputError("`precision` (='tf32') needs a GPU: take 'float32' on the CPU.")
    choose(peers)


def measure(
    chosen: Sequence[Size],
    *,
    command: str = "",
    device: str = "auto",
    backends: Sequence[str] = ("nflows",),
    precisions: Sequence[str] = ("float32",),
    compiles: Sequence[str] = ("none",),
    peers: str = "installed",
    threads: int | None = None,
    seconds: float = 2.0,
    least: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """The table: command, date, machine, versions, and a row for each size, contestant and operation.

    Args:
        chosen: the sizes.
        command: what repeats it.
        device: "auto", "cpu", "cuda", ...
        backends, precisions, compiles: flowprior is measured with each; peers with each precision.
        peers: see `peers.choose`.
        threads: of the CPU; as many as torch takes by default.
        seconds: of rounds for each size and operation.
        least: rounds at least.
        seed: of parameters and inputs.

    Raises:
        InputError: if an argument is none of these.
        RunError: if torch.compile fails.
    """
    check(device=device, backends=backends, precisions=precisions, compiles=compiles, peers=peers)
    names, place, rows, rates = choose(peers), resolve_device(device), [], {}
    with threads_set(threads):
        machine = report.machine()
        print(head(names))
        for precision in precisions:
            setting = Setting(str(place), precision)
            with setting.entered():
                rates[precision] = product_rate(setting, min(RATE_SECONDS, seconds))
                for size in chosen:
                    torch.manual_seed(seed)
                    torch.compiler.reset()  # or it would count the sizes as recompilations of one function
                    found = contestants(size, setting, backends, compiles, names)
                    for operation in OPERATIONS:
                        new = list(_rows(found, size, operation, setting, rates[precision], seconds, least))
                        print(line(new, names), flush=True)
                        rows += new
    versions = report.versions()
    versions |= {PACKAGES[name]: metadata.version(PACKAGES[name]) for name in names}
    return {
        "command": command,
        "date": date.today().isoformat(),
        "machine": machine,
        "versions": versions,
        "seed": seed,
        "seconds": seconds,
        "measured": MEASURED,
        "product_rate": rates,
        "rows": rows,
    }


def _rows(
    found: Sequence[Contestant],
    size: Size,
    operation: str,
    setting: Setting,
    rate: float,
    seconds: float,
    least: int,
) -> Iterator[Row]:
    found = [each for each in found if operation in each.calls]
    calls = {each.name: each.calls[operation] for each in found}
    times = rounds(calls, setting.device, seconds, least)
    ours, bare = times[found[0].name], times["products"]
    for each in found:
        own = times[each.name]
        middle, low, high = spread(own)
        row: Row = {
            **{name: getattr(size, name) for name in ("features", "depth", "width", "batch")},
            "operation": operation,
            "contestant": each.name,
            "backend": each.backend,
            "compile": each.compile,
            "precision": setting.precision,
            "device": setting.device,
            "rounds": len(own),
            "ms": 1e3 * middle,
            "ms_low": 1e3 * low,
            "ms_high": 1e3 * high,
            "examples_per_s": size.batch / middle,
            "flop_per_s": size.flop(operation) / middle,
            "rate_share": size.flop(operation) / middle / rate,
        }
        for name, others in (("to_products", bare), ("to_flowprior", ours)):
            ratios = spread([one / other for one, other in zip(own, others, strict=True)])
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), ratios, strict=True))
        row["memory"] = peak_memory(each, operation, setting.device)
        row["parameters"] = each.parameters
        yield row


def head(names: Sequence[str]) -> str:
    """The opening of a Markdown table of `line`s."""
    others = [f"{name} / flowprior" for name in ("reference", *names)]
    cells = ["D, depth, width, batch", "operation", "ms", "of the machine's rate", "to products", *others]
    return "| " + " | ".join(cells) + " |\n" + "|---" * len(cells) + "|"


def line(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The rows of one size and operation, in one line of Markdown."""
    by_name: Mapping[str, Row] = {row["contestant"]: row for row in rows}
    ours = rows[0]
    cells = [
        ", ".join(str(ours[name]) for name in ("features", "depth", "width", "batch")),
        ours["operation"],
        f"{ours['ms']:.3f}",
        f"{ours['rate_share']:.0%}",
        f"{ours['to_products']:.2f}",
    ]
    for name in ("reference", *names):
        row = by_name[name]
        cells.append(
            f"{row['to_flowprior']:.2f} ({row['to_flowprior_low']:.2f}-{row['to_flowprior_high']:.2f})"
        )
    return "| " + " | ".join(cells) + " |"


def as_csv(rows: Sequence[Row]) -> str:
    """The rows, with a first line of names."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
