"""The commands of `keras-dp`: each returns what is to be printed and the exit code."""
