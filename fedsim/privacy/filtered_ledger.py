"""May a device be charged once more, where rates or noise follow what was released before?

Then nobody knows in advance what a device will have been charged, and the epsilon of a history that
came about on the way is no claim: other releases would have led to another history, and a claim is
about all of them at once. A budget fixed before the first round is one (Feldman and Zrnic,
"Individual privacy accounting via a Renyi filter", NeurIPS 2021, https://arxiv.org/abs/2008.11193).
The budget epsilon is turned into a Renyi divergence B at one order alpha, and a device takes part
only while the divergences rho_1, rho_2, ... that it is charged sum to at most B.

Why the released models of all rounds then have a divergence of at most B between two worlds that
differ in what device i holds (zero-out), in either direction:

1. Fix the coins and the randomness of all other devices: they are the same in both worlds and
   independent of what i holds, and a divergence of mixtures is at most the largest of their parts'.
2. Let h be what rounds 1 to t - 1 released. Rates, weights, sigma, clip norm and who sits round t
   out are one function of h and of public things (activity, configuration) in both worlds, so that
   rho_t(h) is too. What the others send is a function of h. Given h, round t in one world is the
   others' sum plus N(0, s^2), and in the other a mixture of such with i's part added with
   probability q_t; s and q_t are functions of h. Its divergence is at most rho_t(h), in both
   directions (`fedsim.privacy.renyi`), also for the average over what i itself may have kept
   from earlier rounds. A draw of fixed size counts as q_t = 1: given the cohort it is a shift or
   nothing. Clip bits are one more coordinate of the same Gaussian (`fedsim.privacy.release`).
3. Let L_t be the ratio of the two densities of round t given h. Under the second world,
   E[L_t^alpha | h] <= e^((alpha - 1) rho_t(h)), so that the product over rounds of
   L_t^alpha e^(-(alpha - 1) rho_t) has an expectation of at most 1. The rho_t sum to at most B
   whatever was released, hence E[(L_1 L_2 ...)^alpha] <= e^((alpha - 1) B), which is the statement;
   the other direction is the same with the worlds exchanged. What rounds 1 to t released is a part
   of all of it, so the budget holds after every round too.

It needs an order and a budget that are fixed before the first release (else B could be chosen by
what was released), rates that read nothing but releases and public things, and sums that never
exceed B. A device that cannot pay sits the round out at rate 0, and pays nothing; it may come again
at a lower rate. Nobody else's rate reacts to that.

Three observers. Who sees the released models: the budget, from the first round on, for every device
alike, however little it was charged. Who also sees who took part: how often a device came follows
rates that follow releases, so that its realised participations are no claim, and no budget stops
them: infinite. The server sees raw updates: infinite. At another delta the same B gives another
epsilon; for one unit replaced by another no divergence was kept within anything: infinite.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsim.errors import require
from fedsim.privacy.claim import FOLLOW
from fedsim.privacy.device_sum import DeviceSum
from fedsim.privacy.groups import unique_pairs
from fedsim.privacy.renyi import ORDERS, divergences, to_divergence
from fedsim.privacy.step_loss import Relation


class FilteredLedger:
    """Every device's account where rates or noise follow releases, under zero-out.

    Args:
      devices: how many the run has.
      delta: of every epsilon it reports, in (0, 1).
      budget: epsilon that no device exceeds, finite, > 0.
      order: alpha, one of `fedsim.privacy.renyi.ORDERS`; fixed before the first round.

    Raises:
      ConfigError: the order is not on offer, or leaves nothing of the budget.

    Example:
      >>> from fedsim.privacy.events import Gaussian
      >>> ledger = FilteredLedger(2, delta=1e-4, budget=4.0, order=5)
      >>> planned = DeviceSum(event=Gaussian(noise_multiplier=1.0), rates=np.array([0.05, 1.0]))
      >>> ledger.affordable(planned).tolist()
      [True, False]
      >>> ledger.charge(DeviceSum(event=planned.event, rates=np.array([0.05, 0.0])), np.array([0]))
      >>> ledger.figures()["epsilon_max"], ledger.spent.round(3).tolist()
      (4.0, [0.008, 0.0])
    """

    def __init__(self, devices: int, delta: float, budget: float, order: float) -> None:
        require(devices >= 1, f"devices is {devices}; a ledger needs 1 or more")
        require(0 < delta < 1, f"delta is {delta}; choose a probability between 0 and 1")
        require(0 < budget < np.inf, f"budget is {budget}; choose a finite epsilon above 0")
        self.devices, self.delta, self.budget, self.order = devices, delta, budget, order
        self._order = order_index(order)
        self._limit = float(to_divergence(budget, delta)[self._order])
        require(
            self._limit > 0,
            f"order {order:g} leaves nothing of a budget of {budget:g} at delta {delta:g}; choose "
            "a larger order",
        )
        self._spent = np.zeros(devices)
        self._charged = False

    @property
    def assumption(self) -> str:
        """What the figures hold under; to be printed beside them."""
        return (
            "zero-out: neighbours differ in what one device's data say, not in how much there is; "
            f"activity and membership are treated as public; {FOLLOW} what was "
            f"released, and a Renyi filter of order {self.order:g}, fixed before the first round, "
            f"keeps every device within an epsilon of {self.budget:g}: that budget is the claim, "
            "for all devices alike and from the first round on, and not what was spent of it; "
            "nothing bounds what who took part gives away, nor one device's data replaced by "
            "other data"
        )

    @property
    def spent(self) -> np.ndarray:
        """Share of its budget's divergence that each device was charged, (devices,); no claim."""
        return self._spent / self._limit

    def affordable(self, planned: DeviceSum) -> np.ndarray:
        """Which devices a further round leaves within their budget, shape (devices,).

        It reads planned rates and noise, never a coin.

        Args:
          planned: the round as it would be planned with everybody in it.
        """
        return self._spent + self._cost(planned) <= self._limit

    def charge(self, planned: DeviceSum, cohort: np.ndarray) -> None:
        """Charge a round, once its cohort is drawn; who was drawn makes no difference.

        Args:
          planned: what the mechanism does with it.
          cohort: (drawn,) devices asked.

        Raises:
          ConfigError: a device would exceed its budget.
        """
        after = self._spent + self._cost(planned)
        over = int((after > self._limit).sum())
        require(
            over == 0,
            f"a round would take {over} devices above their budgets; plan it with rates of 0 for "
            "those that `affordable` says cannot pay for it",
        )
        self._spent = after
        self._charged = True

    def figures(self) -> dict[str, float]:
        """The columns of a round's line, by the names they have there."""
        claim = self._claim(self.delta, "zero-out")
        infinite = np.inf if self._charged else 0.0
        return {
            "epsilon_max": claim,
            "epsilon_median": claim,
            "epsilon_participation_max": infinite,
            "epsilon_server_max": float("inf"),
        }

    def bounds(self) -> np.ndarray:
        """What is claimed for every device before an observer of the models, (devices,)."""
        return np.full(self.devices, self._claim(self.delta, "zero-out"))

    def epsilons(
        self, devices: np.ndarray, delta: float | None = None, relation: Relation = "zero-out"
    ) -> np.ndarray:
        """What is claimed for some devices before an observer of the models.

        Args:
          devices: (n,) ids, such as an audit's panel.
          delta: instead of the ledger's own.
          relation: "replace-one" is infinite.

        Returns:
          (n,) epsilons.
        """
        return np.full(len(devices), self._claim(self.delta if delta is None else delta, relation))

    def highest(self, devices: np.ndarray, delta: float, relation: Relation = "zero-out") -> float:
        """The largest of `epsilons`; 0 of no devices."""
        return float(self.epsilons(devices, delta, relation).max(initial=0.0))

    def worst(self) -> int:
        """A device whose claim nobody's exceeds: the one that was charged most."""
        return int(self._spent.argmax())

    def participation_epsilons(self, devices: np.ndarray) -> np.ndarray:
        """Infinite, shape (n,): nothing bounds realised participations."""
        return np.full(len(devices), np.inf if self._charged else 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Charges so far, and the order that they are divergences of."""
        return {"spent": self._spent.copy(), "charged": self._charged, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved charges.

        Raises:
          ConfigError: they were kept at another order, which says nothing about this one's budget.
        """
        require(
            state["order"] == self.order,
            f"charges were kept at order {state['order']:g}, and the ledger's is {self.order:g}; "
            f"give filter_order={state['order']:g}, or start the run again",
        )
        self._spent, self._charged = state["spent"].copy(), state["charged"]

    def _claim(self, delta: float, relation: Relation) -> float:
        """The budget at a delta; nothing was released before the first charge."""
        if not self._charged:
            return 0.0
        if relation != "zero-out":
            return float("inf")
        if delta == self.delta:
            return self.budget
        # The same divergence at another delta.
        moved = to_divergence(0.0, self.delta)[self._order] - to_divergence(0.0, delta)[self._order]
        return max(0.0, self.budget + float(moved))

    def _cost(self, planned: DeviceSum) -> np.ndarray:
        require(
            len(planned.rates) == self.devices,
            f"a round has rates of {len(planned.rates)} devices, but the ledger has "
            f"{self.devices}; give every device a rate, 0 where it has not arrived",
        )
        pairs, place = unique_pairs(*planned.steps())
        return np.array([divergences(q, s)[self._order] for q, s in pairs])[place]


def order_index(order: float) -> int:
    """Where an order stands among `ORDERS`.

    Raises:
      ConfigError: it is none of them.
    """
    found = np.flatnonzero(np.equal(ORDERS, order))
    require(
        len(found) == 1,
        f"order is {order}; choose one of {', '.join(f'{each:g}' for each in ORDERS)}",
    )
    return int(found[0])


def announced_order(rounds: Sequence[tuple[DeviceSum, int]], budget: float, delta: float) -> float:
    """The order at which the budget pays for most of what was announced before the first round.

    A device whose announced rounds cost r times its budget could come to a share min(1, 1 / r) of
    them. The order is the one at which the expected participations that are paid for, over all
    devices and rounds, are most; where several pay for all, the one that leaves the dearest device
    the smallest r. It reads rates, weights and noise as announced, which is what activity and
    configuration say, and so may be chosen freely before the first round.

    Args:
      rounds: what the mechanism would do in a round, and how many such rounds.
      budget: epsilon of every device.
      delta: in (0, 1).

    Raises:
      ConfigError: no order leaves anything of the budget.

    Example:
      >>> from fedsim.privacy.events import Gaussian
      >>> planned = DeviceSum(event=Gaussian(noise_multiplier=1.0), rates=np.array([0.05, 0.2]))
      >>> announced_order([(planned, 100)], budget=4.0, delta=1e-4)
      3.5
    """
    limits = to_divergence(budget, delta)
    require(
        bool((limits > 0).any()),
        f"device_budget is {budget:g}, of which no Renyi order leaves anything at delta {delta:g}; "
        "choose a larger budget",
    )
    priced = []
    expected = np.zeros(len(rounds[0][0].rates))
    for planned, times in rounds:
        pairs, place = unique_pairs(*planned.steps())
        table = times * np.array([divergences(q, s) for q, s in pairs])
        priced.append((table, place))
        expected += times * planned.rates

    def paid(order: int) -> tuple[float, float]:
        cost = sum(table[:, order][place] for table, place in priced)
        with np.errstate(divide="ignore"):
            share = np.minimum(1.0, limits[order] / cost)
        return round(float(share @ expected / (expected.sum() or 1.0)), 6), -cost.max() / limits[
            order
        ]

    return float(ORDERS[max(np.flatnonzero(limits > 0).tolist(), key=paid)])
