"""The two searches, on functions whose edge is known."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dp.accounting import search

MANY = settings(max_examples=40, deadline=None, derandomize=True)


@MANY
@given(epsilon=st.floats(1e-12, 1e12), ulps=st.integers(-3, 3))
def test_gap_is_positive_exactly_when_epsilon_is_above_its_target(epsilon, ulps):
    target = epsilon
    for _ in range(abs(ulps)):
        target = math.nextafter(target, math.inf if ulps > 0 else 0.0)
    assert (search.gap(epsilon, target) > 0) == (epsilon > target)


def test_gap_of_nothing_and_of_infinity_is_finite_and_has_the_right_sign():
    assert -math.inf < search.gap(0.0, 1.0) < 0 < search.gap(math.inf, 1.0) < math.inf


@MANY
@given(
    root=st.integers(1, 10**9),
    power=st.floats(-3, -0.2),
    start=st.integers(1, 10**9),
    slope=st.floats(-5, -0.05),
)
def test_edge_is_the_smallest_number_that_fits_when_larger_ones_do(root, power, start, slope):
    seen = {}

    def gap_at(number):
        seen[number] = power * math.log(number / (root - 0.5))
        return seen[number]

    assert search.edge(gap_at, start, slope, upward=True) == root
    assert seen[root] <= 0
    assert root == 1 or seen[root - 1] > 0


@MANY
@given(last=st.integers(1, 10**6), power=st.floats(0.1, 3), start=st.integers(1, 10**6))
def test_edge_is_the_largest_number_that_fits_when_smaller_ones_do(last, power, start):
    def gap_at(number):
        return power * math.log(number / (last + 0.5))

    found = search.edge(gap_at, start, 1.0, upward=False, low=1, high=10**6 + 1)
    assert found == last


@MANY
@given(last=st.integers(1, 1023), jump=st.floats(0.1, 50))
def test_edge_is_found_where_the_gap_jumps(last, jump):
    def gap_at(number):
        return -1e-9 if number <= last else jump

    assert search.edge(gap_at, 1, 1.0, upward=False, low=1, high=1024) == last


def test_edge_of_a_smooth_function_takes_few_evaluations():
    seen = []

    def gap_at(number):
        seen.append(number)
        return math.log(math.sqrt(number) + number / 1e4) - math.log(math.sqrt(54_321.5) + 5.43215)

    assert search.edge(gap_at, 50_000, 0.6, upward=False) == 54_321
    assert len(seen) <= 6


def test_estimate_finds_root_and_slope():
    root, slope = search.estimate(lambda value: -2 * math.log(value / 7), 1e-3, 1e6)
    assert math.isclose(root, 7, rel_tol=1e-4)
    assert math.isclose(slope, -2, rel_tol=1e-3)


def test_estimate_of_a_jump_still_says_which_way_it_goes():
    root, slope = search.estimate(lambda value: 1.0 if value < 5 else -1.0, 1e-3, 1e6)
    assert math.isclose(root, 5, rel_tol=1e-3)
    assert slope < 0
