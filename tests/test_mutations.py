"""The suite catches the mistakes that would cost the guarantee.

Each case plants one mistake in a copy of the package and runs tests that must fail on it. The same
tests pass on the package as it is, in the ordinary run.
"""

import pytest

from tests import planting
from tests.planting import Mutation

CLIPPING = "tests/clipping/test_clipped_sum.py::"
SITES = "tests/backend/jax/clipping/jaxpr/rules/"
CLIP_RULES = "tests/clipping/test_clip_rules.py::"
FIT = "tests/training/test_fit.py::"
REFUSALS = "tests/training/test_refusals.py::"
SAMPLING = "tests/sampling/"
NOISE = "tests/noise/test_gaussian.py::"
JAX_NOISE = "tests/backend/jax/noise/"
NOISES = "tests/noise/"
EQUALS = "tests/training/test_equals_keras.py::"
SCHEMES = "tests/training/test_sampling_schemes.py::"
SHOWN = "tests/training/test_metrics_shown.py::"
SOLVERS = "tests/applications/solvers/"
WORST = SOLVERS + "test_sensitivity.py::"
RELEASED = NOISE + "test_an_update_releases_noise_of_the_promised_scale"
DIVISOR = FIT + "test_the_sum_is_divided_by_the_declared_batch_size_not_by_the_number_drawn"
LOW_PRECISION = "tests/backend/jax/clipping/test_low_precision.py"
LOSS_SCALE = "tests/backend/jax/clipping/test_loss_scale.py"
OTHERS_STAY = "::test_an_example_that_overflows_leaves_all_others_as_they_are_bit_for_bit"
MUTATIONS = {
    "clip removed": Mutation(
        "clip_rules/rules.py",
        "return clip_norm / ops.maximum(norms, clip_norm)",
        "return ops.ones_like(norms)",
        (CLIPPING + "test_a_linear_model_gives_the_published_clipped_gradient",),
    ),
    "norm of one variable left out": Mutation(
        "clip_rules/factors.py",
        "sum(squares, start=nothing)",
        "sum(squares[1:], start=nothing)",
        (EQUALS + "test_clipped_update_equals_the_loop_over_examples[False-sequential_mlp]",),
    ),
    "NaN examples let through": Mutation(
        "backend/jax/clipping/jaxpr/rules/base.py",
        "jnp.where(factors > 0, factors * rows, 0.0)",
        "factors * rows",
        (CLIPPING + "test_an_example_without_a_finite_norm_adds_nothing",),
    ),
    "NaN examples let through by the reference": Mutation(
        "backend/jax/clipping/reference.py",
        "jnp.where(used, grads, 0.0)",
        "grads",
        (CLIP_RULES + "test_an_example_that_is_not_finite_adds_nothing_under_any_rule",),
    ),
    "a loss scale left in norms": Mutation(
        "clip_rules/factors.py",
        "sum(squares, start=nothing)) / self.scales",
        "sum(squares, start=nothing))",
        (LOSS_SCALE,),
    ),
    "one loss scale for all examples": Mutation(
        "backend/jax/clipping/loss_scale.py",
        "jnp.where(again, scales / STEP, scales)",
        "jnp.where(jnp.any(again), scales / STEP, scales)",
        (LOSS_SCALE + OTHERS_STAY,),
    ),
    "sums rounded to the type of a weight's use": Mutation(
        "backend/jax/clipping/jaxpr/pieces.py",
        "if e.primitive is primitives.convert_element_type_p",
        "if False",
        (LOW_PRECISION,),
    ),
    "a weight of two regions taken for two weights": Mutation(
        "backend/jax/clipping/jaxpr/sites.py",
        "all(times[weight] == 1 for weight in users[equation])",
        "all(times[weight] < 9 for weight in users[equation])",
        (SITES + "test_regions.py::test_a_region_is_a_site_unless_another_site_reads_its_weights",),
    ),
    "a mask ignored": Mutation(
        "clip_rules/factors.py",
        "ops.logical_and(ops.isfinite(norms), real)",
        "ops.isfinite(norms)",
        (CLIPPING + "test_sum_and_norms_equal_the_loop_over_examples",),
    ),
    "a site dropped": Mutation(
        "backend/jax/clipping/jaxpr/sites.py",
        "        if weights and any(",
        "        if equation.name != 'gather' and weights and any(",
        (CLIPPING + "test_an_embedding_used_twice_adds_up_before_the_norm",),
    ),
    "a missing cross term": Mutation(
        "backend/jax/clipping/jaxpr/pieces.py",
        "total = total + 2 * _product(part, other, self.views)",
        "pass",
        (SITES + "test_embedding.py::test_a_table_that_is_the_output_projection_too_agrees",),
    ),
    "the norm of a derived instead of the true weight": Mutation(
        "backend/jax/clipping/jaxpr/pieces.py",
        "    if not all(part.value in views for part in parts):\n        return None\n",
        "    if len(parts) == 1:\n        return parts\n",
        (SITES + "test_elementwise_and_rest.py::test_an_operation_agrees",),
    ),
    "a wrong stride": Mutation(
        "backend/jax/clipping/jaxpr/rules/convolution.py",
        "cut(rows, [(0, (axis.out - 1) * axis.stride + 1, axis.stride) for axis in axes])",
        "cut(rows, [(0, axis.out, 1) for axis in axes])",
        (SITES + "test_convolution.py::test_a_kernel_of_one_pixel_agrees",),
    ),
    "a kernel offset read from the wrong side": Mutation(
        "backend/jax/clipping/jaxpr/rules/sliding.py",
        "starts = (at * axis.dilation for at in range(axis.kernel))",
        "starts = (at * axis.dilation for at in reversed(range(axis.kernel)))",
        (SITES + "test_convolution.py::test_a_named_setting_agrees",),
    ),
    "a norm lost to cancellation": Mutation(
        "backend/jax/clipping/jaxpr/rules/norms.py",
        "jnp.abs(total) + ROUNDING * apart",
        "total",
        (
            SITES
            + "test_bad_examples.py"
            + "::test_no_norm_is_too_small_where_positions_nearly_cancel",
        ),
    ),
    "noise that does not follow the clip rule": Mutation(
        "step.py",
        "mechanism.noise_multiplier * rule.sensitivity(clip_norm)",
        "mechanism.noise_multiplier * clip_norm",
        (
            CLIP_RULES
            + "test_the_noise_of_an_update_follows_the_rules_sensitivity[unit_norm-False]",
        ),
    ),
    "the noisy count of an adaptive clip norm for free": Mutation(
        "run.py",
        "return self.clip_rule.sum_noise_multiplier(left, batch_size)",
        "return left * (0.5 if self.clip_rule.name == 'adaptive' else 1.0)",
        (CLIP_RULES + "test_the_noise_of_an_update_follows_the_rules_sensitivity[adaptive-False]",),
    ),
    "padding counted": Mutation(
        "step.py",
        "valid = rows < microbatch.valid",
        "valid = rows >= 0",
        (
            DIVISOR,
            EQUALS + "test_the_cut_into_microbatches_changes_nothing",
        ),
    ),
    "noise halved": Mutation(
        "backend/jax/noise/gaussian.py", "+ scale * draw", "+ 0.5 * scale * draw", (RELEASED,)
    ),
    "noise in low precision": Mutation(
        "backend/jax/noise/gaussian.py",
        "normal(key, s, jnp.float32)",
        "normal(key, s, jnp.bfloat16)",
        (NOISE + "test_noise_is_normal_with_the_asked_standard_deviation",),
    ),
    "noise left out of an empty update": Mutation(
        "executor.py",
        "        sums = self._start(params)",
        "        sums = self._start(params)\n"
        "        pieces = list(pieces)\n"
        "        if not pieces:\n"
        "            return state",
        (FIT + "test_an_empty_draw_is_a_noisy_counted_update",),
    ),
    "noise key reused between variables": Mutation(
        "backend/jax/noise/gaussian.py",
        "np.array(members, np.uint32)",
        "np.zeros(len(members), np.uint32)",
        (NOISE + "test_noise_of_variables_updates_and_seeds_is_unrelated",),
    ),
    "noise key reused between updates": Mutation(
        "run.py",
        "noise.noise_key(self.seed, self.guard.ledger.updates, self.plan.noise)",
        "noise.noise_key(0, 0, self.plan.noise)",
        (RELEASED,),
    ),
    "noise key from a global seed": Mutation(
        "keys.py",
        "return secrets.token_bytes(size)",
        "import numpy\n        return numpy.random.bytes(size)",
        (NOISE + "test_without_a_seed_every_key_is_new_whatever_global_seeds_are_set",),
    ),
    "discrete noise halved": Mutation(
        "backend/jax/noise/discrete.py",
        "2**_STEPS / SIGMA",
        "2**_STEPS / (2 * SIGMA)",
        (JAX_NOISE + "test_discrete.py::test_noise_is_normal_with_the_asked_standard_deviation",),
    ),
    "discrete noise reused between chunks": Mutation(
        "backend/jax/noise/drawing.py",
        "chacha.blocks(key, block, (0, 0, 0))",
        "chacha.blocks(key, block % 2**13, (0, 0, 0))",
        (
            JAX_NOISE
            + "test_discrete.py::test_neighbours_parts_chunks_variables_and_updates_are_unrelated",
        ),
    ),
    "the same discrete noise for all parts of a weight": Mutation(
        "backend/jax/noise/drawing.py",
        "starts = starts + jnp.uint32(part.origin[axis] * strides[axis])",
        "starts = starts + jnp.uint32(0 * part.origin[axis])",
        (JAX_NOISE + "test_drawing.py",),
    ),
    "noise key of a solver reused between classes": Mutation(
        "applications/solvers/releasing.py",
        'f"{self.label}/{part}"',
        'f"{self.label}/0"',
        (SOLVERS + "test_noise.py::test_noise_of_classes_and_releases_is_unrelated",),
    ),
    "noise of a solver reused between its releases": Mutation(
        "applications/solvers/releasing.py",
        'noise.noise_key(self.seed, self.update, self.plan.noise, f"{self.label}/{part}")',
        'noise.noise_key(3, 1, self.plan.noise, f"{part}")',
        (SOLVERS + "test_noise.py::test_noise_of_classes_and_releases_is_unrelated",),
    ),
    "classes of a solver that share an example taken for apart": Mutation(
        "applications/solvers/newton.py",
        "bound = math.sqrt(classes) * self.clip_norm**2 / 4",
        "bound = self.clip_norm**2 / 4",
        (WORST + "test_the_worst_examples_reach_the_bounds_of_newton_in_every_class",),
    ),
    "gradients of a solver's classes taken for one": Mutation(
        "applications/solvers/newton.py",
        "bound = c * math.sqrt(float(np.sum(largest**2)))",
        "bound = c",
        (WORST + "test_the_worst_examples_reach_the_bounds_of_newton_in_every_class",),
    ),
    "features of a solver not clipped": Mutation(
        "applications/solvers/rows.py",
        "scaled_down(x, row_norms(x), clip_norm)",
        "x",
        (WORST + "test_the_worst_example_reaches_the_bounds_of_least_squares",),
    ),
    "gradients of a solver not clipped": Mutation(
        "applications/solvers/feature_covariance.py",
        "scaled_down(errors, norms, self.clip_norm)",
        "errors",
        (WORST + "test_the_worst_example_reaches_the_bounds_of_feature_covariance",),
    ),
    "a release of a solver not counted": Mutation(
        "applications/solvers/releasing.py",
        "        self._guard.admit(plan)\n",
        "",
        (SOLVERS + "test_budget.py::test_a_second_fit_counts_on_top_of_the_first",),
    ),
    "examples of one group of devices left out": Mutation(
        "backend/jax/mesh.py",
        "[jnp.sum(each, axis=0) for each in sums]",
        "[jnp.sum(each[1:], axis=0) for each in sums]",
        ("tests/mesh/test_training_on_meshes.py::test_one_batch_of_the_callers_is_spread_too",),
    ),
    "a padded example counted on a mesh": Mutation(
        "step.py",
        "added = contribution(shared, (examples, valid))",
        "added = contribution(shared, (examples, rows >= 0))",
        ("tests/mesh/test_training_on_meshes.py::test_one_batch_of_the_callers_is_spread_too",),
    ),
    "discrete noise added to a sum that is not rounded": Mutation(
        "backend/jax/noise/discrete.py",
        "return (high.astype(jnp.float32) * 2.0**_HALF + low.astype(jnp.float32)) * found.step",
        "return total + noise.astype(jnp.float32) * found.step",
        (NOISES + "test_attack.py::test_no_number_with_discrete_noise_rules_the_other_sum_out",),
    ),
    "the rounding to the lattice for free": Mutation(
        "plan.py",
        "return noise_multiplier / left",
        "return noise_multiplier",
        (NOISES + "test_training.py::test_the_mechanism_of_an_update_is_that_of_the_plan",),
    ),
    "noise for every microbatch": Mutation(
        "step.py",
        "    return [total + new for total, new in zip(sums, added, strict=True)], metrics",
        "    sums = [total + new for total, new in zip(sums, added, strict=True)]\n"
        "    sums = noise.add_noise(\n"
        "        sums, noise.noise_key(7, 0) ^ microbatch.offset.astype(np.uint32), 2 * clip_norm\n"
        "    )\n"
        "    return sums, metrics",
        (RELEASED,),
    ),
    "divided by the drawn batch": Mutation(
        "executor.py",
        "        batch = run.draw()",
        "        batch = run.draw()\n"
        "        import numpy\n"
        "        drawn = numpy.float32(max(1, len(batch.indices)))\n"
        "        mechanism = mechanism._replace(batch_size=drawn)",
        (DIVISOR,),
    ),
    "noise on the mean with the scale of the sum": Mutation(
        "step.py",
        "[total / mechanism.batch_size for total in noisy[:weights]]",
        "noisy[:weights]",
        (RELEASED,),
    ),
    "update not counted": Mutation(
        "executor.py",
        "        run.admit()\n",
        "",
        ("tests/training/test_fit.py",),
    ),
    "budget not asked": Mutation(
        "executor.py",
        "        run.admit()\n",
        "        run.guard.ledger.record(run.plan)\n",
        (
            "tests/training/test_budget.py::"
            "test_train_on_batch_stops_at_the_budget_and_leaves_the_weights",
        ),
    ),
    "a new Poisson draw for every microbatch": Mutation(
        "run.py",
        "padded = _pad(rows, -(-len(rows) // size) * size)",
        "padded = np.concatenate(\n"
        "                [np.random.permutation(self.plan.dataset_size)[:size]\n"
        "                 for _ in range(-(-len(rows) // size))])",
        (FIT + "test_every_example_enters_an_update_once_at_most",),
    ),
    "an epoch that was begun not paid for": Mutation(
        "accounting/events.py",
        "return -(-updates // int(plan.updates_per_epoch or 1))",
        "return max(1, updates // int(plan.updates_per_epoch or 1))",
        (
            "tests/accounting/test_balls_in_bins.py::"
            "test_an_epoch_that_was_begun_counts_as_a_whole_one",
        ),
    ),
    "an epoch that goes on in another fit": Mutation(
        "run.py",
        "            self.guard.ledger.close()",
        "            pass",
        (SCHEMES + "test_a_second_fit_begins_a_new_epoch_and_pays_for_it",),
    ),
    "balls thrown anew for every update": Mutation(
        "run.py",
        "            self.drawn = deque(batches)",
        "            self.drawn = deque(batches[:1])",
        (SCHEMES + "test_each_example_enters_one_update_of_an_epoch",),
    ),
    "a ledger on disk written after the count": Mutation(
        "accounting/ledger.py",
        "        if self._writer is not None:\n"
        "            self._writer.counted(updates)\n"
        "        self._counts[self._open] = updates\n"
        "        self._updates += 1",
        "        self._counts[self._open] = updates\n"
        "        self._updates += 1\n"
        "        if self._writer is not None:\n"
        "            self._writer.counted(updates)",
        (
            "tests/accounting/test_ledger_file.py::"
            "test_a_full_disk_refuses_the_update_and_leaves_a_sound_file",
        ),
    ),
    "private metrics not charged": Mutation(
        "run.py",
        "            left = self.private_metrics.left_for_gradients(left, batch_size)",
        "            pass",
        (SHOWN + "test_gradients_get_more_noise_so_that_both_cost_what_is_stated",),
    ),
    "private metrics that are not cut to their bounds": Mutation(
        "backend/jax/measuring.py",
        "jnp.clip(rows, low, high)",
        "rows",
        (SHOWN + "test_one_example_moves_the_sums_by_at_most_half_each",),
    ),
    "one dropout mask for all examples": Mutation(
        "backend/jax/example.py",
        "if own_seeds:",
        "if False:",
        (FIT + "test_dropout_masks_differ_between_examples_and_updates",),
    ),
    "data flowing into state is not noticed": Mutation(
        "backend/jax/state.py",
        "for i, out in enumerate(program.outputs[1:]) if out in tainted)",
        "for i, out in enumerate(program.outputs[1:]) if False)",
        (REFUSALS + "test_state_that_takes_up_data_is_refused_by_the_layers_name",),
    ),
    "the regularizer inside the clip": Mutation(
        "training.py",
        "return [] if self._one_example else self.regularization_losses()",
        "return self.regularization_losses()",
        (EQUALS + "test_update_without_clip_and_noise_equals_keras[functional_cnn-SGD]",),
    ),
    "rows of other examples": Mutation(
        "sampling/examples.py",
        "leaf[places]",
        "leaf[::-1][places]",
        (SAMPLING + "test_examples.py",),
    ),
    "rows of other batches": Mutation(
        "sampling/py_dataset.py",
        "if kept and kept[0] == n else",
        "if kept else",
        (SAMPLING + "test_py_dataset.py",),
    ),
    "preprocessing that mixes examples": Mutation(
        "sampling/preprocessing.py",
        "        return together\n",
        "        return True\n",
        (SAMPLING + "test_preprocessing.py::test_another_example_changes_no_row",),
    ),
    "an example in several updates of a pass of a stream": Mutation(
        "sampling/stream_source.py",
        "            self._check_length()\n",
        "",
        (SAMPLING + "test_stream.py",),
    ),
    "more examples in a pass of a stream than stated": Mutation(
        "sampling/stream_source.py",
        "self._seen > self.size",
        "False",
        (SAMPLING + "test_stream.py",),
    ),
    "a stream taken for random draws": Mutation(
        "sampling/kinds.py",
        "        sampler = _checked_sampler(x, sampler)\n",
        "        from keras_dp.sampling.stream import Stream\n"
        "        sampler = Stream(dataset_size=40, updates_per_epoch=5)\n",
        (SAMPLING + "test_kinds.py",),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_suite_catches(name, tmp_path):
    planting.check_caught(MUTATIONS[name], tmp_path)
