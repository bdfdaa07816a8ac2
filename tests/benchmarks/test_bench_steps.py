import pytest

from tests.benchmarks import bench_steps


def order(*seconds: float) -> list[dict[str, float]]:
    return [
        {"processor s": value, "clock s": 2 * value, "peak MiB": 100.0, "above MiB": 10.0 + value} for value in seconds
    ]


def test_the_second_half_of_the_steps_after_the_first_is_compared_with_the_first_half():
    columns, rows = bench_steps.growth({"default": [order(9, 1, 1, 2, 2), order(9, 1, 1, 1, 1)]})
    assert columns[:4] == ["row", "orders", "processor s", "processor s, second half %"]
    assert rows == [
        ["default", 2, "1.25 ± 0.35", "+50.0 ± 70.7", "2.50 ± 0.71", "+50.0 ± 70.7", "100.00 ± 0.00", "+0.0 ± 0.0", "11.25 ± 0.35", "+4.5 ± 6.4"]
    ]  # fmt: skip


def test_of_an_uneven_number_of_steps_the_middle_one_counts_in_neither_half():
    _, rows = bench_steps.growth({"default": [order(9, 1, 5, 2)]})
    assert rows[0][3] == "+100.0 ± 0.0"


def test_each_step_is_the_mean_over_orders():
    columns, rows = bench_steps.each({"default": [order(1, 2), order(3, 4)]})
    assert columns == ["row", "1", "2"]
    assert rows[0] == ["default, processor s", "2.00", "3.00"]


@pytest.mark.parametrize(("form", "expected"), [(".2f", "1.50 ± 0.71"), ("+.1f", "+1.5 ± 0.7")])
def test_deviations_have_no_sign(form: str, expected: str):
    assert bench_steps.spread([1.0, 2.0], form) == expected
