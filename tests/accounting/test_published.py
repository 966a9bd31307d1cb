"""The numbers of papers, tutorials and other accountants."""

import pytest

from keras_dp import accounting
from keras_dp.accounting import Release, grid, pld
from keras_dp.accounting.composition import composition_of
from tests.accounting.published import ORDERS, VECTORS, plan, sizes

ROWS = {row["name"]: row for row in VECTORS["rows"]}
TIGHT_ROWS = [name for name, row in ROWS.items() if row["pld"] is not None]


def releases(row):
    """Return everything that a row releases, the full-batch Gaussians included."""
    updates = plan(noise_multiplier=row["noise_multiplier"], **sizes(row))
    found = (Release(updates, row["updates"], "updates"),)
    more = row.get("plus_full_batch_gaussians")
    if more is None:
        return found
    whole = plan(
        sampling="full_batch",
        batch_size=row["dataset_size"],
        dataset_size=row["dataset_size"],
        noise_multiplier=more["noise_multiplier"],
    )
    return (*found, Release(whole, more["count"], "statistics"))


@pytest.mark.parametrize("conversion", ["rdp", "rdp_classic"])
@pytest.mark.parametrize("name", ROWS)
def test_renyi_epsilon_is_that_of_the_row(name, conversion):
    row = ROWS[name]
    orders = ORDERS[row["rdp_orders"]]
    found = accounting.spent(releases(row), row["delta"], conversion, orders)
    assert found == pytest.approx(row[conversion], rel=1e-4)


@pytest.mark.parametrize("name", TIGHT_ROWS)
def test_pld_epsilon_on_the_grid_of_the_rows_is_that_of_the_row(name, monkeypatch):
    row = ROWS[name]
    monkeypatch.setattr(grid, "FINEST_STEP", 1e-3)
    found = pld.epsilon(composition_of(releases(row)), row["delta"])
    assert found == pytest.approx(row["pld"], rel=1e-4)


@pytest.mark.parametrize("name", TIGHT_ROWS)
def test_pld_epsilon_on_the_finer_grid_is_a_little_smaller(name):
    row = ROWS[name]
    found = accounting.spent(releases(row), row["delta"])
    loosest = 0.986 if row["name"].startswith("Abadi16") else 0.99
    assert loosest * row["pld"] < found < row["pld"]


@pytest.mark.parametrize("name", ROWS)
def test_published_epsilon_is_found_by_the_accountant_of_the_source(name):
    row = ROWS[name]
    source = row["published_with"]
    orders = None if source == "pld" else ORDERS[row["rdp_orders"]]
    found = accounting.spent(releases(row), row["delta"], source, orders)
    assert found == pytest.approx(row["published_epsilon"], rel=0.025)


@pytest.mark.parametrize("row", VECTORS["prv"]["rows"], ids=str)
def test_pld_epsilon_is_close_to_that_of_the_prv_accountant(row):
    values = dict(zip(VECTORS["prv"]["columns"], row, strict=True))
    found = accounting.epsilon(
        noise_multiplier=values["noise_multiplier"],
        updates=values["updates"],
        delta=1e-6,
        **sizes(values),
    )
    assert found == pytest.approx(values["epsilon"], abs=0.011)


@pytest.mark.parametrize("row", VECTORS["calibration"]["rows"], ids=str)
def test_calibrated_noise_is_the_published_one_and_never_overshoots(row):
    settings = {name: row[name] for name in ("delta", "updates", "accountant")} | sizes(row)
    noise = accounting.noise_multiplier(epsilon=row["epsilon"], **settings)
    assert noise == pytest.approx(row["noise_multiplier"], rel=5e-3)
    assert accounting.epsilon(noise_multiplier=noise, **settings) <= row["epsilon"]


@pytest.mark.parametrize("epsilon", VECTORS["full_batch_one_update"]["rows"])
def test_one_full_batch_update_needs_the_noise_of_the_gaussian_mechanism(epsilon):
    noise = accounting.noise_multiplier(
        epsilon=float(epsilon),
        delta=VECTORS["full_batch_one_update"]["delta"],
        batch_size=1000,
        dataset_size=1000,
        updates=1,
        sampling="full_batch",
    )
    expected = VECTORS["full_batch_one_update"]["rows"][epsilon]
    assert noise == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("row", VECTORS["updates"], ids=str)
def test_number_of_updates_is_the_published_one(row):
    settings = {name: row[name] for name in ("epsilon", "delta", "noise_multiplier", "accountant")}
    assert accounting.updates(**settings, **sizes(row)) == row["updates"]


@pytest.mark.parametrize("name", ["rdp", "pld"])
def test_epsilon_of_a_short_training_is_the_published_one(name):
    row = VECTORS["statement"]
    sampled = accounting.epsilon(
        noise_multiplier=1.0,
        batch_size=64,
        dataset_size=10_000,
        updates=5 * round(10_000 / 64),
        delta=1e-6,
        accountant=name,
    )
    assert sampled == pytest.approx(row[f"poisson_{name}"], rel=2e-3)


@pytest.mark.parametrize("largest_batch", VECTORS["truncated_poisson"]["rows"])
def test_epsilon_of_truncated_poisson_sampling_is_the_published_one(largest_batch):
    found = accounting.epsilon(
        noise_multiplier=4,
        batch_size=1024,
        dataset_size=50_000,
        updates=10_000,
        delta=1e-5,
        sampling="truncated_poisson",
        largest_batch=int(largest_batch),
    )
    expected = VECTORS["truncated_poisson"]["rows"][largest_batch]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sampling", ["given", "shuffle"])
@pytest.mark.parametrize("name", ["rdp", "pld"])
def test_shuffled_batches_count_as_one_gaussian_an_epoch_without_amplification(name, sampling):
    row = VECTORS["statement"]
    given = accounting.epsilon(
        noise_multiplier=1.0,
        batch_size=64,
        dataset_size=10_000,
        updates=5 if sampling == "given" else 5 * round(10_000 / 64),
        delta=1e-6,
        sampling=sampling,
        accountant=name,
    )
    assert given == pytest.approx(row[f"once_per_epoch_{name}"], rel=1e-3)
