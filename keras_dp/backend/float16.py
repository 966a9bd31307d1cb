"""Where the scale of losses begins whose gradients are computed in float16."""

FLOAT16_SCALE = 2.0**8
"""The scale that gradients in float16 start from.

An example's loss is not divided by the batch, so this does what 2^16 does in a batch of 256.
"""
