"""Rounds of several candidates in turns: one round of each, and again.

A machine whose speed drifts within seconds says little about candidates that run one after another.
Here each is a thread that stops after every round until it is its turn again, and nothing else runs
meanwhile: what is compared lies next to each other in time.
"""

import sys
import time
from collections.abc import Callable, Mapping
from threading import Semaphore, Thread

Lap = Callable[[], None]
"""What a candidate calls at the end of every round; it returns when the next may begin."""

Candidate = Callable[[Lap], object]


def in_turns(candidates: Mapping[str, Candidate], rounds: int) -> dict[str, list[float]]:
    """Run candidates to their end, a round of each at a time, every other time in reverse.

    What they set in this process (threads of torch, Flower's identity) they must set back at their
    end; they end in the reverse of the order in which they began. Where one raises, the others end
    at their next lap, whatever was set by whom.

    Args:
      candidates: by name; each calls what it is given at the end of every round.
      rounds: how many each has.

    Returns:
      Wall-clock seconds of every round of each; those of the first hold all that comes before it.

    Raises:
      RuntimeError: a candidate has fewer rounds, or more.

    Example:
      >>> said = []
      >>> def candidate(name):
      ...     def run(lap):
      ...         for round in (1, 2):
      ...             said.append(f"{name}{round}")
      ...             lap()
      ...     return run
      >>> seconds = in_turns({name: candidate(name) for name in "ab"}, rounds=2)
      >>> said, len(seconds["a"])
      (['a1', 'b1', 'b2', 'a2'], 2)
    """
    turns = {name: _Turn(run) for name, run in candidates.items()}
    order = list(turns.values())
    interval = sys.getswitchinterval()
    try:
        for round in range(rounds):
            for turn in order[:: -1 if round % 2 else 1]:
                turn.take()
        for turn in reversed(order):
            turn.take()
    finally:
        for turn in reversed(order):
            turn.stop()
        sys.setswitchinterval(interval)
    for name, turn in turns.items():
        if len(turn.seconds) != rounds:
            raise RuntimeError(f"{name} had {len(turn.seconds)} rounds or more instead of {rounds}")
    return {name: turn.seconds for name, turn in turns.items()}


class _Stopped(BaseException):
    """Raised inside a candidate that is not to go on."""


class _Turn:
    """A candidate on a thread of its own that only runs while `take` waits for it."""

    def __init__(self, run: Candidate) -> None:
        self.seconds: list[float] = []
        self._run = run
        self._go, self._rested = Semaphore(0), Semaphore(0)
        self._error: BaseException | None = None
        self._ended = self._stopped = False
        # A setting of the interpreter that some change, and that the others are not to run under.
        self._interval = sys.getswitchinterval()
        self._thread = Thread(target=self._body, daemon=True)

    def take(self) -> None:
        """Let it run until the end of its next round, or to its end; raises what it raises."""
        if self._ended:
            return
        if self._thread.ident is None:
            self._thread.start()
        sys.setswitchinterval(self._interval)
        self._go.release()
        self._rested.acquire()
        self._interval = sys.getswitchinterval()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End it where it waits, at the latest after the round it is in."""
        self._stopped = True
        if self._thread.ident is not None:
            self._go.release()
            self._thread.join()

    def _body(self) -> None:
        try:
            self._wait()
            self._run(self._lap)
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._ended = True
            self._rested.release()

    def _lap(self) -> None:
        self.seconds.append(time.perf_counter() - self._began)
        self._rested.release()
        self._wait()

    def _wait(self) -> None:
        if not self._stopped:
            self._go.acquire()
        if self._stopped:
            raise _Stopped
        self._began = time.perf_counter()
