"""The contract catches the mistakes that would cost the guarantee, planted where no backend is.

Each case plants one mistake in a copy of the package and runs a test that must fail on it.
"""

import pytest

from tests import planting
from tests.planting import Mutation

FOLDER = "tests/contract/"
LEDGER = FOLDER + "test_ledger.py::"
REFUSALS = FOLDER + "test_refusals.py::"
RELEASED = FOLDER + "test_noise.py::test_an_update_releases_noise_of_the_promised_scale_once"
MUTATIONS = {
    "clip removed": Mutation(
        "clip_rules/rules.py",
        "return clip_norm / ops.maximum(norms, clip_norm)",
        "return ops.ones_like(norms)",
        (FOLDER + "test_update.py::test_one_example_moves_the_sum_by_the_clip_norm_at_most",),
    ),
    "padding counted": Mutation(
        "step.py",
        "valid = rows < microbatch.valid",
        "valid = rows >= 0",
        (FOLDER + "test_update.py::test_every_clip_rule_scales_by_its_formula[flat]",),
    ),
    "half the noise": Mutation(
        "step.py",
        "mechanism.noise_multiplier * rule.sensitivity(clip_norm)",
        "0.5 * mechanism.noise_multiplier * rule.sensitivity(clip_norm)",
        (RELEASED + "[gaussian-64]",),
    ),
    "noise for every microbatch": Mutation(
        "step.py",
        "    return [total + new for total, new in zip(sums, added, strict=True)], metrics",
        "    added = noise.add_noise(added, noise.noise_key(None, 0), 1.0)\n"
        "    return [total + new for total, new in zip(sums, added, strict=True)], metrics",
        (RELEASED + "[gaussian-4]",),
    ),
    "one key for all updates": Mutation(
        "run.py",
        "noise.noise_key(self.seed, self.guard.ledger.updates, self.plan.noise)",
        "noise.noise_key(0, 0, self.plan.noise)",
        (RELEASED + "[gaussian-64]",),
    ),
    "an update not counted": Mutation(
        "executor.py",
        "        run.admit()\n",
        "",
        (LEDGER + "test_updates_are_counted_whatever_their_microbatches_and_methods",),
    ),
    "data flowing into state let through": Mutation(
        "training.py",
        "        planning.check_state(self, traced.data_dependent)\n",
        "",
        (REFUSALS + "test_batch_normalization_called_with_training_false_is_refused_too",),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_contract_catches(name, tmp_path):
    planting.check_caught(MUTATIONS[name], tmp_path)
