"""Embedded tasks: the same pixels every time."""

from __future__ import annotations

import pytest

from otmf.data import embedded


@pytest.mark.parametrize("name", embedded.names())
def test_embedded_task_is_rendered_to_the_same_pixels(name) -> None:
    one, other = embedded.render(name), embedded.render(name)
    assert (one.train_x == other.train_x).all()
    assert one.train_x.shape[1:] == (32, 32, 3)
    assert one.train_x.dtype == "uint8"
    assert len(set(one.train_y.tolist())) == len(set(one.test_y.tolist())) == len(one.classes)


def test_unknown_embedded_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a task out of digits, .*; received 'birds'"):
        embedded.render("birds")
