"""The grammar and the checks of configs, on a small table of things to build."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import gin
import pytest

from flowprior.errors import InputError
from flowprior.experiments import config
from flowprior.experiments.bindings import check
from flowprior.experiments.builders import by_size
from flowprior.experiments.building import Builder


class Net:
    def __init__(
        self,
        width: int,
        hidden: tuple[int, ...] | None = None,
        kind: Literal["a", "b"] = "a",
        rates: Sequence[float] = (0.1,),
    ) -> None:
        self.width, self.hidden, self.kind, self.rates = width, hidden, kind, rates


def stage(n: int = 1) -> int:
    if n < 0:
        raise InputError(f"`n` (={n}) must not be negative.")
    return n


def top(
    net: Net, stages: Sequence[Any] = (), epochs: int = 3, options: dict[str, float] | None = None
) -> Any:
    return {"net": net, "stages": [make() for make in stages], "epochs": epochs, "options": options}


TABLE = {"Net": Net, "stage": stage, "top": top, "by_size": by_size}
TEXT = """# A small config.
include 'part.gin'
SIZE = 'cpu'
by_size.size = %SIZE
top.net = @Net()
top.stages = [@warm/stage, @stage]
warm/stage.n = 7
top.epochs = @epochs/by_size()
epochs/by_size:
  cpu = 5
  paper = 500
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "small.gin").write_text(TEXT)
    (tmp_path / "part.gin").write_text("Net.width = %WIDTH\nWIDTH = 3\n")
    return tmp_path / "small.gin"


def build(path: Path, *extra: str) -> tuple[Any, str]:
    bindings = config.read(path) + config.spoken(extra)
    check(bindings, TABLE)
    builder = Builder(bindings, TABLE)
    return builder.call("top"), builder.text()


def test_builds_with_scopes_macros_includes_and_sizes(small: Path) -> None:
    built, _ = build(small)
    assert (built["net"].width, built["stages"], built["epochs"]) == (3, [7, 1], 5)
    built, text = build(small, "SIZE = 'paper'", "WIDTH = 9")
    assert (built["net"].width, built["epochs"]) == (9, 500)
    assert "SIZE = 'paper'" in text


def test_operative_config_is_self_contained_and_a_fixed_point(small: Path, tmp_path: Path) -> None:
    built, text = build(small, "Net.hidden = (8, 8)")
    again = tmp_path / "elsewhere" / "config.gin"
    again.parent.mkdir()
    again.write_text(text)
    rebuilt, twice = build(again)
    assert twice == text
    assert vars(rebuilt["net"]) == vars(built["net"])
    assert rebuilt["epochs"] == built["epochs"]


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("Nett.width = 3", ["`Nett`", "did you mean `Net`"]),
        ("Net.widht = 3", ["`Net` has no parameter `widht`", "did you mean `width`"]),
        ("Net.color = 3", ["`color`", "there are hidden, kind, rates, width"]),
        ("Net.width = 'wide'", ["`Net.width` (='wide') must be int"]),
        ("Net.width = True", ["`Net.width` (=True) must be int"]),
        ("Net.kind = 'c'", ["(='c')", "'a' or 'b'"]),
        ("Net.hidden = (8, '8')", ["a tuple of int or None"]),
        ("Net.rates = [0.1, 'x']", ["`Net.rates`"]),
        ("Net.rates = 'ab'", ["`Net.rates`"]),
        ("top.options = {'a': 'b'}", ["`top.options`"]),
        ("WIDTH = 2.5", ["`Net.width` (=2.5) must be int"]),
        ("epochs/by_size.cpu = 'x'", ["`top.epochs` (='x') must be int"]),
        ("WIDHT = 3", ["nothing reads the macro `WIDHT`", "did you mean `WIDTH`"]),
        ("Net.width = %WIDHT", ["`%WIDHT` is used but never set", "did you mean `WIDTH`"]),
        ("top.net = @Nett()", ["`Nett` is unknown", "did you mean `Net`"]),
        ("top.net = @os.getenv()", ["`os.getenv` is unknown"]),
        ("SIZE = 'papr'", ["SIZE", "'papr'", "'cpu'"]),
        ("WIDTH = %WIDTH", ["by way of itself"]),
        ("Net.width", ["not a gin binding"]),
        ("Net.kind = b", ["not a gin binding", "text in quotes"]),
        ("Net.width = (", ["not a gin binding"]),
        ("Net.rates = (1e999,)", ["must be finite"]),
        ("Net.width = 1\nimport os", ["`import os` is refused"]),
        ("Net.width = %gin.REQUIRED", ["`%gin.REQUIRED`"]),
        ("top.net = @gin.macro()", ["`gin.macro` is unknown"]),
        ("include 'part.gin'", ["--gin_file"]),
        ("import os", ["`import os` is refused"]),
        ("from __gin__ import dynamic_registration", ["dynamic_registration` is refused"]),
        ("stage.n = -1", ["`n` (=-1) must not be negative"]),
    ],
)
def test_bad_bindings_get_one_sentence_with_the_nearest_name(
    small: Path, binding: str, words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        build(small, binding)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_good_values_pass(small: Path) -> None:
    built, _ = build(
        small, "Net.rates = [1, 0.5]", "Net.hidden = None", "top.options = {'a': 1}", "Net.kind = 'b'"
    )
    assert list(built["net"].rates) == [1, 0.5]
    assert built["options"] == {"a": 1}


def test_imports_and_foreign_includes_are_refused_in_included_files_too(small: Path, tmp_path: Path) -> None:
    part = small.parent / "part.gin"
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    part.write_text("import evil\nNet.width = 3\n")
    with pytest.raises(InputError, match=r"part\.gin, line 1: `import evil` is refused"):
        build(small)
    assert not marker.exists()
    part.write_text("include '/etc/passwd'\n")
    with pytest.raises(InputError, match="cannot include '/etc/passwd'"):
        build(small)
    part.write_text("include '../outside.gin'\n")
    (tmp_path.parent / "outside.gin").write_text("Net.width = 1\n")
    with pytest.raises(InputError, match="cannot include"):
        build(small)
    part.write_text("include 'small.gin'\n")
    with pytest.raises(InputError, match="circle"):
        build(small)


def test_a_missing_argument_names_the_binding_that_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "x.gin"
    path.write_text("top.net = @Net()\n")
    with pytest.raises(InputError, match=r"`Net` needs `width`: add a line `Net.width = "):
        build(path)


def test_gin_of_the_calling_program_is_untouched(small: Path) -> None:
    @gin.configurable(module="mine")
    def by_size(size: int = 1) -> int:
        return size

    try:
        gin.bind_parameter("by_size.size", 5)
        before = gin.config_str(), gin.operative_config_str()
        plain = build(small)[1]
        with gin.config_scope("outer"):
            assert build(small)[1] == plain
        assert (gin.config_str(), gin.operative_config_str()) == before
        assert by_size() == 5
        with pytest.raises(InputError):
            build(small, "stage.n = -1")
        with pytest.raises(ValueError, match="No configurable matching"):
            gin.bind_parameter("Net.width", 1)
    finally:
        gin.clear_config()


def leaf(n: int = 0, m: int = 0, unspelled: Any = print) -> tuple[int, int]:
    return n, m


def pair(first: Any, second: Any, *, third: Any = None) -> Any:
    return first() if callable(first) else first, second() if callable(second) else second, third


SCOPES = [
    ("pair.first = @leaf()\npair.second = @leaf\nleaf.n = 1", ((1, 0), (1, 0))),
    (
        "pair.first = @a/b/leaf()\npair.second = @a/leaf\nleaf.n = 1\na/leaf.n = 2\na/b/leaf.m = 3",
        ((2, 3), (2, 0)),
    ),
    (
        "pair.first = @leaf()\npair.second = @b/leaf()\na/leaf.n = 2\nb/leaf.n = 3\na/b/leaf.m = 4",
        ((2, 0), (3, 0)),
    ),
    (
        "pair.first = %M\npair.second = %s/N\nM = @leaf()\nM/leaf.n = 5\n"
        "s/N = (@leaf(), %K)\nK = 7\ns/leaf.m = 6",
        ((5, 0), ((0, 6), 7)),
    ),
    ("pair.first = 1\npair.second = 2\npair.first = 3\na/pair.second = 4", (3, 4)),
]


@pytest.fixture(scope="module")
def twins() -> None:
    for function in (leaf, pair):
        gin.external_configurable(function, module="twin")


@pytest.mark.parametrize(("text", "expected"), SCOPES)
def test_scopes_macros_and_references_mean_what_they_mean_in_gin(
    text: str, expected: Any, twins: None
) -> None:
    bindings = config.spoken([text])
    table = {"leaf": leaf, "pair": pair}
    check(bindings, table)
    builder = Builder(bindings, table)
    with builder.within(("a",)):
        built = builder.call("pair")
    assert built == (*expected, None)
    try:
        gin.parse_config(text)
        with gin.config_scope("a"):
            assert gin.get_configurable("pair")() == built
        twin = {
            item.key: item.value for item in config.spoken([gin.operative_config_str().replace("twin.", "")])
        }
        assert twin == builder.settings
    finally:
        gin.clear_config()
