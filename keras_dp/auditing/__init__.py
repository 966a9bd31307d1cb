"""Auditing: how much training really tells about single examples, beside what is claimed."""

from keras_dp.auditing.audit import audit
from keras_dp.auditing.bounds import Bound, Guesses, guess, lower_bound, one_run_p_value
from keras_dp.auditing.membership import (
    Estimate,
    MembershipReport,
    membership_report,
    most_tpr,
)
from keras_dp.auditing.report import AuditReport
from keras_dp.auditing.shadows import Shadows, example_losses, lira_scores, train_shadows
from keras_dp.auditing.tradeoff import Gaussian, GaussianFamily, Profile, gaussian_epsilon

__all__ = [
    "audit",
    "AuditReport",
    "lower_bound",
    "Bound",
    "Guesses",
    "guess",
    "one_run_p_value",
    "Gaussian",
    "GaussianFamily",
    "Profile",
    "gaussian_epsilon",
    "membership_report",
    "MembershipReport",
    "Estimate",
    "most_tpr",
    "example_losses",
    "train_shadows",
    "Shadows",
    "lira_scores",
]
