"""The figures of `flowprior benchmark`, from the rows of its table."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flowprior.commands.flow_costs import OPERATIONS, Size
from flowprior.figures import save

Row = dict[str, Any]
AXES = {"depth": "depth (couplings)", "width": "width", "batch": "batch"}
SIZE = ("features", "depth", "width", "batch")


def draw(rows: Sequence[Row], folder: Path) -> Iterator[Path]:
    """The files that were drawn: the map over depth and width, and the curves along what was swept.

    Both show the first precision; the map the first contestant, at the features and batch with most sizes.
    """
    rows = [row for row in rows if row["precision"] == rows[0]["precision"]]
    first = rows[0]["contestant"]
    precise = f"{rows[0]['precision']}, {rows[0]['device']}"
    from flowprior.plots.costs import cost_maps, scaling_panels

    own = [row for row in rows if row["contestant"] == first]
    fixed = _commonest(own, ("features", "batch"))
    shown = [row for row in own if (row["features"], row["batch"]) == fixed]
    maps = {
        operation: {(row["depth"], row["width"]): row["ms"] for row in shown if row["operation"] == operation}
        for operation in OPERATIONS
    }
    title = f"{first}: {fixed[0]} features, batch {fixed[1]}, {precise}"
    save(cost_maps(maps, title=title), folder / "depth_width.png")
    yield folder / "depth_width.png"

    swept = [axis for axis in AXES if len({row[axis] for row in rows}) > 1]
    if swept:
        panels = [[_scaling(rows, operation, axis) for axis in swept] for operation in OPERATIONS]
        save(scaling_panels(panels, title=f"Cost of a flow, {precise}"), folder / "scaling.png")
        yield folder / "scaling.png"


def _commonest(rows: Sequence[Row], names: tuple[str, ...]) -> tuple[int, ...]:
    """The values of `names` that most rows have; the middle ones of several."""
    found = [tuple(row[name] for name in names) for row in rows]
    most = max(map(found.count, found))
    best = sorted({each for each in found if found.count(each) == most})
    return best[len(best) // 2]


def _scaling(rows: Sequence[Row], operation: str, axis: str) -> Any:
    """The panel of an operation along `axis`, with everything else where most of it was measured."""
    from flowprior.plots.costs import Scaling

    names = tuple(name for name in SIZE if name != axis)
    fixed = _commonest([row for row in rows if row["operation"] == operation], names)
    shown = sorted(
        (r for r in rows if r["operation"] == operation and tuple(r[name] for name in names) == fixed),
        key=lambda row: row[axis],
    )
    contestants = dict.fromkeys(row["contestant"] for row in rows)
    lines = {
        name: tuple([row[value] for row in shown if row["contestant"] == name] for value in (axis, "ms"))
        for name in contestants
    }
    work = {row[axis]: Size(*(row[name] for name in SIZE)).flop(operation) for row in shown}
    held = ", ".join(f"{name} {value}" for name, value in zip(names, fixed, strict=True))
    return Scaling(f"{operation}\n{held}", AXES[axis], lines, work)  # type: ignore[arg-type]
