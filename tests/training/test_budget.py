"""The budget holds in the model, whatever the user does."""

import csv

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import accounting
from keras_dp.optimizers import DPSGD
from tests.kinds import tiny, tiny_data

BUDGET = keras_dp.Budget(epsilon=2.0, delta=1e-3)


def fitting(noise_multiplier=2.0, batch_size=20, size=100, budget=BUDGET):
    """Updates that fit into the budget, from the accountant."""
    return accounting.updates(
        epsilon=budget.epsilon,
        delta=budget.delta,
        noise_multiplier=noise_multiplier,
        batch_size=batch_size,
        dataset_size=size,
    )


def budgeted(noise_multiplier=2.0, budget=BUDGET, **compiling):
    return tiny(
        optimizer=DPSGD(0.1, clip_norm=1.0, noise_multiplier=noise_multiplier),
        budget=budget,
        **compiling,
    )


def stop():
    return keras_dp.callbacks.PrivacyBudget(BUDGET.epsilon, BUDGET.delta)


def train(model, updates, **arguments):
    return model.fit(*tiny_data(), batch_size=20, steps_per_epoch=updates, verbose=0, **arguments)


def test_noise_is_calibrated_so_that_the_planned_updates_just_fit():
    model = budgeted(noise_multiplier=None)
    model.fit(*tiny_data(), batch_size=20, epochs=4, verbose=0)
    spent = model.privacy_spent()
    assert spent.updates == 20
    assert spent.delta == BUDGET.delta
    assert 0.99 * BUDGET.epsilon < spent.epsilon <= BUDGET.epsilon
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="allows no further update"):
        model.fit(*tiny_data(), batch_size=20, verbose=0)
    assert model.privacy_spent() == spent


def test_a_plan_that_passes_the_budget_is_refused_before_the_first_update():
    fit = fitting()
    model = budgeted()
    before = model.get_weights()
    with pytest.raises(
        keras_dp.PrivacyBudgetExceeded, match=f"planned {fit + 1} updates.*{fit} mo"
    ):
        train(model, fit + 1)
    assert model.ledger.updates == 0
    for new, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    train(model, fit)
    assert model.privacy_spent().epsilon <= BUDGET.epsilon


@pytest.mark.parametrize("steps_per_execution", [1, 7])
def test_with_the_callback_it_trains_and_stops_at_the_budget(steps_per_execution):
    fit = fitting()
    model = budgeted(steps_per_execution=steps_per_execution)
    history = train(model, 5, epochs=fit, callbacks=[stop()]).history
    assert model.ledger.updates == fit
    assert model.privacy_spent().epsilon <= BUDGET.epsilon
    assert history["epsilon"] == sorted(history["epsilon"])
    assert history["epsilon"][-1] == pytest.approx(model.privacy_spent().epsilon)


def test_the_callback_alone_stops_at_its_own_budget():
    model = budgeted(budget=None)
    train(model, 10_000, callbacks=[stop()])
    assert model.ledger.updates == fitting()


def test_the_tighter_of_both_budgets_counts():
    model = budgeted(budget=keras_dp.Budget(50.0, 1e-3))
    train(model, 10_000, callbacks=[stop()])
    assert model.ledger.updates == fitting()
    loose = keras_dp.callbacks.PrivacyBudget(50.0, 1e-3)
    model = budgeted()
    train(model, 10_000, callbacks=[loose])
    assert model.ledger.updates == fitting()


def test_a_callback_whose_budget_is_spent_refuses_to_start():
    model = budgeted(budget=None)
    train(model, fitting())
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="allows no further update"):
        train(model, 5, callbacks=[stop()])


def test_a_second_fit_counts_the_first():
    fit = fitting()
    model = budgeted()
    train(model, fit - 3)
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match=f"3 more fit, after {fit - 3} made"):
        train(model, 4)
    train(model, 3)
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="no further update"):
        train(model, 1)


def test_a_longer_data_set_or_a_validation_split_changes_what_fits():
    x, y = tiny_data(200)
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="more fit"):
        budgeted().fit(
            x,
            y,
            batch_size=20,
            steps_per_epoch=fitting(size=160) + 1,
            validation_split=0.2,
            verbose=0,
        )
    model = budgeted()
    model.fit(
        x, y, batch_size=20, steps_per_epoch=fitting(size=160), validation_split=0.2, verbose=0
    )
    assert model.privacy_spent().epsilon <= BUDGET.epsilon
    assert fitting(size=160) < fitting(size=200)


def test_train_on_batch_stops_at_the_budget_and_leaves_the_weights():
    model = budgeted(noise_multiplier=4.0)
    x, y = tiny_data()
    made = 0
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="budget"):
        for made in range(100):  # noqa: B007 - the count is used after the loop
            before = model.get_weights()
            model.train_on_batch(x[:20], y[:20])
    assert (
        made
        == model.ledger.updates
        == accounting.updates(
            epsilon=2.0,
            delta=1e-3,
            noise_multiplier=4.0,
            batch_size=20,
            dataset_size=20,
            sampling="given",
        )
    )
    assert made > 0
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="budget"):
        model.train_on_batch(x[:20], y[:20])
    for new, old in zip(model.get_weights(), before, strict=True):
        assert new.shape == old.shape
        assert np.isfinite(new).all()


def test_single_batches_and_fits_spend_one_budget():
    model = budgeted(noise_multiplier=8.0)
    x, y = tiny_data()
    for _ in range(3):
        model.train_on_batch(x[:20], y[:20])
    train(model, 10)
    spent = model.privacy_spent()
    assert spent.sampling == "given + poisson"
    single = accounting.epsilon(
        noise_multiplier=8.0, batch_size=20, dataset_size=100, updates=10, delta=1e-3
    )
    assert spent.epsilon > single


def test_compiling_anew_keeps_the_count():
    model = budgeted()
    train(model, fitting())
    model.compile(DPSGD(0.1, noise_multiplier=2.0), loss="mse", budget=BUDGET)
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="no further update"):
        train(model, 1)


def test_changed_settings_are_composed_with_what_was_spent_before():
    model = budgeted(noise_multiplier=3.0, budget=None)
    train(model, 10)
    model.compile(DPSGD(0.1, noise_multiplier=6.0), loss="mse")
    train(model, 10)
    epsilons = [
        accounting.epsilon(
            noise_multiplier=noise, batch_size=20, dataset_size=100, updates=updates, delta=1e-3
        )
        for noise, updates in ((3.0, 10), (3.0, 20), (6.0, 20))
    ]
    assert epsilons[0] < model.privacy_spent(1e-3).epsilon < epsilons[1]
    assert model.privacy_spent(1e-3).epsilon > epsilons[2]


def test_the_budget_costs_nothing_per_update(monkeypatch):
    """After the run is opened no accountant is asked: integers are compared."""
    model = budgeted()

    class Forbid(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            def refuse(*_, **__):
                raise AssertionError("an accountant was asked during training")

            for name in ("spent", "updates_within", "calibrate", "epsilon"):
                monkeypatch.setattr(accounting, name, refuse)
                monkeypatch.setattr(accounting.guard, name, refuse, raising=False)

    train(model, fitting(), callbacks=[Forbid()])
    assert model.ledger.updates == fitting()


def test_epsilon_is_in_the_logs_of_every_callback(tmp_path, capsys):
    path = tmp_path / "log.csv"
    model = budgeted()
    history = model.fit(
        *tiny_data(),
        batch_size=20,
        epochs=2,
        verbose=2,
        callbacks=[keras.callbacks.CSVLogger(path), stop()],
    ).history
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epsilon"]) for row in rows] == pytest.approx(history["epsilon"])
    assert history["epsilon"][0] == pytest.approx(
        accounting.epsilon(
            noise_multiplier=2.0, batch_size=20, dataset_size=100, updates=5, delta=1e-3
        )
    )
    assert "epsilon: " in capsys.readouterr().out


def test_a_callback_list_object_is_taken_as_keras_takes_it():
    model = budgeted()
    callbacks = keras.callbacks.CallbackList(
        [stop()], add_history=True, model=model, epochs=1, steps=10_000
    )
    train(model, 10_000, callbacks=callbacks)
    assert model.ledger.updates == fitting()


def test_a_callback_list_object_may_serve_several_fits():
    model = budgeted()
    callbacks = keras.callbacks.CallbackList(add_history=True, model=model, epochs=1, steps=5)
    most = fitting() - 2
    train(model, most, callbacks=callbacks)
    train(model, 2, callbacks=callbacks)
    assert model.ledger.updates == most + 2


def test_the_callback_refuses_a_model_that_is_not_private():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", loss="mse")
    with pytest.raises(keras_dp.NotPrivateError, match=r"private models only.*Sequential"):
        model.fit(*tiny_data(), callbacks=[stop()], verbose=0)


def test_a_budget_that_noise_cannot_meet_is_refused():
    model = budgeted(noise_multiplier=None, budget=keras_dp.Budget(1e-9, 1e-9))
    with pytest.raises(ValueError, match="noise"):
        train(model, 10)
    assert model.ledger.updates == 0
    assert model.optimizer.noise_multiplier is None


def test_without_noise_a_budget_refuses_everything():
    model = budgeted(noise_multiplier=0.0)
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="no further update"):
        train(model, 1)


def test_what_was_spent_and_promised_is_stated():
    model = budgeted()
    assert model.privacy_spent().epsilon == 0
    train(model, 10)
    statement = model.privacy_statement()
    text = str(statement)
    assert "10" in text
    assert "Poisson" in text or "poisson" in text
    data = statement.to_dict()
    assert data["updates"] == 10
    assert data["epsilon"] == pytest.approx(model.privacy_spent().epsilon)
    assert model.privacy_spent(1e-4, "rdp").accountant == "rdp"
    with pytest.raises(ValueError, match="`delta` must be given"):
        budgeted(budget=None).privacy_spent()


def test_the_statement_gives_the_published_figures():
    """Tramer and Boneh 2021, table: epsilon 3 by the older conversion, 2.38 by pld."""
    plan = keras_dp.plan.PrivacyPlan(
        sampling="poisson",
        batch_size=2048,
        dataset_size=60_000,
        clip_norm=0.1,
        noise_multiplier=2.15,
    )
    model = tiny()
    for _ in range(1160):
        model.ledger.record(plan)
    text = str(model.privacy_statement(delta=1e-5))
    assert "2.38" in text
    assert "3.00" in text
