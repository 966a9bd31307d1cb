"""An interrupted search is taken up as it was: the same runs, counted once."""

import numpy as np
import pytest

import keras_dp
from keras_dp.accounting import Ledger
from keras_dp.tuning import publishing
from tests.tuning.searching import SIZES, Pretending, data, held_out, private, search_of, searched


class Interrupted(Pretending):
    """Is stopped by hand in the middle of a run.

    Args:
        at: Number of the run.
    """

    def __init__(self, at, **settings):
        super().__init__(**settings)
        self.at = at

    def fit(self, hp, model, *args, **kwargs):
        results = super().fit(hp, model, *args, **kwargs)
        if len(self.runs) - 1 == self.at:
            raise KeyboardInterrupt("killed")
        return results


def interrupted(folder, at, **settings):
    pretending = Interrupted(at)
    tuner = search_of(pretending, folder, **settings)
    with pytest.raises(KeyboardInterrupt, match="killed"):
        tuner.search(*data(), validation_data=held_out(), **SIZES)
    return tuner, pretending


@pytest.mark.parametrize("at", [0, 2])
def test_it_makes_the_runs_that_it_would_have_made(at, tmp_path):
    settings = {"seed": 6, "mean_runs": 5}
    whole = Pretending()
    searched(whole, tmp_path / "whole", **settings)
    assert len(whole.runs) > 3
    _, before = interrupted(tmp_path / "half", at, **settings)
    after = Pretending()
    tuner = searched(after, tmp_path / "half", **settings)
    assert before.runs[:at] + after.runs == whole.runs
    assert before.runs[at] == after.runs[0]  # begun again, with the same values
    assert min(r["units"] for r in whole.runs) == tuner.get_best_hyperparameters()[0]["units"]


def test_it_is_counted_once_and_no_result_is_given_out_before_it_is_over(tmp_path):
    tuner, _ = interrupted(tmp_path, 1, runs=4)
    search = tuner.oracle.search
    for ask in (tuner.get_best_models, tuner.get_best_hyperparameters):
        with pytest.raises(RuntimeError, match="must be over before its result is read"):
            ask()
    again = searched(Pretending(), tmp_path, runs=4)
    assert again.oracle.search == search
    model = again.get_best_models()[0]
    assert model.ledger.releases == (search,)
    assert model.privacy_spent() == tuner.privacy_spent()


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 3},
        {"batch_size": 50},
        {"size": 900},
        {"mean_runs": 5},
        {"shape": 0.0},
        {"budget": keras_dp.Budget(3.5, 1e-4)},
    ],
)
def test_it_is_not_taken_up_with_other_terms(change, tmp_path):
    interrupted(tmp_path, 0)
    names = {"mean_runs", "shape", "budget"}
    settings = {name: value for name, value in change.items() if name in names}
    sizes = {**SIZES, **{n: v for n, v in change.items() if n in {"epochs", "batch_size"}}}
    budget = change.get("budget")
    pretending = Pretending()
    if budget is not None:
        pretending.building = lambda hp: _with(budget, hp)
    tuner = search_of(pretending, tmp_path, **settings)
    with pytest.raises(ValueError, match="interrupted search must be taken up with"):
        tuner.search(*data(change.get("size", 1000)), validation_data=held_out(), **sizes)
    assert pretending.runs == []


def _with(budget, hp):
    return private(hp.Choice("units", [1, 2, 3]), hp.Choice("clip_norm", [0.5, 1.0]), budget=budget)


def test_a_search_that_is_over_stays_over(tmp_path):
    tuner = searched(Pretending(), tmp_path, runs=3)
    spent, values = tuner.privacy_spent(), tuner.get_best_hyperparameters()[0].values
    later = Pretending()
    again = searched(later, tmp_path)
    again.search(*data(), validation_data=held_out(), **SIZES)
    assert later.runs == []
    assert again.privacy_spent() == spent
    assert again.get_best_hyperparameters()[0].values == values
    assert again.get_best_models()[0].privacy_spent() == spent


def test_the_end_is_on_disk_before_anything_is_known_of_it(tmp_path):
    """Killed after the last run was decided to be the last: no other run follows."""
    tuner = search_of(Pretending(), tmp_path, runs=2)
    tuner.on_search_end = _killed
    with pytest.raises(KeyboardInterrupt, match="killed"):
        tuner.search(*data(), validation_data=held_out(), **SIZES)
    later = Pretending()
    again = searched(later, tmp_path, runs=9)
    assert later.runs == []
    assert again.get_best_models()[0].privacy_spent() == tuner.privacy_spent()


@pytest.mark.parametrize("at", ["update_trial", "end_trial"])
def test_the_score_of_a_run_that_is_begun_again_is_its_new_one(at, tmp_path, monkeypatch):
    """Killed between the writing of a score and of the run's end: two runs must not make one."""
    scores = iter([1.0, 7.0, 5.0])
    tuner = search_of(Pretending(lambda run, hp: next(scores)), tmp_path, runs=2)
    with monkeypatch.context() as patched:
        method = getattr(tuner.oracle, at)
        patched.setattr(tuner.oracle, at, lambda *a, **k: _killed(method(*a, **k)))
        with pytest.raises(KeyboardInterrupt, match="killed"):
            tuner.search(*data(), validation_data=held_out(), **SIZES)
    again = searched(Pretending(lambda run, hp: next(scores)), tmp_path, runs=2)
    (best,) = again.oracle.trials.values()
    assert best.score == 5.0
    np.testing.assert_allclose(again.get_best_models()[0].trainable_variables[0], 5.0)


@pytest.mark.parametrize("at", ["copytree", "rename"])
def test_the_other_runs_are_deleted_by_the_next_call_if_the_first_was_killed(
    at, tmp_path, monkeypatch
):
    place = publishing.shutil if at == "copytree" else publishing.Path
    with monkeypatch.context() as patched:
        patched.setattr(place, at, _killed)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            searched(Pretending(), tmp_path, runs=3)
    again = searched(Pretending(), tmp_path)
    left = sorted(path.name for path in (tmp_path / "untitled_project").iterdir())
    assert left == ["oracle.json", "trial_best", "tuner0.json"]
    assert again.get_best_models()[0].ledger.releases == (again.oracle.search,)


def test_the_kept_run_stays_the_best_when_others_were_as_good_and_are_half_deleted(
    tmp_path, monkeypatch
):
    def half(path, **_):
        if path.name not in {f"trial_{publishing.BEST}", f"unfinished_{publishing.BEST}"}:
            next(path.glob("checkpoint*")).unlink()
            _killed()

    scores = iter([4.0, 4.0, 4.0])
    with monkeypatch.context() as patched:
        patched.setattr(publishing.shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            searched(Pretending(lambda run, hp: next(scores)), tmp_path, runs=3)
    again = searched(Pretending(), tmp_path)
    assert list(again.oracle.trials) == [publishing.BEST]
    np.testing.assert_allclose(again.get_best_models()[0].trainable_variables[0], 4.0)


def _killed(*_):
    raise KeyboardInterrupt("killed")


def test_a_checkpoint_of_an_unfinished_search_is_charged_for_all_of_it(tmp_path):
    """Somebody may publish it all the same: its ledger must not say less."""
    tuner, _ = interrupted(tmp_path, 1, runs=4)
    (checkpoint, *_) = tmp_path.rglob("checkpoint.weights.h5")
    model = Pretending().build(tuner.oracle.get_space())
    model.load_weights(checkpoint, skip_mismatch=True)
    assert model.ledger.releases == (tuner.oracle.search,)
    assert Ledger.from_json(model.ledger.to_json()).releases == model.ledger.releases
