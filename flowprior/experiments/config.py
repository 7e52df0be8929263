"""How a file in gin's grammar becomes an experiment; gin's own state is neither read nor written."""

import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gin.config_parser import (
    BindingStatement,
    ConfigParser,
    ImportStatement,
    IncludeStatement,
    ParserDelegate,
)

from flowprior.bounds import check_regular
from flowprior.checks import nearest
from flowprior.errors import InputError, clip, shown
from flowprior.experiments.bindings import MOST_BINDINGS, Binding, Macro, Reference, check
from flowprior.experiments.builders import Setup, buildable, facts_of, fitting_model
from flowprior.experiments.building import Builder
from flowprior.experiments.experiment import Experiment
from flowprior.experiments.plugins import PLUGINS, import_plugins, plugins_of
from flowprior.experiments.runs import HEAD, config_of
from flowprior.experiments.shipped import find, shipped, shipped_folder
from flowprior.experiments.study import Study
from flowprior.models import Autoencoder

MOST_BYTES = 2**20  # of a config
MOST_FILES = 100  # that one config may include


@dataclass(frozen=True)
class Loaded:
    """What a config says.

    Args:
        experiment: built, with its first weights.
        setup: what it was built from, and how it runs.
        text: the operative config: every setting that had an effect, as a config that repeats it.
        settings: the same as a table.
        values: the same with macros and choices put in.
        plugins: the modules that it needs.
    """

    experiment: Experiment
    setup: Setup
    text: str
    settings: dict[str, Any]
    values: dict[str, Any]
    plugins: tuple[str, ...]


class _Delegate(ParserDelegate):
    """Tells gin's parser to keep references and macros as plain values: nothing is looked up or imported."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def _parse(text: str, name: str) -> Iterator[Binding | IncludeStatement]:
    """The bindings and includes of `text` in order; anything that imports is refused."""
    try:
        for statement in ConfigParser(text, _Delegate()):
            line = _line(text, name, statement.location.line_num)
            if isinstance(statement, ImportStatement):
                raise InputError(
                    f"{line}: `{clip(statement.format(), 100)}` is refused, since a config may not import "
                    "code: remove the line, and name a module of your own with --plugin."
                )
            if isinstance(statement, IncludeStatement):
                yield statement
            elif isinstance(statement, BindingStatement):
                scope, target, parameter, value, _ = statement
                yield Binding(scope, target if parameter else "", parameter or target, value, line)
    except InputError:
        raise
    except (RecursionError, MemoryError):
        raise InputError(f"{name}: a value is nested too deeply: take fewer brackets.") from None
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        line, reason = name, ""
        if isinstance(error, SyntaxError):
            line = _line(text, name, error.lineno)
            reason = f" ({clip(str(error.args[0]), 120).rstrip('.')})"
        fix = "write `Name.parameter = value`, with text in quotes."
        raise InputError(f"{line}: not a gin binding{reason}: {fix}") from None


def _line(text: str, name: str, number: int | None) -> str:
    return f"{name}, line {number}" if number and "\n" in text else name


def spoken(texts: Iterable[str]) -> list[Binding]:
    """The bindings given on the command line; what is none is an `InputError`."""
    bindings: list[Binding] = []
    for text in texts:
        name = f"binding `{clip(text, 160)}`"
        for item in _parse(text, name):
            if isinstance(item, IncludeStatement):
                raise InputError(f"{name}: an include belongs in a file: give it with --gin_file.")
            bindings.append(item)
    return bindings


def read(path: Path) -> list[Binding]:
    """All bindings of a file, those of its includes in their place; else an InputError."""
    return _read(path, (), [])


def _read(path: Path, above: tuple[Path, ...], files: list[Path]) -> list[Binding]:
    """As `read`, of a file that those `above` include; all `files` that were read are counted."""
    files.append(path)
    if len(files) > MOST_FILES:
        first = (above or (path,))[0].name
        raise InputError(f"{first} includes more than {MOST_FILES} files: join some, or drop includes.")
    bindings: list[Binding] = []
    for item in _parse(_text(path), path.name):
        if isinstance(item, Binding):
            bindings.append(item)
            continue
        included = _included(path, item.filename)
        if included.resolve() in (*above, path.resolve()):
            raise InputError(f"{path.name}: including '{item.filename}' is a circle: remove an include.")
        bindings += _read(included, (*above, path.resolve()), files)
    if len(bindings) > MOST_BINDINGS:
        raise InputError(f"{path.name} has more than {MOST_BINDINGS} bindings: leave some out.")
    return bindings


def _text(path: Path) -> str:
    check_regular(path, "The config")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(f"The config '{path}' has {size:,} bytes, more than {MOST_BYTES:,}: shorten it.")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The config '{path}' cannot be read ({error}): give a gin text file.") from None


def _included(path: Path, name: str) -> Path:
    """The file that `path` includes as `name`: one of its own folder, or a shipped one."""
    if not name.isprintable() or len(name) > 500:
        raise InputError(f"{path.name}: cannot include {shown(name)}: give the name of a .gin file.")
    root = path.parent if (path.parent / name).is_file() else shipped_folder()
    included = root / name
    inside = included.resolve().is_relative_to(root.resolve())
    if not (inside and included.is_file() and included.suffix == ".gin"):
        parts = [part.relative_to(shipped_folder()).as_posix() for part in shipped_folder().rglob("*.gin")]
        raise InputError(
            f"{path.name}: cannot include '{name}'{nearest(name, parts)} A config may include .gin files "
            "of its own folder and the shipped ones, such as 'glf/_base.gin'."
        )
    return included


def load(configs: Sequence[str], bindings: Iterable[str] = (), plugins: Sequence[str] = ()) -> Loaded:
    """The experiment of one config, or of several that add to the first, with `bindings` on top.

    Args:
        configs: shipped names or paths.
        plugins: modules to import first, whose registered parts a config may name.

    Raises:
        InputError: if a config is not found, names what is not known, or cannot be built.
    """
    builder, needed = _builder(configs, bindings, plugins)
    setup: Setup = builder.call("experiment")
    builder.facts = facts_of(lambda: setup.source)
    experiment = setup.build()
    head = HEAD
    if needed:
        head += f"{PLUGINS} {', '.join(needed)}\n"
    return Loaded(experiment, setup, f"{head}\n{builder.text()}", builder.settings, builder.values, needed)


def load_run(folder: Path, data_root: Path | None = None, plugins: Sequence[str] = ()) -> Loaded:
    """As `load`, of a run folder (else an `InputError`), with its data under `data_root`."""
    return load([str(config_of(folder))], settings(data_root=data_root), plugins)


def settings(
    *,
    size: str | None = None,
    seed: int | None = None,
    steps: int | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    data_root: Path | None = None,
) -> list[str]:
    """Bindings for those of the settings that are given.

    >>> settings(size="paper", seed=3)
    ["SIZE = 'paper'", 'experiment.seed = 3']
    """
    values = {
        "SIZE": size,
        "experiment.seed": seed,
        "experiment.steps": steps,
        "experiment.precision": precision,
        "experiment.compile": compile,
        "Source.root": None if data_root is None else str(data_root.absolute()),
    }
    return [f"{name} = {value!r}" for name, value in values.items() if value is not None]


def load_study(config: str, bindings: Iterable[str] = (), plugins: Sequence[str] = ()) -> tuple[Study, str]:
    """The study that a config holds, and its size, "" where it has one size only; arguments as for `load`.

    Raises:
        InputError: if the config holds no study, and as `load`.
    """

    def is_study(bindings: Iterable[Binding]) -> bool:
        return any(binding.target == "study" for binding in bindings)

    builder, _ = _builder([config], bindings, plugins)
    if not is_study(builder.bindings):
        names = [name for name, path in shipped().items() if is_study(read(path))]
        raise InputError(f"'{config}' is one experiment and no study: there are {', '.join(names)}.")
    sizes = [str(binding.value) for binding in builder.bindings if binding.key == "SIZE"]
    return builder.call("study"), sizes[-1] if sizes else ""


def load_model(folder: Path, plugins: Sequence[str] = ()) -> Autoencoder:
    """The model of a run folder, with its first weights, as of `load_run`: the data set may be gone."""
    builder, _ = _builder([str(config_of(folder))], (), plugins)
    builder.facts = facts_of(cache(lambda: builder.query("experiment", "source")))
    with fitting_model():
        model: Autoencoder = builder.query("experiment", "model")()
    return model


def _builder(
    configs: Sequence[str], bindings: Iterable[str], plugins: Sequence[str]
) -> tuple[Builder, tuple[str, ...]]:
    """The checked bindings of `configs`, and the plugins that are given or were there already."""
    paths = [find(config) for config in configs]
    import_plugins(plugins)
    there = [name for path in paths for name in plugins_of(_text(path), path.name)]
    names = {path: name for name, path in shipped().items()}
    first = names.get(paths[0], paths[0].stem)
    found = [Binding("", "experiment", "name", first, paths[0].name)]
    found += [binding for path in paths for binding in read(path)] + spoken(bindings)
    table = buildable()
    check(found, table)
    return Builder(found, table), tuple(dict.fromkeys([*plugins, *there]))
