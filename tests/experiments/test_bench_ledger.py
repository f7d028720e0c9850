"""The benchmark charges every round it says and reports all it measured; no claim on time."""

import numpy as np
import pytest

from experiments import bench_ledger
from experiments.bench_ledger import Charges, keep
from experiments.command_line import main
from fedsim.privacy import DeviceLedger, Gaussian, epsilon


def test_every_round_is_charged_at_the_rates_of_its_period():
    charges = Charges(devices=40, rounds=50, histories=4, readings=5)
    ledger = keep(charges)
    steps = [Gaussian(noise_multiplier=1.0, rate=charges.rates(p)[3], steps=10) for p in range(5)]
    own = ledger.epsilons(np.array([3]))[0]
    assert own == pytest.approx(epsilon(steps, delta=bench_ledger.DELTA), rel=0.01)
    assert len(ledger.groups()[0].members) == 4


def test_it_is_read_as_often_as_it_says_and_in_the_last_round(monkeypatch):
    read = []
    monkeypatch.setattr(
        DeviceLedger, "figures", lambda self: read.append(self.groups()[0].times.sum(axis=1).max())
    )
    keep(Charges(devices=5, rounds=60, histories=1, readings=20))
    assert read == list(range(3, 61, 3))


def test_unlimited_histories_are_one_a_device():
    assert len(np.unique(Charges(devices=3000, rounds=20, histories=None).rates(0))) == 3000


def test_lines_and_budgets():
    measured = bench_ledger.bench_ledger(rounds=200, repeats=2, devices=4, many_devices=6)
    assert [len(m.seconds) for m in measured.measurements] == [2, 2, 1, 1, 1, 1]
    assert [m.name for m in measured.measurements][:2] == [
        "4 devices x 200 rounds, 256 histories, cold",
        "4 devices x 200 rounds, 256 histories, warm",
    ]
    assert len(measured.measurements) == 6
    assert [(b.value, b.budget) for b in measured.budgets] == [
        (measured.measurements[0].median, 10.0),
        (measured.measurements[1].median, 2.0),
        (max(measured.measurements[4].peak_bytes) / 1e9, 2.0),
    ]
    assert "| a ledger of | seconds | peak memory | ratio |" in measured.markdown()


def test_too_few_rounds_are_refused(capsys):
    assert main(["bench", "ledger", "--rounds", "3"]) == 2
    assert "rounds is 3; a tenth of them is read 20 times" in capsys.readouterr().err
