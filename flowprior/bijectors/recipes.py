"""The seeds' flows as parameter sets; `build_bijector` makes the flow that one describes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from flowprior.checks import check_count, check_number, nearest
from flowprior.errors import InputError

MOST_TRANSFORMS, MOST_WIDE = 10_000, 2**20  # coupling layers; units of a hidden layer
ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "silu": nn.SiLU, "tanh": nn.Tanh}


def check_choice(name: str, value: Any, options: Sequence[str]) -> None:
    """Refuse a `value` that is none of `options`, with all and the nearest of them (InputError)."""
    if value not in options:
        hint = nearest(str(value), options) or f": choose, for instance, `{options[0]}`."
        raise InputError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, options))}{hint}")


def as_widths(value: Any) -> tuple[int, ...]:
    """`hidden_features` as a tuple, once it is known to hold positive ints."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        expected = "a tuple of positive ints, one a hidden layer, such as (64, 64)"
        raise InputError(f"`hidden_features` (={value!r}) must be {expected}.")
    return tuple(check_count("hidden_features", width, most=MOST_WIDE) for width in value)


@dataclass(frozen=True)
class Recipe:
    """What a flow is built of. Change one with `dataclasses.replace(RECIPES["glf"], ...)`.

    Attributes:
        coupling: "affine" (z_b exp(log_scale) + shift), "spline" (rational-quadratic, nflows only),
            "spatial": affine on maps (C, h, w), with `convolutions` for networks; masks, permutations and
            actnorms are then those of whole channels; "transformer" (autoregressive over tokens, see
            `Transformer`) or "jet" (affine on tokens, with transformers for networks, see `Jet`). Of the
            fields from `scale` to `last_layer_gain` these two read `permutation_seed` (jet) alone.
        scale: log_scale = s ("exp") or log sigmoid(s + 2) ("sigmoid"; it can only shrink on the way to z0).
        shift_first: scale (z_b + t) instead of scale z_b + t.
        mask: the features that a coupling passes on: "halves" (first or last) or "alternating" (even or
            odd). Successive couplings swap the two parts, so that every feature is changed.
        permute_every, permutation_seed: a fixed random permutation after every that many couplings; 0: none.
        actnorm_every: a learned elementwise affine before every that many, the first included; 0: none.
        actnorm_start: "identity", or "data": `Bijector.initialize` standardizes the activations.
        separate_networks: one network for s and one for t instead of one for both.
        activation: of the hidden layers, a name in `ACTIVATIONS`.
        output_activation: "none", or "tanh" on both s and t.
        initialization: of the layers: "torch" (its default) or "glorot" (uniform, zero biases).
        last_layer_gain: factor on the last layers' first weights and biases; 0 starts as the identity (for
            scale "sigmoid": as a factor sigmoid(2)).
        log_scale_limit: bound c of a smooth clamp s -> c tanh(s / c), which keeps exp(s) finite far from the
            data, of transformers on all outputs; None for the plain s.
        bins, tail_bound: of the spline: bins in [-tail_bound, tail_bound], the identity outside.
        transforms: number of couplings, or of a transformer's blocks, at least 1.
        hidden_features: widths (channels, in spatial couplings) of the conditioners' hidden layers; of
            transformers one width, equal in all, for each layer of attention and perceptron.
        deep_layers: layers of the "transformer" block beside z0, which alone sees the context.
        patch: neighbors that are one token, in maps patch x patch cells.
        head_features: width of an attention head at least; narrower layers have one head.
        sampling_block: tokens that `Transformer.from_base` solves for at a time, by Jacobi iteration.
        bfloat16: whether transformers compute in bfloat16; their outputs, and all behind, stay as they are.

    Raises:
        InputError: if a value is none of these.
    """

    coupling: str = "affine"
    scale: str = "exp"
    shift_first: bool = False
    mask: str = "halves"
    permute_every: int = 0
    permutation_seed: int = 0
    actnorm_every: int = 0
    actnorm_start: str = "identity"
    separate_networks: bool = False
    activation: str = "relu"
    output_activation: str = "none"
    initialization: str = "torch"
    last_layer_gain: float = 1.0
    log_scale_limit: float | None = None
    bins: int = 8
    tail_bound: float = 5.0
    transforms: int = 8
    hidden_features: tuple[int, ...] = (64, 64)
    deep_layers: int = 4
    patch: int = 1
    head_features: int = 64
    sampling_block: int = 1
    bfloat16: bool = False

    def __post_init__(self) -> None:
        check_choice("coupling", self.coupling, ("affine", "spline", "spatial", "transformer", "jet"))
        check_choice("scale", self.scale, ("exp", "sigmoid"))
        check_choice("mask", self.mask, ("halves", "alternating"))
        check_choice("actnorm_start", self.actnorm_start, ("identity", "data"))
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_choice("output_activation", self.output_activation, ("none", "tanh"))
        check_choice("initialization", self.initialization, ("torch", "glorot"))
        for name in ("permute_every", "permutation_seed", "actnorm_every"):
            check_count(name, getattr(self, name), least=0)
        check_count("transforms", self.transforms, most=MOST_TRANSFORMS)
        for name in ("deep_layers", "patch", "head_features", "sampling_block"):
            check_count(name, getattr(self, name), most=MOST_WIDE)
        check_count("bins", self.bins, least=2, most=500)  # each has at least a thousandth of the width
        check_number("tail_bound", self.tail_bound, above=0)
        check_number("last_layer_gain", self.last_layer_gain, least=0)
        if self.log_scale_limit is not None:
            check_number("log_scale_limit", self.log_scale_limit, above=0)
        object.__setattr__(self, "hidden_features", as_widths(self.hidden_features))


_GLF = Recipe(permute_every=2, last_layer_gain=0.1, log_scale_limit=2.0)
RECIPES: dict[str, Recipe] = {
    # Generative Latent Flow, section 3.1 and Fig. 1b: blocks of two couplings and a permutation, exp(s). The
    # paper's s is unbounded and overflows away from the data (measured on moons: a quarter of the densities
    # at radius 5 were NaN); the clamp is that of a public GLF script. log_scale_limit=None is the plain s.
    "glf": _GLF,
    # Morrow & Chiu, A.1. The paper splits z in the same way each time; the halves swap here from one
    # coupling to the next, without which one of them would never be changed.
    "actnorm": Recipe(
        scale="sigmoid", shift_first=True, actnorm_every=2, initialization="glorot", last_layer_gain=0.0
    ),
    # dpVAE, Eq. 3 and 4: alternating binary masks, separate networks. Its public code puts a tanh on both
    # outputs: output_activation="tanh".
    "masked": Recipe(
        mask="alternating",
        separate_networks=True,
        activation="leaky_relu",
        last_layer_gain=0.1,
        log_scale_limit=2.0,
        transforms=6,
    ),
    # For users who need more than affine.
    "spline": Recipe(coupling="spline", permute_every=2, last_layer_gain=0.0, transforms=6),
    # For latents that are maps (C, h, w): the affine couplings of "glf" with convolutions, and the actnorm of
    # each channel that Glow has.
    "spatial": replace(_GLF, coupling="spatial", actnorm_every=2, actnorm_start="data", activation="elu"),
    # For latents of many positions: STARFlow's blocks, small (its own on Stable Diffusion's latents has 3072
    # wide layers, 24 in the deep block and 2 in each of five shallow ones).
    "transformer": Recipe(
        coupling="transformer", transforms=3, hidden_features=(128, 128), log_scale_limit=4.0
    ),
    # The same networks in couplings, which sample in one pass: Kolesnikov et al., Jet (2024).
    "jet": Recipe(coupling="jet", transforms=10, hidden_features=(128, 128)),
}


def as_recipe(recipe: str | Recipe | Mapping[str, Any]) -> Recipe:
    """The recipe that is meant by a name in `RECIPES`, a `Recipe` or a mapping of its fields.

    Raises:
        InputError: if it is none of these.
    """
    if isinstance(recipe, Mapping):
        try:
            return Recipe(**recipe)
        except TypeError:
            sentence = f"`recipe` (={dict(recipe)!r}) must hold fields of Recipe, and nothing else."
            raise InputError(sentence) from None
    if isinstance(recipe, Recipe):
        return recipe
    check_choice("recipe", recipe, tuple(RECIPES))
    return RECIPES[recipe]
