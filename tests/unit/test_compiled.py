"""Code that was compiled from another source is never run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from streamer.core import compiled


def test_a_cached_function_is_stamped_with_its_module_and_all_that_it_imports() -> None:
    assert {"hashing", "compiled", "columns"} <= compiled._sources("profile") < compiled._sources("features") < compiled._sources("fold")
    assert 4 == len({compiled._stamp(module) for module in ("profile", "features", "fold", "hashing")})


def test_another_source_makes_another_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compiled._stamp("fold")
    monkeypatch.setattr(compiled, "_source", lambda module: b"edited" if module == "hashing" else module.encode())
    compiled._stamp.cache_clear()
    try:
        assert before != compiled._stamp("fold")
    finally:
        compiled._stamp.cache_clear()


@pytest.mark.parametrize(("module", "stamp"), [("streamer.core.hashing", compiled._stamp("hashing")), ("elsewhere", "numba's")])
def test_functions_of_the_core_are_stamped_and_no_others(module: str, stamp: str) -> None:
    made = SimpleNamespace(_cache=SimpleNamespace(_cache_file=SimpleNamespace(_source_stamp="numba's")))
    compiled._mark(made, module)
    assert stamp == made._cache._cache_file._source_stamp


def test_a_function_that_is_not_compiled_has_no_cache_to_stamp() -> None:
    compiled._mark(len, "streamer.core.hashing")


def test_a_number_is_widened_to_64_bits() -> None:
    assert [-5, 2**31] == [compiled.wide(value) for value in (-5, 2**31)]
