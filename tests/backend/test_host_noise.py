"""Noise drawn in NumPy: its law, its keys, and that discrete noise is JAX's, bit for bit."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_dp.backend.discrete_table import CELLS, alias_table
from keras_dp.backend.host_noise import NOISE_KEY_BYTES, chacha, discrete, drawing, noisy
from keras_dp.backend.jax.noise import add_noise
from keras_dp.backend.jax.noise import discrete as discrete_of_jax
from tests.backend.jax.noise.test_chacha import BLOCK, KEY, NONCE

SIGNIFICANCE = 1e-6  # seeded: they pass or fail for good
KINDS = sorted(NOISE_KEY_BYTES)


def key_of(kind, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, NOISE_KEY_BYTES[kind] // 4, np.uint32)


def drawn(kind, count, stddev=1.0, seed=0):
    (found,) = noisy(kind, [np.zeros(count, np.float32)], key_of(kind, seed), [stddev])
    return found


def fits(sample, stddev):
    """Whether 300 cells of equal probability hold what a normal law puts there."""
    cells = np.floor(300 * stats.norm.cdf(sample / stddev)).astype(int).clip(0, 299)
    return stats.chisquare(np.bincount(cells, minlength=300)).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stddev", [0.37, 1.0, 2.0**-20, 123456.7])
def test_noise_is_normal_with_the_asked_standard_deviation(kind, stddev):
    sample = drawn(kind, 300_000, stddev)
    assert sample.dtype == np.float32
    assert fits(sample, stddev)
    assert stats.kstest(sample / stddev, "norm").pvalue > SIGNIFICANCE
    for wrong in (2 / 3, 3 / 2):
        assert not fits(sample, stddev * wrong)
        assert stats.kstest(sample / (stddev * wrong), "norm").pvalue < SIGNIFICANCE


@pytest.mark.parametrize("kind", KINDS)
def test_the_tail_is_that_of_the_law(kind):
    sizes = np.abs(drawn(kind, 4_000_000, seed=1))
    for far in (3.5, 4.0, 4.5, 5.0):
        expected = 2 * stats.norm.sf(far) * sizes.size
        found = np.count_nonzero(sizes > far)
        assert stats.poisson.cdf(found, expected) > SIGNIFICANCE
        assert stats.poisson.sf(found - 1, expected) > SIGNIFICANCE


@pytest.mark.parametrize("kind", KINDS)
def test_variables_keys_and_neighbours_are_unrelated(kind):
    sums = [np.zeros(200_000, np.float32)] * 2
    first, second = noisy(kind, sums, key_of(kind), [1.0, 1.0])
    (other,) = noisy(kind, sums[:1], key_of(kind, 1), [1.0])
    pairs = [(first, second), (first, other), (first[:-1], first[1:]), (first[0::4], first[1::4])]
    for one, another in pairs:
        bound = 5 / math.sqrt(one.size)
        assert abs(np.corrcoef(one, another)[0, 1]) < bound
        assert abs(np.corrcoef(np.abs(one), np.abs(another))[0, 1]) < bound


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_any_shape_and_type_are_noised_in_float32_with_a_stddev_each(kind):
    sums = [np.full((300, 400), 7.0, np.float16), np.zeros(()), np.zeros((0, 3)), np.ones(4000)]
    found = noisy(kind, sums, key_of(kind), [2.0, 1.0, 1.0, 0.25])
    assert [f.shape for f in found] == [s.shape for s in sums]
    assert {f.dtype for f in found} == {np.dtype("float32")}
    assert fits(found[0].ravel() - 7, 2.0)
    assert stats.kstest((found[3] - 1) / 0.25, "norm").pvalue > SIGNIFICANCE
    assert noisy(kind, [], key_of(kind), []) == []


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_sums_stay_and_endless_noise_leaves_nothing_of_them(kind):
    sums = [np.array([0.1, 0.2, 1e-20], np.float32)]
    np.testing.assert_array_equal(noisy(kind, sums, key_of(kind), [0.0])[0], sums[0])
    for stddev in (math.inf, math.nan):
        assert not np.isfinite(noisy(kind, sums, key_of(kind), [stddev])[0]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_another_size_is_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind}.*must have {NOISE_KEY_BYTES[kind]} bytes.*: 8"):
        noisy(kind, [np.zeros(3)], np.zeros(2, np.uint32), [1.0])


def test_gaussian_keys_have_128_bits_and_all_of_them_matter():
    assert NOISE_KEY_BYTES["gaussian"] == 16
    samples = [drawn("gaussian", 8)]
    for word in range(4):
        key = key_of("gaussian")
        key[word] ^= 1 << 31
        samples.append(noisy("gaussian", [np.zeros(8)], key, [1.0])[0])
    assert len({sample.tobytes() for sample in samples}) == 5


@given(
    st.lists(st.integers(0, 3 * 2**15), min_size=1, max_size=4),
    st.floats(2.0**-60, 2.0**60, width=32),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=15, deadline=None)
def test_discrete_noise_is_bit_for_bit_that_on_jax(sizes, stddev, seed):
    rng = np.random.default_rng(seed)
    sums = [(10 * stddev * rng.normal(size=size)).astype(np.float32) for size in sizes]
    stddevs = [np.float32(stddev * 3**i) for i in range(len(sizes))]
    key = key_of("discrete_gaussian", seed)
    theirs = add_noise("discrete_gaussian", [jnp.asarray(s) for s in sums], key, stddevs, None)
    for mine, other in zip(noisy("discrete_gaussian", sums, key, stddevs), theirs, strict=True):
        np.testing.assert_array_equal(mine, np.asarray(other))


@given(st.floats(2.0**-120, 2.0**120, width=32))
@settings(max_examples=300, deadline=None)
def test_the_lattice_is_that_on_jax(stddev):
    mine, theirs = discrete.lattice(stddev), discrete_of_jax.lattice(stddev)
    assert [float(part) for part in mine] == [float(part) for part in theirs]


def test_sums_far_out_and_what_is_no_number_are_released_as_on_jax():
    sums = np.array([1e5, -1e6, 1e12, -1e12, math.inf, -math.inf, math.nan], np.float32)
    key = key_of("discrete_gaussian")
    (mine,) = noisy("discrete_gaussian", [sums], key, [1.0])
    (theirs,) = add_noise("discrete_gaussian", [jnp.asarray(sums)], key, [np.float32(1)], None)
    np.testing.assert_array_equal(mine, np.asarray(theirs))


def test_blocks_equal_the_published_one():
    words = chacha.blocks(KEY, np.array([1, 2], np.uint32), NONCE)
    assert [f"{int(word[0]):08x}" for word in words] == BLOCK.split()
    assert len(np.unique(words)) == words.size


def test_bits_that_leave_a_draw_undecided_are_followed_by_more(monkeypatch):
    """28 bits of the threshold decide, unless they are equal: then the next 96."""
    table = alias_table()
    cell = next(c for c in range(1, CELLS) if table.alias[c] % CELLS != c)
    top, alias = divmod(int(table.alias[cell]), CELLS)
    ten, *lower = (int(piece[cell]) for piece in table.pieces)
    equal = [cell | top << 14] * 3 + [ten | ten << 10 | ten << 20]
    below = [0]

    def blocks(key, counter, nonce):
        del key
        more = [lower[0] - below[0], *lower[1:]] * 5 + [0]
        words = np.array(more if np.any(nonce[1]) else equal * 4, np.uint32)
        return np.broadcast_to(words.reshape(-1, *[1] * counter.ndim), (16, *counter.shape))

    monkeypatch.setattr(drawing.chacha, "blocks", blocks)
    for below[0], outcome in ((1, cell), (0, alias)):
        (numbers,) = drawing.integers(None, [1], [6])
        assert set(numbers) == {outcome * (2 + drawing.INNER)}


def test_more_numbers_than_the_stream_has_are_refused():
    with pytest.raises(ValueError, match=r"at most 4294967296 numbers.*noise=\"gaussian\""):
        drawing.integers(key_of("discrete_gaussian"), [1, 1], [2**31, 2**31 + 1])
