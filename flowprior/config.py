"""gin at the edge: what a config may build, and how a file becomes an experiment.

Components do not import gin. This module parses a config itself with gin's own grammar, checks every name and
value against the table of `buildable` things, hands the flat list of bindings to gin, and lets gin build.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowprior.bindings import Binding, Macro, Reference, nearest
from flowprior.errors import InputError

if TYPE_CHECKING:
    from flowprior.training.experiment import Experiment

SIZES = ("cpu", "paper")
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Loaded:
    """An experiment that a config built, and the operative config that builds it again."""

    experiment: "Experiment"
    text: str


# ---- shipped configs ------------------------------------------------------------------------------------


def shipped_folder() -> Path:
    """The folder of the shipped configs: inside an installed package, or `gin/` of a source checkout."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "gin"


def shipped() -> dict[str, Path]:
    """Every shipped experiment by name, such as `glf/digits`. Files whose name starts with `_` are parts."""
    folder = shipped_folder()
    paths = sorted(path for path in folder.rglob("*.gin") if not path.name.startswith("_"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def summary(path: Path) -> str:
    """What an experiment is: the first line of its opening comment."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").rstrip()


def find(config: str) -> Path:
    """The file that `config` means: a shipped name such as `glf/digits`, or a path to a .gin file.

    Raises:
        InputError: if there is neither.
    """
    path = Path(config)
    if path.suffix == ".gin" and path.is_file():
        return path
    names = shipped()
    name = config.removesuffix(".gin")
    if name in names:
        return names[name]
    if path.suffix == ".gin" and (len(path.parts) > 2 or path.is_absolute()):
        raise InputError(
            f"The config file '{config}' does not exist: give a path to a .gin file or a shipped name."
        )
    raise InputError(
        f"Unknown experiment '{config}'{nearest(name, names)} `flowprior list` shows the shipped ones, "
        "and a path to a .gin file works too."
    )


# ---- reading --------------------------------------------------------------------------------------------


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
        for kind, item in _parse(text, f"binding `{text.strip()}`"):
            if kind == "include":
                raise InputError(
                    f"binding `{text.strip()}`: an include belongs in a file: give it with --gin_file."
                )
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


# ---- building -------------------------------------------------------------------------------------------


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
            yield gin
        finally:
            for name, value in kept.items():
                setattr(state, name, value)


def build(bindings: Sequence[Binding], table: Mapping[str, Callable[..., Any]], top: str) -> tuple[Any, str]:
    """What `top` returns under `bindings`, and the operative config: every value that had an effect."""
    with _gin_alone(table) as gin:
        gin.parse_config([str(binding) for binding in bindings])
        try:
            built = gin.get_configurable(top)()
        except (InputError, TypeError) as error:
            sentence = str(error).split("\n")[0]  # gin appends lines that say where
            missing = re.match(r"(\w+)(?:\.__init__)?\(\) missing .* argument: '(\w+)'", sentence)
            if missing:
                sentence = "`{0}` needs `{1}`: add a line `{0}.{1} = ...`.".format(*missing.groups())
            elif not isinstance(error, InputError):
                raise
            raise InputError(sentence) from error
        return built, gin.operative_config_str(max_line_length=110)


# ---- what a config names --------------------------------------------------------------------------------


def by_size(size: str, cpu: Any, paper: Any) -> Any:
    """The value of the chosen size; a config binds `size` to its macro SIZE.

    Raises:
        InputError: if `size` is neither 'cpu' nor 'paper'.
    """
    if size not in SIZES:
        raise InputError(f"SIZE (={size!r}) must be 'cpu' or 'paper'.")
    return cpu if size == "cpu" else paper


def by_data(name: str, values: dict[str, Any]) -> Any:
    """The value for one of several data sets; a config binds `name` to its macro DATA.

    Raises:
        InputError: if there is no value for that data set.
    """
    if name not in values:
        offer = nearest(name, values) or f": there are {', '.join(values)}."
        raise InputError(f"DATA (={name!r}) is not among the data sets of this config{offer}")
    return values[name]
