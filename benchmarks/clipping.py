"""What per-example clipping costs: time, memory and compilation relative to ordinary training.

    python benchmarks/clipping.py --out results
    python benchmarks/clipping.py --models mlp vit --rounds 2
    python benchmarks/clipping.py --torch-python torchenv/bin/python --tfp-python tfpenv/bin/python
    python benchmarks/clipping.py --backend torch --threads 1

Every model runs in one process with all methods in turn, round by round; times are medians, and
ratios are to the gradient of the mean loss of the same model in the same rounds. Neither side has
an optimizer. Before any timing, the clipped sums of all methods are compared. `--backend` chooses
Keras' backend, JAX by default; `clipping_jax.py` and `clipping_backends.py` say what runs on each
and which further options there are.
"""

import argparse
import os
import sys


def main(argv=None):
    """Choose the backend before anything imports Keras, and run its part."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], add_help=False, allow_abbrev=False
    )
    parser.add_argument("--backend", choices=("jax", "tensorflow", "torch"), default="jax")
    chosen, rest = parser.parse_known_args(argv)
    os.environ["KERAS_BACKEND"] = chosen.backend
    if chosen.backend == "jax":
        from clipping_jax import main as run
    else:
        from clipping_backends import main as run
    return run(rest)


if __name__ == "__main__":
    sys.exit(main())
