"""Book-keeping on the jaxpr: see README.md."""
