"""Two servers in turns: what is measured and what is left out; no figure is judged here."""

import types

import pytest

from pipeline.benchmarks import against


class FakeServer:
    def __init__(self, *, cpu_ms_per_page, memory_gb, start_s, most_rate):
        self._cpu_ms, self._memory_gb = cpu_ms_per_page, memory_gb
        self.start_s, self.most_rate = start_s, most_rate
        self.pages = 0

    def cpu_s(self):
        return self.pages * self._cpu_ms / 1000

    def memory_gb(self):
        return self._memory_gb


class FakeLoad:
    def __init__(self, server):
        self._server = server
        self.rates = []

    def run(self, rate, seconds):
        sent = int(rate * seconds)
        self._server.pages += sent
        self.rates.append(rate)
        p99 = 20.0 if rate <= self._server.most_rate else 200.0
        return {
            "sent": sent,
            "p50_ms": self._server.start_s,
            "p99_ms": p99,
            "rungs": {"full": sent},
            "failures": {},
        }


def side(**server):
    running = FakeServer(**server)
    return against._Side(running, FakeLoad(running))


@pytest.fixture
def sides():
    ours = side(cpu_ms_per_page=5.0, memory_gb=1.0, start_s=10.0, most_rate=40.0)
    base = side(cpu_ms_per_page=20.0, memory_gb=4.0, start_s=40.0, most_rate=15.0)
    for each in (ours, base):
        each.take_turn()
    against._climb([ours, base])
    return ours, base


def test_ratios_are_ours_over_the_other_ones(sides):
    figures = against._figures(*sides, 0.05)
    assert figures["funnel.cpu_ms_per_page"] == pytest.approx(5.0)
    assert figures["funnel.cpu_over_base_ratio"] == pytest.approx(0.25)
    assert figures["funnel.memory_over_base_ratio"] == pytest.approx(0.25)
    assert figures["funnel.p50_over_base_ratio"] == pytest.approx(0.25)
    assert figures["funnel.start_over_base_ratio"] == pytest.approx(0.25)
    # Of 10, 12.5, 15.6, 19.5, 24.4, 30.5, 38.1 and 47.6 a second.
    assert figures["funnel.rps_over_base_ratio"] == pytest.approx(38.1 / 12.5)


def test_one_that_failed_at_a_rate_is_left_alone(sides):
    _, base = sides
    assert max(base.load.rates) == 15.6


def test_times_on_a_busy_machine_are_no_figures(sides, caplog):
    figures = against._figures(*sides, 0.3)
    assert "funnel.p50_over_base_ratio" not in figures
    assert "funnel.rps_over_base_ratio" not in figures
    assert figures["funnel.cpu_over_base_ratio"] == pytest.approx(0.25)
    assert "30 %" in caplog.text


def test_other_work_is_what_neither_we_nor_the_servers_did(monkeypatch):
    clock = iter([(100.0, 1000.0), (160.0, 1100.0)])
    monkeypatch.setattr(against, "_busy_s", lambda: next(clock))
    own = iter([1.0, 21.0])
    monkeypatch.setattr(against, "_own_s", lambda: next(own))
    server = types.SimpleNamespace(cpu_s=lambda: 15.0)
    # 60 of 100 s were worked: 20 by us, 15 each by two servers.
    assert against._Machine().other_work([server, server]) == pytest.approx(0.1)


def test_the_machine_is_read_as_it_counts():
    busy, whole = against._busy_s()
    assert 0 < busy < whole
    assert against._own_s() > 0
