"""Membership figures are those of scikit-learn and of the definitions; intervals cover."""

import json
import sys

import keras
import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

import keras_dp
from keras_dp import auditing
from keras_dp.optimizers import DPSGD
from tests.kinds import L, crossentropy, tiny, tiny_data


def attacked(shift, members=400, others=600, seed=0):
    rng = np.random.default_rng(seed)
    inside = np.arange(members + others) < members
    return rng.normal(size=members + others) + shift * inside, inside


def test_area_advantage_and_rates_are_those_of_their_definitions():
    scores, members = attacked(1.0)
    report = auditing.membership_report(scores, members)
    assert report.auc.value == pytest.approx(roc_auc_score(members, scores))
    thresholds = np.sort(scores)
    differences = [
        (scores[members] >= t).mean() - (scores[~members] >= t).mean() for t in thresholds
    ]
    assert report.advantage.value == pytest.approx(max(differences))
    tenth_highest = np.sort(scores[~members])[-7]  # 6 of 600 others above: one percent
    assert report.tpr_at[0.01].value == (scores[members] > tenth_highest).mean()
    assert report.tpr_at[0.001].value == (scores[members] > scores[~members].max()).mean()


def test_ties_count_half():
    report = auditing.membership_report([1.0, 1.0, 0.0, 1.0], [True, True, False, False])
    assert report.auc.value == 0.75


def test_intervals_hold_the_true_figures_as_often_as_they_say():
    """95 % each; 150 simulations, once in a thousand by chance."""
    shift, seeds = 1.0, 150
    area, advantage = norm.cdf(shift / 2**0.5), 2 * norm.cdf(shift / 2) - 1
    missed = {"auc": 0, "advantage": 0}
    for seed in range(seeds):
        report = auditing.membership_report(*attacked(shift, 100, 150, seed))
        missed["auc"] += not report.auc.low <= area <= report.auc.high
        missed["advantage"] += not report.advantage.low <= advantage <= report.advantage.high
    assert max(missed.values()) <= binom.ppf(0.999, seeds, 0.06)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.1), (1.0, 1e-5), (3.0, 0.01)])
def test_the_limit_is_the_largest_rate_that_the_definition_allows(epsilon, delta):
    for fpr in np.linspace(0, 1, 21):
        most = auditing.most_tpr(fpr, epsilon, delta)
        grid = np.linspace(0, 1, 100_001)
        allowed = (grid <= np.exp(epsilon) * fpr + delta + 1e-12) & (
            1 - fpr <= np.exp(epsilon) * (1 - grid) + delta + 1e-12
        )
        assert most == pytest.approx(grid[allowed].max(), abs=2e-5)


def test_an_attack_at_the_limit_is_not_called_above_it_more_often_than_allowed():
    """Randomised response at epsilon 1, told with noise below it: every limit is attained."""
    above = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        members = rng.random(300) < 0.5
        told = members ^ (rng.random(300) > np.e / (1 + np.e))
        scores = told + 0.01 * rng.random(300)
        report = auditing.membership_report(scores, members, epsilon=1.0, delta=1e-6)
        above += report.above_limit
    assert above <= binom.ppf(0.999, 100, 4 * 0.025)


def test_a_report_compares_with_the_promise_in_words_and_in_json(tmp_path):
    scores, members = attacked(2.0)
    refuted = auditing.membership_report(scores, members, epsilon=0.5, delta=1e-5)
    assert refuted.above_limit
    assert "does better than (0.5, 1e-05)-differential privacy allows" in " ".join(
        str(refuted).split()
    )
    kept = auditing.membership_report(scores, members, epsilon=8.0, delta=1e-5)
    assert not kept.above_limit
    assert "stays within" in str(kept)
    assert "TPR at FPR 0.001" in str(kept)
    values = json.loads(json.dumps(kept.to_dict()))
    assert values["auc"]["limit"] == pytest.approx(kept.auc.limit)
    assert values["tpr_at"]["0.01"]["value"] == kept.tpr_at[0.01].value
    alone = auditing.membership_report(scores, members)
    assert alone.auc.limit is None
    assert not alone.above_limit
    assert "400 training examples and 600 others." in " ".join(str(alone).split())
    for report in (kept, alone):
        report.plot(tmp_path / "roc.png")
        assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.0, np.nan]}, "finite"),
        ({"members": [True, True]}, "some examples as members and some as others.*2 members"),
        ({"epsilon": 1.0}, "give both or none.*epsilon=1.0, delta=None"),
        ({"epsilon": -1.0, "delta": 0.1}, "epsilon.*at least 0"),
        ({"confidence": 2.0}, "confidence.*between 0 and 1"),
        ({"false_positive_rates": (0.0,)}, "false_positive_rates.*between 0 and 1"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    arguments = {"scores": [0.0, 1.0], "members": [True, False], **changes}
    with pytest.raises(ValueError, match=message):
        auditing.membership_report(arguments.pop("scores"), arguments.pop("members"), **arguments)


@pytest.mark.parametrize(
    ("module", "action"),
    [
        ("matplotlib.figure", lambda report, path: report.plot(path / "roc.png")),
        ("sklearn.metrics", lambda report, path: auditing.membership_report([0, 1], [0, 1])),
    ],
)
def test_a_missing_library_is_named_with_the_extra_that_has_it(
    module, action, monkeypatch, tmp_path
):
    report = auditing.membership_report([0.0, 1.0], [False, True])
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install keras-dp\[audit\]"):
        action(report, tmp_path)


def shadow_world(examples=200, models=32, gap=1.0, seed=0):
    """Cross-entropies whose log odds are normal, higher by `gap` where an example was trained on.

    Examples differ in difficulty by much more than that.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(scale=3, size=examples)
    members = rng.permuted(np.tile(np.arange(models)[:, None] < models // 2, examples), axis=0)
    target = rng.random(examples) < 0.5

    def losses(inside):
        log_odds = difficulty + gap * inside + rng.normal(size=inside.shape)
        return np.logaddexp(0.0, -log_odds)  # -log of the probability with these log odds

    return losses(target), target, auditing.Shadows(losses(members), members)


def test_lira_attains_what_the_best_test_can_where_a_threshold_cannot():
    """The likelihood ratio of N(0, 1) and N(1, 1) has an area of Phi(1 / sqrt 2) = 0.76."""
    losses, members, shadows = shadow_world(2000, 64)
    threshold = auditing.membership_report(-losses, members).auc
    for online in (True, False):
        scores = auditing.lira_scores(losses, shadows, online=online)
        area = auditing.membership_report(scores, members, attack="LiRA").auc.value
        assert area == pytest.approx(norm.cdf(2**-0.5), abs=0.035)
        assert area > threshold.high


def test_lira_is_the_ratio_of_two_normal_densities():
    rng = np.random.default_rng(0)
    members = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], bool)
    losses = rng.random((4, 2))
    observed = rng.random(2)

    def spread(side):
        parts = [losses[side[:, i], i] for i in range(2)]
        squares = sum(((p - p.mean()) ** 2).sum() for p in parts)
        return [p.mean() for p in parts], (squares / sum(len(p) - 1 for p in parts)) ** 0.5

    (inside, in_std), (outside, out_std) = spread(members), spread(~members)
    expected = norm.logpdf(observed, inside, in_std) - norm.logpdf(observed, outside, out_std)
    shadows = auditing.Shadows(losses, members)
    np.testing.assert_allclose(auditing.lira_scores(observed, shadows, logit=False), expected)
    alone = auditing.lira_scores(observed, shadows, online=False, logit=False)
    np.testing.assert_allclose(alone, (outside - observed) / out_std)


@pytest.mark.parametrize("loss", [1e-30, 1e-8, 0.3, 50.0, 1e4])
def test_log_odds_of_extreme_losses_are_finite(loss):
    shadows = auditing.Shadows(np.full((4, 1), loss), np.array([[1], [0], [1], [0]], bool))
    assert np.isfinite(auditing.lira_scores([loss], shadows)).all()


def test_shadow_models_are_trained_on_halves_and_scored_on_all():
    x, y = tiny_data(40)
    seen = []

    def train(x, y):
        seen.append(len(x))
        model = keras.Sequential([keras.Input((4,)), L.Dense(3)])
        model.compile("sgd", loss="mse")
        model.fit(x, y, verbose=0)
        trained.append(model)
        return model

    trained = []
    shadows = auditing.train_shadows(train, x, y, models=6, seed=0)
    assert shadows.losses.shape == shadows.members.shape == (6, 40)
    np.testing.assert_array_equal(shadows.members.sum(0), 3)
    assert seen == list(shadows.members.sum(1))
    expected = np.mean((trained[2].predict(x, verbose=0) - y) ** 2, axis=-1)
    np.testing.assert_allclose(shadows.losses[2], expected, rtol=1e-5)
    again = auditing.train_shadows(train, x, y, models=6, seed=0)
    np.testing.assert_array_equal(again.members, shadows.members)


def test_losses_of_a_private_model_are_those_of_single_examples_without_regularizers():
    inputs = keras.Input((4,))
    hidden = L.Dropout(0.5)(L.Dense(5, kernel_regularizer="l2")(inputs))
    model = keras_dp.DPModel(inputs, L.Dense(3)(hidden))
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss=crossentropy())
    x = tiny_data(300)[0]
    y = np.arange(300) % 3
    logits = model.predict(x, verbose=0)
    expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(300), y]
    losses = auditing.example_losses(model, x, y)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)  # small ones lose digits


def test_too_few_shadow_models_and_shapes_that_do_not_fit_are_refused():
    members = np.array([[1, 1], [0, 0], [1, 0], [0, 0]], bool)
    shadows = auditing.Shadows(np.ones((4, 2)), members)
    with pytest.raises(
        ValueError, match=r"at least 2 shadow models trained with and without it.*1"
    ):
        auditing.lira_scores([1.0, 1.0], shadows)
    auditing.lira_scores([1.0, 1.0], shadows, online=False)
    with pytest.raises(ValueError, match=r"one entry for each example.*\(3,\), \(4, 2\)"):
        auditing.lira_scores([1.0, 1.0, 1.0], shadows)
    with pytest.raises(ValueError, match="Losses must be finite"):
        auditing.lira_scores([1.0, np.nan], shadows)
    with pytest.raises(ValueError, match="`models` must be at least 4"):
        auditing.train_shadows(lambda x, y: tiny(), *tiny_data(), models=3)
    with pytest.raises(ValueError, match="must be compiled with a loss"):
        auditing.example_losses(keras.Sequential([L.Dense(3)]), *tiny_data())
