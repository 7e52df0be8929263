import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def standins():
    spec = importlib.util.spec_from_file_location("standins", Path(__file__).with_name("standins.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch, tmp_path):
    """No test sees the data sets of the machine it runs on."""
    monkeypatch.delenv("FLOWPRIOR_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
