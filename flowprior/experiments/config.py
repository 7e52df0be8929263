"""gin at the edge: how a file becomes an experiment.

Components do not import gin. This module parses a config itself with gin's own grammar, checks every name and
value against the table of `buildable` things, hands the flat list of bindings to gin, and lets gin build.
"""

import contextlib
import copy
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowprior.checks import nearest
from flowprior.errors import InputError
from flowprior.experiments.bindings import Binding, Macro, Reference, check
from flowprior.experiments.builders import Loaded, buildable
from flowprior.experiments.shipped import find, shipped, shipped_folder

if TYPE_CHECKING:
    from flowprior.experiments.study import Study
    from flowprior.models import Autoencoder

_LOCK = threading.Lock()


class _Delegate:
    """Tells gin's parser to keep references and macros as plain values: nothing is looked up or imported."""

    def configurable_reference(self, name: str, evaluate: bool) -> Reference:
        return Reference(name, evaluate)

    def macro(self, name: str) -> Macro:
        return Macro(name)


def _parse(text: str, place: str) -> Iterator[tuple[str, Any]]:
    """("bind", Binding) and ("include", name) in the order of `text`; anything that imports is refused."""
    import tokenize

    from gin import config_parser

    try:
        for statement in config_parser.ConfigParser(text, _Delegate()):
            line = f"{place}, line {statement.location.line_num}" if "\n" in text else place
            if isinstance(statement, config_parser.ImportStatement):
                raise InputError(
                    f"{line}: `{statement.format()}` is refused, since a config may not import code; "
                    "remove the line: everything a config may build is registered already."
                )
            if isinstance(statement, config_parser.IncludeStatement):
                yield "include", statement.filename
            elif isinstance(statement, config_parser.BindingStatement):
                scope, target, parameter, value, _ = statement
                if not parameter:
                    target, parameter = "", target
                yield "bind", Binding(scope, target, parameter, value, line)
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        number = getattr(error, "lineno", None)
        where = f"{place}, line {number}" if number and "\n" in text else place
        reason = (
            f" ({str(error.args[0]).splitlines()[0].rstrip('.')})" if isinstance(error, SyntaxError) else ""
        )
        raise InputError(
            f"{where}: not a gin binding{reason}: write `Name.parameter = value`, with text in quotes."
        ) from None


def spoken(texts: Iterable[str]) -> list[Binding]:
    """The bindings given on the command line.

    Raises:
        InputError: if one is not a binding.
    """
    bindings: list[Binding] = []
    for text in texts:
        place = f"binding `{' '.join(text.split())}`"
        for kind, item in _parse(text, place):
            if kind == "include":
                raise InputError(f"{place}: an include belongs in a file: give it with --gin_file.")
            bindings.append(item)
    return bindings


def read(path: Path, seen: tuple[Path, ...] = ()) -> list[Binding]:
    """All bindings of a file, includes spelled out in their place."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The config '{path}' cannot be read ({error}): give a gin text file.") from None
    bindings: list[Binding] = []
    for kind, item in _parse(text, path.name):
        if kind == "bind":
            bindings.append(item)
            continue
        beside, carried = path.parent / item, shipped_folder() / item
        included = beside if beside.is_file() else carried
        root = path.parent.resolve() if included is beside else shipped_folder().resolve()
        if not included.is_file() or not included.resolve().is_relative_to(root) or included.suffix != ".gin":
            parts = [p.relative_to(shipped_folder()).as_posix() for p in shipped_folder().rglob("*.gin")]
            raise InputError(
                f"{path.name}: cannot include '{item}'{nearest(item, parts)} A config may include .gin files "
                "of its own folder and the shipped ones, such as 'glf/_base.gin'."
            )
        if included.resolve() in seen:
            raise InputError(
                f"{path.name}: including '{item}' goes round in a circle: remove one of the includes."
            )
        bindings += read(included, (*seen, path.resolve()))
    return bindings


@contextlib.contextmanager
def _gin_alone(table: Mapping[str, Callable[..., Any]]) -> Iterator[Any]:
    """gin with an empty config and nothing registered but `table`; afterwards as the program had it.

    gin keeps one global state. A program that uses gin for itself must not see ours, nor we its registry.
    """
    import gin
    from gin import config as state
    from gin.selector_map import SelectorMap

    with _LOCK:
        kept = {
            name: getattr(state, name)
            for name in ("_REGISTRY", "_INVERSE_REGISTRY", "_CONFIG", "_OPERATIVE_CONFIG", "_IMPORTS")
            + ("_SINGLETONS", "_CONSTANTS", "_CONFIG_IS_LOCKED")
        }
        own: dict[str, Any] = {
            "_REGISTRY": SelectorMap(),
            "_CONSTANTS": SelectorMap(),
            "_CONFIG_IS_LOCKED": False,
        }
        own |= {name: {} for name in ("_INVERSE_REGISTRY", "_CONFIG", "_OPERATIVE_CONFIG", "_SINGLETONS")}
        own["_IMPORTS"] = set()
        own["_CONSTANTS"]["gin.REQUIRED"] = gin.REQUIRED
        for selector, item in kept["_REGISTRY"].items():
            if selector in ("gin.macro", "gin.constant"):
                own["_REGISTRY"][selector] = own["_INVERSE_REGISTRY"][item.wrapped] = item
        try:
            for name, value in own.items():
                setattr(state, name, value)
            for name, target in table.items():
                gin.external_configurable(target, name=name, module="flowprior")
            with gin.config_scope(None):
                yield gin
        finally:
            for name, value in kept.items():
                setattr(state, name, value)


def build(
    bindings: Sequence[Binding], table: Mapping[str, Callable[..., Any]], what: Callable[[Any], Any]
) -> tuple[Any, str]:
    """What `what(gin)` returns under `bindings`, and the operative config: every value that had an effect."""
    with _gin_alone(table) as gin:
        gin.parse_config([str(binding) for binding in bindings])
        try:
            return what(gin), gin.operative_config_str(max_line_length=110)
        except (InputError, TypeError) as error:
            sentence = str(error).split("\n")[0]  # gin appends lines that say where
            missing = re.match(r"(\w+)(?:\.__init__)?\(\) missing .* arguments?: '(\w+)'", sentence)
            unwanted = re.match(
                r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", sentence
            )
            if unwanted and unwanted[1] in table:
                sentence = (
                    f"`{unwanted[1]}` stands where it is given `{unwanted[2]}`, which it does not take: name "
                    "something there that does."
                )
            elif missing:
                sentence = "`{0}` needs `{1}`: add a line `{0}.{1} = ...`.".format(*missing.groups())
            elif not isinstance(error, InputError):
                raise
            raise InputError(sentence) from error


def load(configs: Sequence[str], bindings: Iterable[str] = ()) -> Loaded:
    """The experiment of one config, or of several that add to the first, with `bindings` on top.

    Args:
        configs: shipped names or paths.
        bindings: gin bindings, as text.

    Raises:
        InputError: if a config is not found, names what is not known, or cannot be built.
    """
    loaded, text = build(*_checked(configs, bindings), lambda gin: gin.get_configurable("experiment")())
    text = f"# Every setting of a run; `flowprior train` with this file repeats it.\n\n{text}"
    return replace(
        loaded, text=text, settings={item.key: item.value for _, item in _parse(text, "config.gin")}
    )


def load_study(config: str, bindings: Iterable[str] = ()) -> "tuple[Study, str]":
    """The study that a config holds, and its size, "" where it has one size only.

    Args:
        config: a shipped name or a path.
        bindings: gin bindings, as text.

    Raises:
        InputError: if the config is not found, names what is not known, or holds no study.
    """
    found, table = _checked([config], bindings)
    if not any(binding.target == "study" for binding in found):
        names = [
            name for name, path in shipped().items() if any(item.target == "study" for item in read(path))
        ]
        raise InputError(f"'{config}' is one experiment and no study: there are {', '.join(names)}.")
    built, _ = build(found, table, lambda gin: gin.get_configurable("study")())
    sizes = [str(binding.value) for binding in found if binding.key == "SIZE"]
    return built, sizes[-1] if sizes else ""


def load_model(config: str) -> "Autoencoder":
    """The model of a config alone, with its first weights: the data set may be gone.

    Raises:
        InputError: as `load`.
    """
    model, _ = build(
        *_checked([config], ()), lambda gin: copy.deepcopy(gin.query_parameter("experiment.model"))()
    )
    return model


def _checked(configs: Sequence[str], bindings: Iterable[str]) -> tuple[list[Binding], dict[str, Any]]:
    paths = [find(config) for config in configs]
    names = {path: name for name, path in shipped().items()}
    first = names.get(paths[0], paths[0].stem)
    found = [Binding("", "experiment", "name", first, paths[0].name)]
    found += [binding for path in paths for binding in read(path)] + spoken(bindings)
    table = buildable()
    check(found, table)
    return found, table
