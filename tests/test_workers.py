"""Order, bounded waiting, and errors of ordered work."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mediant.errors import UsageError
from mediant.workers import Turns, ordered, threads


@pytest.mark.parametrize("count", ["1", "2", "5"])
def test_results_come_in_order(monkeypatch, count):
    monkeypatch.setenv("MEDIANT_THREADS", count)
    assert list(ordered(lambda x: (time.sleep(0.001 * (x % 3)), x)[1], range(30))) == list(range(30))


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_few_items_wait(monkeypatch, ahead):
    monkeypatch.setenv("MEDIANT_THREADS", "2")
    drawn = 0

    def items():
        nonlocal drawn
        for i in range(100):
            drawn += 1
            yield i

    results = ordered(lambda x: x, items(), ahead=ahead)
    for taken in range(1, 50):
        next(results)
        assert drawn <= taken + 2 * ahead


def test_an_error_comes_through_and_stops(monkeypatch):
    monkeypatch.setenv("MEDIANT_THREADS", "2")
    done = []

    def work(x):
        if x == 3:
            raise ValueError("three")
        done.append(x)

    with pytest.raises(ValueError, match="three"):
        list(ordered(work, range(1000)))
    assert len(done) < 20


def test_prepare_runs_in_every_worker(monkeypatch):
    monkeypatch.setenv("MEDIANT_THREADS", "3")
    prepared = set()
    names = set()

    def work(_):
        time.sleep(0.002)
        names.add(threading.get_ident())

    list(ordered(work, range(30), lambda: prepared.add(threading.get_ident())))
    assert names <= prepared


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_threads_refuses_nonsense(monkeypatch, value):
    monkeypatch.setenv("MEDIANT_THREADS", value)
    with pytest.raises(UsageError, match="whole number"):
        threads()


def test_turns_come_in_the_order_of_their_numbers_even_after_an_error():
    turns, taken = Turns(), []

    def work(number):
        time.sleep(0.002 * (5 - number))
        with turns.take(number):
            taken.append(number)
            if number == 1:
                raise ValueError

    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(work, number) for number in range(6)]
    assert taken == list(range(6))
    assert [type(d.exception()) for d in done] == [type(None), ValueError, *[type(None)] * 4]
