"""What has device-level privacy cost each device so far, for whom?

Round t releases sum_i B_i w_i clip(update_i, C) + N(0, sigma^2 S^2), B_i ~ Bernoulli(q_it) by
independent coins. Device i's step in it has rate q_it and effective noise sigma S / (w_i C):
devices that take part often, and heavily, pay more. The system's epsilon is the largest of any
device (Boenisch et al., NeurIPS 2023, https://arxiv.org/abs/2303.17046, lemma 3.2).

Three observers. Who sees the released models alone gains nothing from not knowing who took part, so
that the coins count. Who also sees who took part (but no single update) faces unsampled sums:
mu_i^2 = sum over i's participations of (w_i C / (sigma S))^2, in closed form. The server sees raw
updates: infinite.

A round is charged when it is drawn, whatever arrives, and nothing is ever refunded. A draw without
a proof of amplification (a fixed size) counts as an unsampled sum for every device that could have
come. Without a mechanism, or with a policy that read private signals, everything is infinite.
"""

from typing import Any, Literal

import numpy as np

from fedsim.errors import require
from fedsim.privacy.closed_form import gaussian_epsilon
from fedsim.privacy.device_sum import DeviceSum
from fedsim.privacy.groups import Groups
from fedsim.privacy.histories import Histories
from fedsim.privacy.step_loss import Relation

Adjacency = Literal["zero-out", "add-remove"]

ASSUMPTIONS = {
    "zero-out": (
        "zero-out: neighbours differ in what one device's data say, not in how much there is; "
        "activity and membership are treated as public"
    ),
    "add-remove": (
        "add/remove: the claim is at the public cap and weight bound; scale, cap, weight bound and "
        "denominator are constants of the configuration, and single devices' epsilons are private"
    ),
}


class DeviceLedger:
    """Every device's account of a run under device-level privacy.

    Args:
      devices: how many the run has; one that arrives later has rate 0 until then.
      delta: of every epsilon it reports, in (0, 1).
      adjacency: "zero-out" (mode A), or "add-remove" (mode B: the claim is at `cap`).
      cap: public bound on every rate, under "add-remove".
      budget: epsilon that each device may have spent at most, (devices,) or one for all.

    Example:
      >>> from fedsim.privacy.events import Gaussian
      >>> ledger = DeviceLedger(3, delta=1e-4)
      >>> rates = np.array([0.02, 0.05, 0.2])
      >>> planned = DeviceSum(event=Gaussian(noise_multiplier=1.0), rates=rates)
      >>> for _ in range(100):
      ...     ledger.charge(planned, cohort=np.array([1]))
      >>> {name: round(value, 1) for name, value in ledger.figures().items()}
      {'epsilon_max': 12.7, 'epsilon_median': 2.9, 'epsilon_participation_max': 86.3,
       'epsilon_server_max': inf}
    """

    def __init__(
        self,
        devices: int,
        delta: float,
        adjacency: Adjacency = "zero-out",
        cap: float | None = None,
        budget: np.ndarray | float = np.inf,
    ) -> None:
        require(devices >= 1, f"devices is {devices}; a ledger needs 1 or more")
        require(0 < delta < 1, f"delta is {delta}; choose a probability between 0 and 1")
        require(
            adjacency in ASSUMPTIONS, f"adjacency is {adjacency!r}; choose zero-out or add-remove"
        )
        require(
            (cap is not None) == (adjacency == "add-remove"),
            f"cap is {cap} under {adjacency}; add-remove needs a public cap, zero-out takes none",
        )
        self.devices, self.delta, self.adjacency, self.cap = devices, delta, adjacency, cap
        self.budget = np.broadcast_to(np.asarray(budget, np.float64), (devices,))
        self._histories = Histories(devices)
        self._claim = Histories(1)
        self._squares = np.zeros(devices)
        self._broken = False
        self._reported: dict[str, float] = {}

    @property
    def assumption(self) -> str:
        """What the figures hold under; to be printed beside them."""
        return ASSUMPTIONS[self.adjacency]

    def charge(self, planned: DeviceSum, cohort: np.ndarray) -> None:
        """Charge a round, once its cohort is drawn.

        Args:
          planned: what the mechanism does with it.
          cohort: (drawn,) devices asked, whether or not they reply.

        Raises:
          ConfigError: under add-remove, a rate above the public cap; or a device that this would
            take above its budget.
        """
        over = (planned.rates > 0) & ~self.affordable(planned)
        require(
            not over.any(),
            f"a round would take {int(over.sum())} devices above their budgets; plan it with rates "
            "of 0 for those that `affordable` says cannot pay for it",
        )
        if planned.noise == 0:
            self._broken = True
            return
        self._histories.add(*planned.steps())
        self._squares[cohort] += (_of(planned.weights, cohort) / planned.noise) ** 2
        if self.cap is not None:
            ceiling = DeviceSum(
                event=planned.event, rates=np.array([self.cap]), independent=planned.independent
            )
            self._claim.add(*ceiling.steps())

    def figures(self) -> dict[str, float]:
        """The columns of a round's line, by the names they have there.

        `epsilon_max` and `epsilon_participation_max` are claims for the whole system, and
        `epsilon_median` the upper median over all devices (under add-remove a private figure).
        Where very many histories cost nearly the same, they are bounds; nobody's is above the
        largest budget, which no charge has exceeded.
        """
        infinite = float("inf")
        ceiling = float(self.budget.max())
        highest = median = taken = infinite
        if not self._broken:
            groups, _ = self._histories.groups()
            bounds = groups.bounds(self.delta)
            everyone = np.arange(len(bounds))
            median = min(groups.ranked(bounds, self.delta, self.devices // 2 + 1).epsilon, ceiling)
            if self.cap is None:
                highest = min(groups.worst(bounds, self.delta, everyone).epsilon, ceiling)
                taken = gaussian_epsilon(float(self._squares.max()) ** 0.5, self.delta)
            else:
                # Who is not among the devices is seen not to take part: `taken` stays infinite.
                highest = self._claim.groups()[0].epsilon(0, self.delta)
        found = {
            "epsilon_max": highest,
            "epsilon_median": median,
            "epsilon_participation_max": taken,
            "epsilon_server_max": infinite,
        }
        for name, value in found.items():
            # Upper bounds from grids of different spacing may differ by some 0.01 % the wrong way.
            self._reported[name] = max(value, self._reported.get(name, 0.0))
        return dict(self._reported)

    def bounds(self) -> np.ndarray:
        """Renyi upper bound on every device's epsilon before an observer of the models, (devices,).

        Labelled bounds, cheap for all devices at once; `epsilons` computes exact values for few.
        """
        if self._broken:
            return np.full(self.devices, np.inf)
        groups, group = self._histories.groups()
        return groups.bounds(self.delta)[group]

    def epsilons(
        self, devices: np.ndarray, delta: float | None = None, relation: Relation = "zero-out"
    ) -> np.ndarray:
        """Exact epsilons of some devices before an observer of the models.

        Args:
          devices: (n,) ids, such as an audit's panel.
          delta: instead of the ledger's own.
          relation: "replace-one" for an audit whose coins decide on single examples.

        Returns:
          (n,) epsilons.
        """
        if self._broken:
            return np.full(len(devices), np.inf)
        groups, group = self._histories.groups()
        at = self.delta if delta is None else delta
        return np.array([groups.epsilon(g, at, relation) for g in group[devices].tolist()])

    def highest(self, devices: np.ndarray, delta: float, relation: Relation = "zero-out") -> float:
        """The largest of `epsilons`, without pricing all of them; 0 of no devices."""
        if self._broken:
            return float("inf")
        groups, group = self._histories.groups()
        among = np.unique(group[devices])
        if len(among) == 0:
            return 0.0
        return groups.worst(groups.bounds(delta, relation), delta, among, relation).epsilon

    def worst(self) -> int:
        """A device whose epsilon before an observer of the models nobody's exceeds."""
        if self._broken:
            return 0
        groups, group = self._histories.groups()
        bounds = groups.bounds(self.delta)
        found = groups.worst(bounds, self.delta, np.arange(len(bounds)))
        return int(np.flatnonzero(group == found.group)[0])

    def participation_epsilons(self, devices: np.ndarray) -> np.ndarray:
        """Exact epsilons of some devices before who also sees who took part, shape (n,)."""
        if self._broken or self.cap is not None:
            return np.full(len(devices), np.inf)
        squares = self._squares[devices].tolist()
        return np.array([gaussian_epsilon(mu**0.5, self.delta) for mu in squares])

    def affordable(self, planned: DeviceSum) -> np.ndarray:
        """Which devices can be charged a further round without exceeding their budget.

        It reads scheduled rates and nothing else, so that the others sit it out gives nothing away:
        who does when is the same for both of two neighbours that agree on activity, such a run is
        one with other rates that were known before it, and these are what is charged. A device is
        at rate 0 in every round that it cannot afford, and at that rate nothing is charged, so by
        induction over rounds nobody exceeds a budget.

        Args:
          planned: the round as it would be planned with everybody in it.

        Returns:
          (devices,) bool.
        """
        self._check(planned)
        unlimited = np.isposinf(self.budget)
        if unlimited.all() or self._broken or planned.noise == 0:
            return unlimited
        after = self._histories.copy()
        after.add(*planned.steps())
        groups, group = after.groups()
        fits = groups.bounds(self.delta)[group] <= self.budget
        # The bound may be far too large: who fails it is priced exactly.
        unsure = np.unique(group[~fits])
        exact = np.full(len(groups.members), np.inf)
        exact[unsure] = [groups.epsilon(g, self.delta) for g in unsure.tolist()]
        return fits | (exact[group] <= self.budget)

    def groups(self) -> tuple[Groups, np.ndarray]:
        """The distinct histories, and (devices,) which of them is each device's."""
        return self._histories.groups()

    def state_dict(self) -> dict[str, Any]:
        """Charges so far: numbers, arrays, lists and dicts."""
        return {
            "histories": self._histories.state_dict(),
            "claim": self._claim.state_dict(),
            "squares": self._squares.copy(),
            "broken": self._broken,
            "reported": dict(self._reported),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved charges."""
        self._histories.load_state_dict(state["histories"])
        self._claim.load_state_dict(state["claim"])
        self._squares = state["squares"].copy()
        self._broken = state["broken"]
        self._reported = dict(state["reported"])

    def _check(self, planned: DeviceSum) -> None:
        require(
            len(planned.rates) == self.devices,
            f"a round has rates of {len(planned.rates)} devices, but the ledger has "
            f"{self.devices}; give every device a rate, 0 where it has not arrived",
        )
        highest = float(planned.rates.max())
        require(
            self.cap is None or highest <= self.cap,
            f"a rate is {highest:g}, above the public cap of {self.cap}; lower it or raise the cap",
        )


def _of(weights: np.ndarray | None, cohort: np.ndarray) -> np.ndarray:
    return np.ones(len(cohort)) if weights is None else weights[cohort]
