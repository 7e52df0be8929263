"""Priors as programs for other runtimes: torch.export and ONNX."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from flowprior.bijectors.gate import Gate, Invertible
from flowprior.errors import InputError, RunError, reason
from flowprior.files import check_writable, write_atomically

ENDINGS = (".pt2", ".onnx")
ONNX = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of numbers that two runtimes round in their own ways, relative and absolute
ROWS = (4, 7)  # batches: one to trace, another to check that the size is free

Run = Callable[..., list[Tensor]]


class Exported(Gate):
    """What makes programs of a prior."""

    has_density: bool

    def export(self, path: str | Path) -> dict[str, Path]:
        """Write the density and the map from z0 to z as programs, each a file of its own.

        `prior.export("prior.onnx")` writes prior.log_prob.onnx, z (N, *event) -> log_prob (N,), and, of a
        prior with two spaces, prior.from_base.onnx, z0 (N, *event) -> z (N, *event). A conditional one has
        `context` (N, *context_shape) as a second input. N is free, the dtype that of the prior. A draw is
        from_base of a draw of the base: of N(0, I), if `has_normal_base`. Both files are checked against
        eager mode, on two batches, before they are written.

        Args:
            path: its ending decides: .pt2 for torch.export (read by `torch.export.load`; the program stays
                on the prior's device), .onnx for ONNX.

        Returns:
            The files, by "log_prob" and "from_base".

        Raises:
            InputError: if the ending is another, a package is missing, or the prior can only be sampled.
            RunError: if a program does not agree with the prior.
        """
        path = Path(path)
        check_writable(path, ENDINGS, "path")
        missing = [name for name in ONNX if path.suffix == ".onnx" and find_spec(name) is None]
        if missing:
            raise InputError(
                f"`path` (={path}) needs the packages {', '.join(missing)}: run `pip install "
                "'flowprior[export]'`, or write a .pt2 file."
            )
        prior = copy.deepcopy(self).eval().requires_grad_(False)
        for module in prior.modules():
            if isinstance(module, Gate):
                module.fold()
        entries: dict[str, nn.Module] = {"log_prob": _LogProb(prior)} if self.has_density else {}
        if isinstance(prior, Invertible):
            entries["from_base"] = _FromBase(prior)
        if not entries:
            raise InputError(
                f"{type(self).__name__} can only be sampled: `export` needs a density or `from_base`."
            )
        files = {name: path.with_name(f"{path.stem}.{name}{path.suffix}") for name in entries}
        write = _as_onnx if path.suffix == ".onnx" else _as_pt2
        programs = {name: _checked(name, entry, prior, write) for name, entry in entries.items()}
        for name, program in programs.items():
            write_atomically(files[name], program)
        return files


class _LogProb(nn.Module):
    def __init__(self, prior: Any) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.prior.log_prob(z, context)


class _FromBase(nn.Module):
    def __init__(self, prior: Any) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, z0: Tensor, context: Tensor | None = None) -> Tensor:
        return self.prior.from_base(z0, context)[0]


def _checked(name: str, entry: nn.Module, prior: Gate, write: Callable[..., tuple[bytes, Run]]) -> bytes:
    """The program of `entry`, once it is known to compute what `entry` does."""
    from torch._dynamo.exc import UserError  # slow to import

    first, other = (_inputs(prior, rows) for rows in ROWS)
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in first)
    names = ["z" if name == "log_prob" else "z0", "context"][: len(first)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own, of their internals
        try:
            exported = torch.export.export(entry, first, dynamic_shapes=shapes, strict=False)
        except UserError as error:
            raise InputError(
                f"`{name}` cannot be exported for batches of any size ({reason(error)}): in code of your own "
                "ask `z.shape[0]` instead of `len(z)`, and branch on no value."
            ) from error
        program, run = write(exported, names, name)
        for inputs in (first, other):
            expected, (got,) = entry(*inputs), run(*inputs)
            if not torch.allclose(got.to(expected), expected, rtol=TOLERANCE, atol=TOLERANCE):
                off = (got.to(expected) - expected).abs().max().item()
                raise RunError(f"The exported `{name}` is off by {off:.3g}: nothing was written.")
    return program


def _inputs(prior: Gate, rows: int) -> tuple[Tensor, ...]:
    """Rows to run a program on; the caller's random state stays as it was."""
    generator = torch.Generator().manual_seed(rows)
    shapes = [shape for shape in (prior.event_shape, prior.context_shape) if shape is not None]
    drawn = (torch.randn(rows, *shape, generator=generator) for shape in shapes)
    inputs = [each.to(prior.device, prior.dtype) for each in drawn]
    if prior.classes is not None:
        inputs[1] = torch.randint(prior.classes, (rows,), generator=generator).to(prior.device)
    return tuple(inputs)


def _as_pt2(exported: torch.export.ExportedProgram, names: list[str], name: str) -> tuple[bytes, Run]:
    stream = io.BytesIO()
    torch.export.save(exported, stream)
    loaded = torch.export.load(io.BytesIO(stream.getvalue())).module()
    return stream.getvalue(), lambda *inputs: [loaded(*inputs)]


def _as_onnx(exported: torch.export.ExportedProgram, names: list[str], name: str) -> tuple[bytes, Run]:
    import onnxruntime

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells which constants it did not fold
    output = "log_prob" if name == "log_prob" else "z"
    onnx = torch.onnx.export(exported, input_names=names, output_names=[output], dynamo=True, verbose=False)
    program = cast(Any, onnx).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> list[Tensor]:
        fed = {key: each.cpu().numpy() for key, each in zip(names, inputs, strict=True)}
        return [torch.from_numpy(result) for result in session.run(None, fed)]

    return program, run
