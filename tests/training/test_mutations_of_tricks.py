"""The suite catches mistakes in augmentation and in what optimizers are told about noise."""

import pytest

from tests import planting
from tests.planting import Mutation

AUGMENTATION = "tests/training/test_augmentation.py::"
AVERAGE = AUGMENTATION + "test_an_update_equals_the_explicit_average[function]"
VARIANCE = "tests/optimizers/test_adam_bc.py::test_the_variance_"
MUTATIONS = {
    "the losses of views added up": Mutation(
        "backend/jax/example.py",
        'return jnp.mean(losses), {**first, "metrics": changes}',
        'return jnp.sum(losses), {**first, "metrics": changes}',
        (AVERAGE,),
    ),
    "only one view trained on": Mutation(
        "backend/jax/example.py",
        'return jnp.mean(losses), {**first, "metrics": changes}',
        'return losses[0], {**first, "metrics": changes}',
        (AVERAGE,),
    ),
    "every view clipped by itself": Mutation(
        "step.py",
        "    clipped = backend.clip_examples(\n"
        "        model, params, non_trainable, metrics, examples, valid, clip_norm\n"
        "    )\n",
        "    import jax\n"
        "    flat = jax.tree.map(\n"
        "        lambda a: jax.numpy.repeat(a, augmentation.count, 0),\n"
        '        {k: v for k, v in examples.items() if k != "x"},\n'
        "    )\n"
        '    x = examples["x"].reshape(-1, 1, *examples["x"].shape[2:])\n'
        "    mask = jax.numpy.repeat(valid, augmentation.count)\n"
        "    count, augmentation.count = augmentation.count, 1\n"
        "    clipped = backend.clip_examples(\n"
        '        model, params, non_trainable, metrics, {**flat, "x": x}, mask, clip_norm\n'
        "    )\n"
        "    augmentation.count = count\n"
        "    first = jax.tree.map(lambda a: a[::count], (clipped.losses, clipped.aux))\n"
        "    grads = [g / count for g in clipped.grads]\n"
        "    clipped = clipped._replace(grads=grads, losses=first[0], aux=first[1])\n",
        (AVERAGE,),
    ),
    "the same views for all examples": Mutation(
        "backend/jax/augmenting.py",
        "own = jax.random.fold_in(root, position)",
        "own = jax.random.fold_in(root, 0 * position)",
        (AUGMENTATION + "test_views_are_of_their_own_example_view_and_update",),
    ),
    "one dropout mask for all views": Mutation(
        "backend/jax/example.py",
        "own = _own_randomness(model, state, number) if own_seeds else state",
        "own = state",
        (AUGMENTATION + "test_dropout_masks_differ_between_views",),
    ),
    "a variance that does not follow the batch": Mutation(
        "step.py",
        "stddev / mechanism.batch_size\n",
        "stddev / 20.0\n",
        (VARIANCE + "is_that_of_the_noise_of_each_update[flat-gaussian-2.0]",),
    ),
    "a variance that does not follow the clip norm": Mutation(
        "step.py",
        "stddev / mechanism.batch_size\n",
        "mechanism.noise_multiplier * mechanism.clip_norm / mechanism.batch_size\n",
        (VARIANCE + "follows_an_adaptive_clip_norm_and_calibrated_noise",),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_suite_catches(name, tmp_path):
    planting.check_caught(MUTATIONS[name], tmp_path)
