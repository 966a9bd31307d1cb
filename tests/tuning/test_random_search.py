"""A search is counted as a whole: by its model, its file, and all that is trained from it."""

import json
import math

import keras
import keras_tuner
import numpy as np
import pytest

import keras_dp
from keras_dp import PrivacyBudgetExceeded, accounting
from keras_dp.accounting import BestOf, Release
from keras_dp.optimizers import DPSGD
from tests.tuning.searching import (
    BUDGET,
    SIZES,
    UNPUBLISHED,
    Pretending,
    build,
    data,
    held_out,
    private,
    search_of,
    searched,
)

RUN = {"batch_size": 100, "dataset_size": 1000, "updates": 20, "delta": BUDGET.delta}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search with real training."""
    return searched(build, tmp_path_factory.mktemp("search"), runs=2, seed=None)


def test_the_noise_is_the_least_with_which_the_whole_search_stays_within_the_budget(finished):
    noise = finished.oracle.search.plan.noise_multiplier
    best_of = BestOf(3)
    assert noise == accounting.noise_multiplier(epsilon=3.0, best_of=best_of, **RUN)
    assert noise > accounting.noise_multiplier(epsilon=3.0, **RUN)


def test_the_chosen_model_says_what_the_search_cost_also_after_saving(finished, tmp_path):
    model = finished.get_best_models()[0]
    noise = finished.oracle.search.plan.noise_multiplier
    expected = accounting.epsilon(noise_multiplier=noise, best_of=BestOf(3), **RUN)
    alone = accounting.epsilon(noise_multiplier=noise, **RUN)
    model.save(tmp_path / "model.keras")
    fresh = private(model.layers[1].units)
    model.save_weights(tmp_path / "only.weights.h5")
    fresh.load_weights(tmp_path / "only.weights.h5", skip_mismatch=True)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for found in (finished, model, loaded, fresh):
        spent = found.privacy_spent()
        assert spent.epsilon == pytest.approx(expected, rel=1e-12)
        assert (spent.accountant, spent.updates) == ("rdp", 20)
        assert 1.5 * alone < spent.epsilon <= BUDGET.epsilon
        assert "The search behind this model" in str(found.privacy_statement())
    assert "The search behind this model" in (tmp_path / "model.privacy.md").read_text()
    note = "The search compared runs by 'val_loss', an exact function of the validation data."
    assert note in loaded.privacy_statement().to_dict()["not_covered"]


def test_the_chosen_model_is_the_one_with_the_best_score(tmp_path):
    pretending = Pretending()
    tuner = searched(pretending, tmp_path, runs=5)
    scores = [run["units"] + run["clip_norm"] / 10 for run in pretending.runs]
    assert len(set(scores)) > 2
    weights = tuner.get_best_models()[0].trainable_variables[0]
    np.testing.assert_allclose(np.array(weights), min(scores), rtol=1e-6)
    values = tuner.get_best_hyperparameters()[0].values
    assert values["units"] + values["clip_norm"] / 10 == min(scores)


def test_the_chosen_model_may_not_go_on_within_the_budget(finished):
    model = finished.get_best_models()[0]
    with pytest.raises(PrivacyBudgetExceeded, match="allows no further update"):
        model.fit(*data(), verbose=0, **SIZES)


def test_going_on_with_a_larger_budget_is_counted_on_top_of_the_search(finished):
    model = finished.get_best_models()[0]
    optimizer = DPSGD(0.1, clip_norm=1.0, noise_multiplier=3.0)
    model.compile(optimizer, loss="mse", budget=keras_dp.Budget(9.0, BUDGET.delta))
    model.fit(*data(), verbose=0, **SIZES)
    *_, more = model.ledger.releases
    assert (more.updates, more.best_of) == (20, None)
    both = accounting.spent([finished.oracle.search, more], BUDGET.delta)
    assert model.privacy_spent().epsilon == both > finished.privacy_spent().epsilon
    text = " ".join(str(model.privacy_statement()).split())
    assert "together with its 20 other updates" in text


def test_training_anew_with_the_best_hyper_parameters_is_charged_for_finding_them(finished):
    model = finished.hypermodel.build(finished.get_best_hyperparameters()[0])
    assert model.privacy_spent() == finished.privacy_spent()
    with pytest.raises(PrivacyBudgetExceeded, match="allows no further update"):
        model.fit(*data(), verbose=0, **SIZES)


def everything_in(folder):
    return "\n".join(
        f"{path.relative_to(folder)} {path.read_text(errors='replace')}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def test_what_is_left_tells_nothing_of_the_other_runs(tmp_path):
    few, many = tmp_path / "few", tmp_path / "many"
    lengths, names = [], []
    for folder, runs in ((few, 2), (many, 5)):
        pretending = Pretending(score=lambda run, hp: -float(run))
        tuner = searched(pretending, folder, runs=runs, seed=None)
        lengths.append(len(pretending.runs))
        left = sorted(path.name for path in (folder / "untitled_project").iterdir())
        assert left == ["oracle.json", "trial_best", "tuner0.json"]
        assert str(UNPUBLISHED) not in everything_in(folder)
        model = tuner.get_best_models()[0]
        names.append([model.name, *(layer.name for layer in model.layers)])
        assert model.privacy_spent().epsilon <= 3.0
    assert lengths == [2, 5]
    assert names[0] == names[1]  # Keras numbers what it makes
    states = [json.loads((f / "untitled_project/oracle.json").read_text()) for f in (few, many)]
    different = {key for key in states[0] if states[0][key] != states[1][key]}
    assert different <= {"seed", "seed_state", "ledger", "search"}  # drawn anew for each search


def test_other_runs_are_kept_when_asked_for_and_still_not_given_out(tmp_path):
    pretending = Pretending()
    tuner = searched(pretending, tmp_path, runs=5, keep_runs=True)
    assert len(list((tmp_path / "untitled_project").glob("trial_*"))) == 5
    best = tuner.oracle.get_best_trials(1)[0]
    other = next(trial for trial in tuner.oracle.trials.values() if trial is not best)
    assert tuner.load_model(best).privacy_spent().epsilon <= 3.0
    with pytest.raises(ValueError, match="Only the model of the best run may be loaded"):
        tuner.load_model(other)


def test_the_summary_shows_the_best_run_and_nothing_of_the_others(tmp_path, capsys):
    scores = iter([25.5, 0.75, 31.5])
    tuner = searched(Pretending(lambda run, hp: next(scores)), tmp_path, runs=3, keep_runs=True)
    assert capsys.readouterr().out == ""
    tuner.results_summary()
    shown = capsys.readouterr().out
    assert "Score: 0.75" in shown
    assert "25.5" not in shown
    assert "31.5" not in shown


def test_only_one_result_is_given_out(finished):
    with pytest.raises(ValueError, match=r"`num_trials` must be 1.*Received: 10"):
        finished.results_summary(10)
    with pytest.raises(ValueError, match=r"`num_models` must be 1.*Received: 2"):
        finished.get_best_models(2)
    with pytest.raises(ValueError, match=r"`num_trials` must be 1.*Received: 5"):
        finished.get_best_hyperparameters(5)


def test_a_poisson_number_of_runs_may_be_none_and_then_nothing_is_published(tmp_path):
    pretending = Pretending()
    tuner = searched(pretending, tmp_path, runs=0, shape=math.inf, mean_runs=1)
    assert pretending.runs == []
    assert 0 < tuner.privacy_spent().epsilon <= 3.0
    for ask in (tuner.get_best_models, tuner.get_best_hyperparameters):
        with pytest.raises(
            RuntimeError, match=r"Poisson number of runs is 0 with probability 0\.37"
        ):
            ask()


def test_a_run_without_a_score_is_a_run_and_is_not_chosen(tmp_path):
    """Not tried again either, which would give it two chances."""

    def score(run, hp):
        if run == 0:
            raise keras_tuner.errors.FailedTrialError("too large")
        return math.nan if run == 1 else 5.0 + run

    pretending, calls = Pretending(), []
    pretending.score = lambda run, hp: calls.append(run) or score(len(calls) - 1, hp)
    tuner = searched(pretending, tmp_path, runs=5)
    assert len(calls) == 5
    weights = tuner.get_best_models()[0].trainable_variables[0]
    np.testing.assert_allclose(np.array(weights), 7.0)


def test_when_every_run_fails_there_is_nothing_to_publish(tmp_path):
    tuner = searched(Pretending(lambda run, hp: math.nan), tmp_path)
    with pytest.raises(RuntimeError, match="no run ended with a score"):
        tuner.get_best_models()


def test_releases_before_the_search_count(tmp_path):
    """All candidates start from weights that were trained on the same data."""
    earlier = private(optimizer=DPSGD(0.1, noise_multiplier=4.0))
    earlier.fit(*data(), batch_size=100, verbose=0)
    earlier.save_weights(tmp_path / "earlier.weights.h5")

    def go_on(hp):
        model = private(clip_norm=hp.Choice("clip_norm", [0.5, 1.0]))
        model.load_weights(tmp_path / "earlier.weights.h5")
        return model

    tuner = searched(Pretending(lambda run, hp: 1.0, go_on), tmp_path)
    search = tuner.oracle.search
    fresh = accounting.noise_multiplier(epsilon=3.0, best_of=BestOf(3), **RUN)
    assert search.plan.noise_multiplier > fresh
    expected = accounting.spent([*earlier.ledger.releases, search], BUDGET.delta)
    for found in (tuner, tuner.get_best_models()[0]):
        assert found.privacy_spent().epsilon == pytest.approx(expected)
    assert expected <= 3.0


def test_a_ledger_on_disk_counts_a_search_once_and_the_next_one_on_top(tmp_path):
    path = tmp_path / "ledger"
    budget = keras_dp.Budget(2.0, BUDGET.delta)

    def sharing(hp):
        return private(hp.Choice("units", [1, 2]), budget=now, ledger_file=path)

    spent = []
    for now in (budget, keras_dp.Budget(5.0, BUDGET.delta)):
        pretending = Pretending(lambda run, hp: 1.0, sharing)
        name = f"search{now.epsilon:g}"
        tuner = searched(pretending, tmp_path, runs=3, budget=now, project_name=name)
        assert len(pretending.runs) == 3
        spent.append(tuner.get_best_models()[0].privacy_spent().epsilon)
        assert spent[-1] <= now.epsilon
    ledger = accounting.LedgerFile.open(path).ledger
    assert [release.best_of for release in ledger.releases] == [BestOf(3, seeded=True)] * 2
    assert spent[1] == accounting.spent(ledger.releases, BUDGET.delta) > spent[0]


def test_a_search_whose_training_metrics_are_private_may_compare_by_them(tmp_path):
    shown = keras_dp.PrivateMetrics(bounds={"loss": (0, 9)})
    tuner = searched(
        lambda hp: private(hp.Choice("units", [1, 2]), private_metrics=shown),
        tmp_path,
        objective="loss",
        runs=1,
    )
    statement = str(tuner.get_best_models()[0].privacy_statement())
    assert "compared runs" not in statement
    assert "Metrics and losses shown during training are exact" not in statement
    assert tuner.privacy_spent().epsilon <= 3.0


def test_the_statement_says_when_the_program_computed_the_scores_itself(tmp_path):
    shown = keras_dp.PrivateMetrics(bounds={"loss": (0, 9)})
    own = Pretending(building=lambda hp: private(private_metrics=shown))
    own.score = lambda run, hp: 1.0
    tuner = searched(own, tmp_path, objective="loss", runs=1)
    text = " ".join(str(tuner.privacy_statement()).split())
    assert "compared runs by 'loss', computed by the program itself, unchecked." in text


def test_a_callback_that_limits_epsilon_holds_for_the_search_as_a_whole(tmp_path):
    shown = []

    class Showing(keras_tuner.HyperModel):
        def build(self, hp):
            return build(hp)

        def fit(self, hp, model, *args, **kwargs):
            shown.append(model.fit(*args, **kwargs).history)
            return shown[-1]

    def limited(epsilon):
        tuner = search_of(Showing(), tmp_path, runs=1, project_name=f"{epsilon}")
        callback = keras_dp.callbacks.PrivacyBudget(epsilon, BUDGET.delta)
        tuner.search(*data(), validation_data=held_out(), callbacks=[callback], **SIZES)
        return tuner.privacy_spent().epsilon

    spent = limited(3.0)
    assert shown[0]["epsilon"] == [spent, spent]
    with pytest.raises(PrivacyBudgetExceeded, match="allows no further update: 20 updates"):
        limited(0.99 * spent)


def test_a_run_may_make_fewer_updates_than_the_search_counts(tmp_path):
    class Short(keras_tuner.HyperModel):
        def build(self, hp):
            return build(hp)

        def fit(self, hp, model, *args, epochs, **kwargs):
            return model.fit(*args, epochs=epochs - 1, **kwargs)

    tuner = searched(Short(), tmp_path, runs=1)
    model = tuner.get_best_models()[0]
    assert model.ledger.releases == (tuner.oracle.search,)
    assert isinstance(tuner.oracle.search, Release)
    assert tuner.oracle.search.updates == 20
