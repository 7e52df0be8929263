"""Other engines beside torch: the same flow in plain JAX, compiled by XLA, and exported to ONNX Runtime.

Both take the weights of a `FlowPrior` of recipe `glf`, and so compute what it computes.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowprior import FlowPrior
from flowprior.evaluation.costs import Contestant, Size

LR, BETAS, EPS = 1e-5, (0.9, 0.999), 1e-8


def glf(size: Size) -> FlowPrior:
    """The flow, without the whitening that the others lack."""
    shape: dict[str, Any] = {"transforms": size.depth, "hidden_features": (size.width, size.width)}
    return FlowPrior(size.features, standardize=None, **shape)


class JaxFlow:
    """`glf` in plain JAX: each coupling is three pairs (weights, biases); orders are the permutations."""

    def __init__(self, prior: FlowPrior) -> None:
        import jax.numpy as jnp

        flat = [jnp.asarray(p.detach().numpy()) for p in prior.bijector.parameters()]
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        self.parameters = [pairs[first : first + 3] for first in range(0, len(pairs), 3)]
        orders = [b.numpy() for name, b in prior.bijector.named_buffers() if name.endswith("permutation")]
        self.orders = [(order, np.argsort(order)) for order in orders]  # after every second coupling
        self.features = prior.event_shape.numel()
        self.half = (self.features + 1) // 2

    def coupling(self, index: int, layers: Any, z: Any, inverse: bool) -> tuple[Any, Any]:
        import jax
        import jax.numpy as jnp

        first, second = z[:, : self.half], z[:, self.half :]
        kept, changed = (first, second) if index % 2 == 0 else (second, first)
        h = kept
        for weights, biases in layers[:-1]:
            h = jax.nn.relu(h @ weights.T + biases)
        weights, biases = layers[-1]
        shift, s = jnp.split(h @ weights.T + biases, 2, axis=1)
        log_scale = 2 * jnp.tanh(s / 2)
        changed = (changed - shift) * jnp.exp(-log_scale) if inverse else changed * jnp.exp(log_scale) + shift
        parts = (kept, changed) if index % 2 == 0 else (changed, kept)
        return jnp.concatenate(parts, axis=1), log_scale.sum(1)

    def log_prob(self, parameters: Any, z: Any) -> Any:
        total = 0.0
        for index, layers in enumerate(parameters):
            z, logabsdet = self.coupling(index, layers, z, inverse=False)
            total = total + logabsdet
            if index % 2 == 1:
                z = z[:, self.orders[index // 2][0]]
        return total - 0.5 * (z**2).sum(1) - 0.5 * self.features * np.log(2 * np.pi)

    def from_base(self, parameters: Any, z: Any) -> Any:
        for index, layers in reversed(list(enumerate(parameters))):
            if index % 2 == 1:
                z = z[:, self.orders[index // 2][1]]
            z, _ = self.coupling(index, layers, z, inverse=True)
        return z

    def step(self, parameters: Any, moments: Any, count: Any, z: Any) -> tuple[Any, Any, Any]:
        """A step of Adam: parameters, their two moments and the number of steps afterwards."""
        import jax
        import jax.numpy as jnp

        gradients = jax.grad(lambda own: -self.log_prob(own, z).mean())(parameters)
        count = count + 1
        first = jax.tree.map(lambda m, g: BETAS[0] * m + (1 - BETAS[0]) * g, moments[0], gradients)
        second = jax.tree.map(lambda m, g: BETAS[1] * m + (1 - BETAS[1]) * g * g, moments[1], gradients)

        def stepped(p: Any, m: Any, v: Any) -> Any:
            scale = jnp.sqrt(v / (1 - BETAS[1] ** count)) + EPS
            return p - LR * m / (1 - BETAS[0] ** count) / scale

        return jax.tree.map(stepped, parameters, first, second), (first, second), count


def jax_jit(size: Size, device: str) -> Contestant:
    """All operations by jax.jit, the whole step with Adam in one program; on JAX's own default device."""
    import jax
    import jax.numpy as jnp

    flow = JaxFlow(glf(size))
    z = jnp.asarray(torch.randn(size.batch, size.features).numpy())
    log_prob, step = jax.jit(flow.log_prob), jax.jit(flow.step, donate_argnums=(0, 1, 2))
    draw = jax.jit(lambda own, key: flow.from_base(own, jax.random.normal(key, (size.batch, size.features))))
    zeros = jax.tree.map(jnp.zeros_like, flow.parameters)
    copies = jax.tree.map(jnp.copy, (flow.parameters, (zeros, zeros)))  # donated, so they are its own
    state = [*copies, jnp.zeros(())]
    keys = [jax.random.key(0)]

    def sample() -> None:
        keys[0], key = jax.random.split(keys[0])
        draw(flow.parameters, key).block_until_ready()

    def one_step() -> None:
        state[:] = jax.block_until_ready(step(*state, z))

    calls = {"log_prob": lambda: log_prob(flow.parameters, z).block_until_ready()}
    return Contestant("JAX", {**calls, "sample": sample, "step": one_step})


def onnx_runtime(size: Size, device: str) -> Contestant:
    """`prior.export`'s programs, on as many threads as torch; it cannot train."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.add_session_config_entry("session.force_spinning_stop", "1")  # not in the turns of others
    provider = "CUDAExecutionProvider" if device.startswith("cuda") else "CPUExecutionProvider"
    with tempfile.TemporaryDirectory() as folder:
        files = glf(size).export(Path(folder) / "flow.onnx")
        density, draw = (
            onnxruntime.InferenceSession(str(files[name]), settings, providers=[provider])
            for name in ("log_prob", "from_base")
        )
    z = torch.randn(size.batch, size.features).numpy()

    def sample() -> None:
        draw.run(None, {"z0": torch.randn(size.batch, size.features).numpy()})

    return Contestant("ONNX Runtime", {"log_prob": lambda: density.run(None, {"z": z}), "sample": sample})


ENGINES: dict[str, Callable[[Size, str], Contestant]] = {"JAX": jax_jit, "ONNX Runtime": onnx_runtime}
