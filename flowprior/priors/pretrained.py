"""A prior on disk: `config.json` says how to build it, `model.safetensors` holds its numbers."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import nn

from flowprior.bounds import check_regular
from flowprior.errors import InputError, reason
from flowprior.files import write_atomically
from flowprior.tensors import check_weights, within_memory

FORMAT = 1  # raised when a file written today could no longer be read as it is
DEEPEST = 30  # of a config
CONFIG, MODEL = "config.json", "model.safetensors"


class Saved:
    """What saves a prior to a folder, and builds it again from there."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into `folder`, each of them whole or not at all.

        The config is last, with the checksum of the other: loading notices a crash between or flipped bits.
        """
        from safetensors.torch import save as to_bytes

        prior, folder = cast(Any, self), Path(folder)
        state = {k: v.detach().cpu().contiguous().clone() for k, v in prior.state_dict().items()}
        payload = to_bytes(state)
        config = {
            "format": FORMAT,
            **_describe(prior),
            "dtype": str(prior.dtype).removeprefix("torch."),
            "sha256": hashlib.sha256(payload).hexdigest(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"`folder` (={str(folder)!r}) is a file: name a folder to save to.") from None
        write_atomically(folder / MODEL, payload)
        write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, bijector: object = None, embedding: nn.Module | None = None
    ) -> Self:
        """The prior that `save_pretrained` wrote to `folder`, on the CPU, with the dtype it had.

        Called on `Prior` it builds whatever class was stored; called on a subclass, only that one.

        Args:
            folder: what was given to `save_pretrained`.
            bijector: the user's own transform, if the prior was built with one: code is never stored.
            embedding: likewise the network of an `EmbeddedPrior`, whose weights the stored ones replace.

        Raises:
            InputError: if a file is missing, damaged, of another class or of a newer format.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load as from_bytes

        folder = Path(folder)
        code = {"bijector": bijector, "embedding": embedding}
        config = _read_config(folder)
        payload = _read(folder, MODEL)
        if hashlib.sha256(payload).hexdigest() != config.get("sha256"):
            raise InputError(
                f"{folder / MODEL} does not match the checksum in {CONFIG}: it is damaged or its saving was "
                "interrupted; save the prior again."
            )
        stored = _class_of(config, folder)
        if not issubclass(stored, cls):
            raise InputError(
                f"{folder} holds a {stored.__name__}, not a {cls.__name__}: call "
                f"{stored.__name__}.from_pretrained, or Prior.from_pretrained for any class."
            )
        for argument, given in code.items():
            _check_code(config, folder, argument, given)
        with within_memory(f"The prior in {folder}", "save the prior again"):
            prior: Any = _build(config, folder, code)
        prior.to(_dtype(config, folder))
        try:
            tensors = from_bytes(payload)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            damaged = f"{folder / MODEL} is no file of safetensors ({reason(error)})"
            raise InputError(f"{damaged}: save the prior again.") from error
        for name, value in prior.state_dict().items():
            if name in tensors and tensors[name].is_floating_point() != value.is_floating_point():
                wrong = f"holds {name!r} as {tensors[name].dtype}, not {value.dtype}"
                raise InputError(f"{folder / MODEL} {wrong}: save the prior again.")
        try:
            prior.load_state_dict(tensors)
        except RuntimeError as error:
            unfit = f"{folder / MODEL} does not fit the prior of its {CONFIG} ({reason(error)})"
            raise InputError(f"{unfit}: save the prior again.") from error
        check_weights(prior, str(folder / MODEL))
        return prior


def _describe(prior: Any) -> dict[str, Any]:
    return {
        "class": type(prior).__name__,
        "arguments": {name: _plain(value) for name, value in prior.arguments().items()},
    }


def _plain(value: Any) -> Any:
    """`value` with every prior in it, itself or in a list, described."""
    if isinstance(value, Saved):
        return _describe(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _class_of(description: dict[str, Any], folder: Path) -> type[Saved]:
    # the first of a name: gin wraps a class in a subclass of the same name, and it is not that one
    classes = {cls.__name__: cls for cls in reversed(list(_subclasses(Saved)))}
    name = description.get("class")
    if not isinstance(name, str) or name not in classes or not isinstance(description.get("arguments"), dict):
        raise InputError(
            f"{folder / CONFIG} names the class {name!r}, which is not a known prior: import the module that "
            "defines it first."
        )
    return classes[name]


def _build(description: dict[str, Any], folder: Path, code: Mapping[str, object]) -> Saved:
    cls, arguments = _class_of(description, folder), dict(description["arguments"])
    arguments |= {name: code[name] for name in code if arguments.get(name) is not None}
    for name, value in arguments.items():
        if isinstance(value, list):
            arguments[name] = [_build(v, folder, code) if _is_prior(v) else v for v in value]
        elif _is_prior(value):
            arguments[name] = _build(value, folder, code)
    try:
        return cls(**arguments)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # arguments of any wrong type
        wrong = f"{folder / CONFIG} cannot build a {cls.__name__}: {reason(error)}"
        raise InputError(f"{wrong}; save the prior again.") from error


def _check_code(config: dict[str, Any], folder: Path, argument: str, given: object) -> None:
    wanted = _users_own(config, argument)
    if len(wanted) > 1:
        raise InputError(
            f"{folder} holds a prior with several {argument}s of its own ({', '.join(wanted)}), and only one "
            "can be passed: build the prior yourself and load its `state_dict`."
        )
    if wanted and given is None:
        raise InputError(
            f"{folder} holds a prior with its own {argument} ({wanted[0]}), and code is not stored: pass the "
            f"same one as `{argument}`."
        )
    if not wanted and given is not None:
        raise InputError(f"`{argument}` was given but {folder} holds a prior built without: leave it out.")


def _users_own(description: dict[str, Any], argument: str) -> list[str]:
    """The classes of the users' code for `argument` in a prior and in those that it holds."""
    arguments = description["arguments"]
    own = [] if arguments.get(argument) is None else [arguments[argument]]
    for value in arguments.values():
        for held in value if isinstance(value, list) else [value]:
            own += _users_own(held, argument) if _is_prior(held) else []
    return own


def _is_prior(value: object) -> bool:
    """Whether `value` is what `_describe` makes of a prior."""
    return isinstance(value, dict) and "class" in value and "arguments" in value


def _subclasses(cls: type[Saved]) -> Iterator[type[Saved]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"`folder` (={str(folder)!r}) is not a folder: give what save_pretrained was given.")
    text = _read(folder, CONFIG)
    try:
        config = json.loads(text)
        deep = _depth(config) > DEEPEST
    except (ValueError, RecursionError):  # no JSON, no text, too many digits or brackets
        config, deep = None, False
    if deep:
        raise InputError(f"{folder / CONFIG} holds more than {DEEPEST} values in one another: save it again.")
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise InputError(
            f"{folder / CONFIG} is damaged or was not written by save_pretrained: save it again."
        )
    if (written := config["format"]) > FORMAT:
        raise InputError(
            f"{folder / CONFIG} has format {written}, newer than this flowprior reads: upgrade it."
        )
    return config


def _depth(value: Any) -> int:
    """How many containers lie in one another."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(_depth, inside), default=0)


def _read(folder: Path, name: str) -> bytes:
    if (folder / name).exists():
        check_regular(folder / name)
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        reason = f"{folder / name} cannot be read ({error.strerror})"
        raise InputError(f"{reason}: a saved prior is {CONFIG} and {MODEL} in one folder.") from None


def _dtype(config: dict[str, Any], folder: Path) -> torch.dtype:
    name = config.get("dtype")
    if name not in ("float16", "bfloat16", "float32", "float64"):
        raise InputError(f"{folder / CONFIG} names the dtype {name!r}, not a floating one: save it again.")
    return getattr(torch, name)
