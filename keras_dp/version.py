"""The version, said once: the build, `keras_dp.__version__` and the changelog follow it."""

__version__ = "0.1.0"
