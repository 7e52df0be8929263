"""Hostile inputs and wrong uses end with status 2 and one sentence; the cases are planted by `cases.py`."""

import importlib.util
import time
from pathlib import Path

import pytest

from flowprior import bounds

KINDS = ("configs", "arrays", "pictures", "priors", "misplaced", "names")


@pytest.fixture(scope="module")
def cases():
    spec = importlib.util.spec_from_file_location("cases", Path(__file__).with_name("cases.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_refused_in_one_sentence(cases, kind, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bounds, "UNPACKED", 2**22)  # small bombs are quick to plant
    monkeypatch.setattr("flowprior.data.published.UNPACKED", 2**22)
    monkeypatch.setattr(cases, "BOMB", 2**24)
    monkeypatch.setattr(cases, "SECONDS", 60)  # times are for the script: here imports and other tests count
    if kind in ("arrays", "pictures"):
        cases.plant_priors()
    if kind == "pictures":
        cases.plant_arrays()
    commands = getattr(cases, kind if kind in ("misplaced", "names") else f"plant_{kind}")()
    wrong = []
    for words in commands:
        began = time.perf_counter()
        if said := cases.complaint(words, cases.call(words), time.perf_counter() - began):
            wrong.append((words, said))
    assert wrong == []
    assert not (tmp_path / "new").exists()
