"""A Numba that is there and cannot compile."""

import sys

from features.loops import compiled


def test_a_numba_for_another_numpy_is_done_without_and_that_is_said(tmp_path, monkeypatch, caplog):
    (tmp_path / "numba.py").write_text("raise ImportError('needs another NumPy')\n")
    (tmp_path / "loops_of_nothing.py").write_text("import numba\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    assert compiled.loops("loops_of_nothing") is None
    assert "needs another NumPy" in caplog.text
    assert "NumPy does its work" in caplog.text
