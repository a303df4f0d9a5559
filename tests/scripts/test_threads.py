"""How many threads a command takes."""

from __future__ import annotations

import os

from scripts.common import choose_threads


def threads(cores, monkeypatch, **environment):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    choose_threads(environment)
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    return environment["OMP_NUM_THREADS"]


def test_a_command_alone_takes_its_cores(monkeypatch):
    assert threads(6, monkeypatch) == "6"


def test_what_is_set_stays(monkeypatch):
    assert threads(6, monkeypatch, OMP_NUM_THREADS="3", LOCAL_WORLD_SIZE="2") == "3"


def test_processes_of_one_job_share_the_cores(monkeypatch):
    assert threads(6, monkeypatch, LOCAL_WORLD_SIZE="2") == "3"
    assert threads(6, monkeypatch, LOCAL_WORLD_SIZE="4") == "1"
    assert threads(2, monkeypatch, LOCAL_WORLD_SIZE="8") == "1"


def test_without_affinity_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    environment: dict[str, str] = {}
    choose_threads(environment)
    assert environment["OMP_NUM_THREADS"] == "5"
