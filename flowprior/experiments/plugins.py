"""Plugins: a user's modules, whose parts, metrics, figures and data sets can be named once imported.

Code comes from the command line (`--plugin`) or from Python alone: a config can say in a comment which
plugins it needs, but it cannot import them.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flowprior.errors import InputError, RunError, reason

PLUGINS = "# plugins:"  # begins a config's comment that names the plugins it needs, with commas between
ROOMS = ("flowprior.data.images", "flowprior.evaluation", "flowprior.figures")
"""What registers names of our own: imported first, so that a plugin that takes one of them is refused."""


def import_plugins(names: Sequence[str]) -> None:
    """Import modules: dotted names, found from the current folder or the environment, or .py files.

    Raises:
        InputError: if one is not found, raises, or registers a name that is taken.
    """
    for room in ROOMS if names else ():
        importlib.import_module(room)
    if names and "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    for name in names:
        with blamed(f"The plugin '{name}' cannot be imported"):
            _import(name)


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Whatever a user's code raises inside, as an `InputError` that begins with `what` and says where."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:  # it may raise anything
        frame = [each for each in traceback.extract_tb(error.__traceback__) if each.filename[0] != "<"][-1]
        where = f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
        raise InputError(f"{what} ({where}: {reason(error)}): correct it.") from error


def _import(name: str) -> None:
    path = Path(name)
    if path.suffix != ".py":
        if _is_missing(name):
            raise InputError(
                f"The plugin '{name}' is not found: give a path to a .py file, or the dotted name of a "
                "module in the current folder or the environment."
            )
        importlib.import_module(name)
        return
    if not path.is_file():
        raise InputError(
            f"The plugin '{name}' does not exist: give a path to a .py file, or a module's name."
        )
    known = sys.modules.get(path.stem)
    if known is not None:
        if Path(known.__file__ or "").resolve() != path.resolve():
            raise InputError(f"The plugin '{name}' has the name of another module: rename the file.")
        return
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"The plugin '{name}' is not a Python module: give a path to a .py file.")
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise


def _is_missing(name: str) -> bool:
    """Whether there is no module `name`; its parent packages are imported on the way."""
    try:
        return importlib.util.find_spec(name) is None
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            return True
        raise
    except ValueError:  # an empty or relative name
        return True


def plugins_of(text: str, config: str) -> tuple[str, ...]:
    """The plugins that the text of a config says it needs; one that is not imported is an `InputError`."""
    needed = [line.removeprefix(PLUGINS).split(",") for line in text.splitlines() if line.startswith(PLUGINS)]
    names = tuple(name.strip() for group in needed for name in group if name.strip())
    for name in names:
        if (Path(name).stem if name.endswith(".py") else name) not in sys.modules:
            raise InputError(f"{config} needs the plugin '{name}': add `--plugin {name}`.")
    return names
