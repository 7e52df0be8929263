"""The shipped configs: where they are, in a checkout and in an installed wheel, and what their names mean."""

from pathlib import Path

from flowprior.checks import nearest
from flowprior.errors import InputError, shown


def shipped_folder() -> Path:
    """The folder of the shipped configs: inside an installed package, or `gin/` of a source checkout."""
    package = Path(__file__).parents[1]
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
    """The file of a shipped name such as `glf/digits`, or of a path to a .gin file; else an `InputError`."""
    if not config.isprintable() or len(config) > 1000:
        raise InputError(f"CONFIG (={shown(config)}) is no name: give one from `flowprior list`, or a path.")
    path = Path(config)
    if path.suffix == ".gin" and path.is_file():
        return path
    names = shipped()
    name = config.removesuffix(".gin")
    if name in names:
        return names[name]
    if path.suffix == ".gin" and (len(path.parts) > 2 or path.is_absolute()):
        fix = "give a path to a .gin file or a shipped name."
        raise InputError(f"The config file '{config}' does not exist: {fix}")
    fix = "`flowprior list` shows the shipped ones, and a path to a .gin file works too."
    raise InputError(f"Unknown experiment '{config}'{nearest(name, names) or ':'} {fix}")
