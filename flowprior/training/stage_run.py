"""A stage under way: its data, players, averaged and best weights, and what one step does."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain, repeat
from typing import Any, NoReturn

import torch
from torch import Tensor

from flowprior.data.batches import Batches
from flowprior.errors import InputError, RunError
from flowprior.training.averages import Meter, WeightAverage
from flowprior.training.checkpoint import part
from flowprior.training.compiled import CompiledCall
from flowprior.training.engine import copy_from_first_process, is_sharded, own_random_state
from flowprior.training.finite import find_fault
from flowprior.training.players import Player, build_players
from flowprior.training.shards import Shards, whole
from flowprior.training.stages import Stage


class StageRun:
    """A stage, prepared on this process: its data is fetched here.

    `meter` is where the steps note their terms; `seed` is the run's. Only a stage that is `fresh`, not
    resumed, has `stage.initialize` called. Steps may be `compiled`; validation is eager in any case.
    """

    def __init__(
        self, stage: Stage, fabric: Any, seed: int, meter: Meter, fresh: bool, compiled: bool = False
    ) -> None:
        self.stage, self.objective, self.meter = stage, stage.objective, meter
        self.fabric, self.seed = fabric, seed
        self.precision = fabric.strategy.precision
        self.scaled = self.precision.precision == "16-mixed"  # then overflowing gradients are expected
        if stage.batch_size % fabric.world_size:
            given = f"`batch_size` (={stage.batch_size}) of stage {stage.name!r}"
            raise InputError(
                f"{given} must be a multiple of the {fabric.world_size} processes that share it."
            )
        training, held = stage.split(seed)
        share = stage.batch_size // fabric.world_size
        batches = partial(Batches, seed=seed, device=fabric.device)
        self.batches = batches(training, share, rank=fabric.global_rank, world_size=fabric.world_size)
        self.validation = None if held is None else batches(held, stage.batch_size, drop_last=False)
        self.modes = {module: module.training for module in self.objective.modules()}
        self.wanted_gradients = {p: p.requires_grad for p in self.objective.parameters()}
        if fresh and stage.initialize is not None:
            stage.initialize(self.batches.tensors)
        self.forward = CompiledCall(self.objective, fabric.device) if compiled else nullcontext()
        self.shards = Shards(self.objective, active=is_sharded(fabric))
        self.players = build_players(stage, fabric, fused=not self.scaled)
        skips = all(player.skips for player in self.players)
        self.eager = reading_is_free(fabric.device) or not skips  # then each is looked at first
        trained = {id(parameter) for player in self.players for parameter in player.parameters}
        self.parameters = {n: p for n, p in self.objective.named_parameters() if id(p) in trained}
        self.average = WeightAverage(self.parameters, stage.ema)
        self.best: dict[str, Tensor] = {}
        self.steps_per_epoch = len(self.batches)
        self.steps = stage.epochs * self.steps_per_epoch
        self._one = torch.ones((), device=fabric.device)
        self._bad = torch.zeros_like(self._one)  # 1 from the first number on that is not finite
        self._bad_steps = torch.zeros_like(self._one)
        if not self.eager and not self.scaled:
            for player in self.players:  # fused Adam reads it on the device and then leaves the weights alone
                player.optimizer.optimizer.found_inf = self._bad

    def train_mode(self) -> None:
        """Training mode, but evaluation mode for modules all of whose parameters are frozen."""
        self.objective.train()
        for module in self.objective.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()

    def begin_epoch(self, epoch: int) -> None:
        """What the stage wants done before its epoch `epoch`, of which no step has been taken."""
        if epoch not in self.stage.at_epoch:
            return
        if self.shards.active:
            raise InputError(
                f"Stage {self.stage.name!r} gives its prior a start after {epoch} epochs, which weights in "
                "shards do not allow: take the strategy 'ddp'."
            )
        before = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        with own_random_state(self.fabric.device, self.seed):
            self.stage.at_epoch[epoch](self.batches.tensors)
        copy_from_first_process([*self.objective.parameters(), *self.objective.buffers()], self.fabric)
        changed = [name for name, value in before.items() if not value.equal(self.parameters[name])]
        self.average.restart(changed)
        for player in self.players:
            for name in changed:
                player.optimizer.optimizer.state.pop(self.parameters[name], None)

    def step(self, batch: Mapping[str, Tensor], step: int, stage_step: int) -> None:
        """The steps of every player, in order."""
        for player in chain.from_iterable(repeat(p, self.stage.steps.get(p.name, 1)) for p in self.players):
            with player.learning():
                self._take_gradients(player, batch, step)
            if self.stage.clip is not None:
                options = {"max_norm": self.stage.clip, "error_if_nonfinite": False}
                norm = self.fabric.clip_gradients(player.objective, player.optimizer, **options)
                self.meter.pending[player.term("gradient_norm")].append(whole(norm))
            player.set_rates(stage_step, self.steps, self.steps_per_epoch)
            player.optimizer.step()
        self.average.update(stage_step)

    def _take_gradients(self, player: Player, batch: Mapping[str, Tensor], step: int) -> None:
        """The player's terms and gradients, looked at where that costs nothing."""
        random = torch.get_rng_state() if self.eager else None
        with self.forward:
            terms = player.losses(batch, step)
        player.optimizer.zero_grad()
        self.fabric.backward(terms["loss"])
        if not self.scaled:
            gradients: list[Any] = [p.grad for p in player.parameters if p.grad is not None]
            held = [gradient.to_local() for gradient in gradients] if self.shards.active else gradients
            numbers = [*held, terms["loss"].detach()]
            torch._amp_foreach_non_finite_check_and_unscale_(numbers, self._bad, self._one)
            if self.fabric.world_size > 1:  # so that all processes stop together
                self._bad.copy_(self.fabric.all_reduce(self._bad, reduce_op="max"))
            if not self.eager:
                self._bad_steps += self._bad
            elif self._bad.item():
                self._stop(player, batch, step, random)
        for name, value in terms.items():
            self.meter.pending[player.term(name)].append(value.detach())

    def check(self, step: int, epoch: int, batch: int) -> None:
        """On a GPU, after the fact: a RunError if a loss or gradient since the last look was not finite.

        `step`, `epoch` and `batch` are the position after the last step.
        """
        if self.eager or not self.meter.pending:
            return
        for player in self.players:
            losses = torch.stack(self.meter.pending[player.term("loss")])
            bad = (~losses.isfinite()).nonzero()
            takes = {each.name: self.stage.steps.get(each.name, 1) for each in self.players}
            since = len(losses) - int(bad[0]) if len(bad) else 0
            ago = max(-(-since // takes[player.name]), -(-int(self._bad_steps.item()) // sum(takes.values())))
            if ago:
                repeated = next(iter(self.batches.epoch(epoch, start=batch - ago)))
                self._stop(player, repeated, step - ago, None)

    def check_weights(self, step: int) -> None:
        """Before a checkpoint: a RunError on weights that are not finite: they must not replace good ones."""
        for name, parameter in self.parameters.items():
            if not whole(parameter).isfinite().all():
                self._refuse(step, f"the parameter {name!r} is not finite")

    def _stop(self, player: Player, batch: Mapping[str, Tensor], step: int, random: Tensor | None) -> None:
        if random is not None:
            torch.set_rng_state(random)
        batch = self.precision.convert_input(batch)
        with player.learning():
            fault = find_fault(self.objective, player.name, batch, step, self.fabric.autocast)
        self._refuse(step, f"not finite: {fault}")

    def _refuse(self, step: int, what: str) -> NoReturn:
        raise RunError(
            f"Step {step} of stage {self.stage.name!r}: {what}. The last good checkpoint stays: repair the "
            "data, lower the learning rate, or set `clip`."
        )

    @contextmanager
    def as_delivered(self) -> Iterator[None]:
        """Inside: averaged weights, evaluation mode, no gradients, a random state from the seed."""
        copy_from_first_process(self.objective.buffers(), self.fabric)
        with own_random_state(self.fabric.device, self.seed), torch.no_grad(), self.average.swapped_in():
            self.objective.eval()
            yield

    def validate(self, step: int) -> dict[str, float]:
        """Mean terms over the validation data (in every process all of it): {"valid/loss": ...}."""
        if self.validation is None:
            return {}
        sums: dict[str, Tensor] = {}
        for batch in self.validation.epoch(0):
            size = len(next(iter(batch.values())))
            for player in self.players:
                for name, value in player.losses(batch, step).items():
                    term = player.term(name, "valid")
                    sums[term] = sums.get(term, 0.0) + value.double() * size
        means = torch.stack(list(sums.values())) / self.validation.size
        return dict(zip(sums, means.tolist(), strict=True))

    def keep_best(self) -> None:
        """Remember the weights as they are now: within `as_delivered`, the averaged ones."""
        with self.shards.whole():
            self.best = {name: value.detach().clone() for name, value in self.objective.state_dict().items()}

    def deliver(self) -> None:
        """Give the modules the weights of the stage: the best, else the averaged, else the last ones."""
        self.average.adopt()
        self.shards.end()
        if self.best:
            self.objective.load_state_dict(self.best)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Afterwards, however it ends, modules and parameters have the modes they had before the stage."""
        try:
            yield
        finally:
            for module, training in self.modes.items():
                module.training = training
            for parameter, wanted in self.wanted_gradients.items():
                parameter.requires_grad_(wanted)
                parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """All tensors of the stage beside its objective's."""
        tensors = {f"ema.{name}": value for name, value in self.average.state().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for player in self.players:
            tensors |= {f"optimizer.{player.name}.{name}": value for name, value in player.state().items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave; an InputError if it is not of such a stage."""
        try:
            self.average.load_state(part(tensors, "ema."))
            self.best = {name: value.to(self.fabric.device) for name, value in part(tensors, "best.").items()}
            for player in self.players:
                player.load_state(part(tensors, f"optimizer.{player.name}."))
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            unfit = f"The checkpoint does not fit stage {self.stage.name!r} ({type(error).__name__}: {error})"
            raise InputError(f"{unfit}: resume with the settings of the run.") from error


def reading_is_free(device: torch.device) -> bool:
    """Whether a number can be read without waiting for the device to catch up."""
    return device.type == "cpu"
