"""Convolutions: every example's kernel gradient, one product for each offset in the kernel."""

import itertools
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_dp.backend.tensorflow.clipping.contributions import Contribution, Factored, Written
from keras_dp.backend.tensorflow.clipping.flow import Site
from keras_dp.backend.tensorflow.clipping.rules.base import Rule, rule_for

FEW_CHANNELS = 16
"""With fewer input channels, patches are cheaper than a product for each offset."""


@dataclass(frozen=True)
class Window:
    """Where the kernel of a convolution lies on its image, channels last.

    Attributes:
        kernel: Height, width and so on of the kernel.
        strides: Steps between outputs.
        dilations: Steps between the kernel's entries.
        before: Zeros in front of the image, along each axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]

    @classmethod
    def of(cls, op: Any, kernel: Any, image: Any, output: Any) -> "Window | None":
        """Read a convolution's window, `None` where channels come first."""
        if not op.get_attr("data_format").decode().endswith("C"):
            return None
        axes = len(kernel) - 2
        size = tuple(kernel[:axes])
        strides = tuple(op.get_attr("strides")[1:-1])
        dilations = tuple(op.get_attr("dilations")[1:-1])
        padding = op.get_attr("padding").decode()
        if padding == "EXPLICIT":
            before = tuple(op.get_attr("explicit_paddings")[2:-2:2])
        elif padding == "VALID":
            before = (0,) * axes
        else:
            reach = _reach(output[1:-1], size, strides, dilations)
            before = tuple(max(r - n, 0) // 2 for r, n in zip(reach, image[1:-1], strict=True))
        return cls(size, strides, dilations, before)

    def slices(self, images: Any, outputs: Any) -> list[Any]:
        """Return, for each of the kernel's entries in order, what it is multiplied with.

        Where outputs are more than one step apart, images are first split into those of every
        first, second, ... row and column: TensorFlow is slow to take every second number.

        Args:
            images: Shape `(images, height, width, channels)`, or with more or fewer such axes.
            outputs: Shape `(images, height, width, filters)`.
        """
        sizes = tuple(outputs.shape[1:-1])
        phases = self._phases(images, sizes)
        found = []
        for entry in itertools.product(*map(range, self.kernel)):
            steps = [o * d for o, d in zip(entry, self.dilations, strict=True)]
            phase = tuple(p % s for p, s in zip(steps, self.strides, strict=True))
            begin = [p // s for p, s in zip(steps, self.strides, strict=True)]
            found.append(tf.slice(phases[phase], (0, *begin, 0), (-1, *sizes, -1)))
        return found

    def _phases(self, images: Any, sizes: tuple[int, ...]) -> dict[tuple[int, ...], Any]:
        """Pad the images, and split them by what their places leave when divided by the strides."""
        reach = _reach(sizes, self.kernel, self.strides, self.dilations)
        wanted = [-(-r // s) * s for r, s in zip(reach, self.strides, strict=True)]
        each = zip(wanted, images.shape[1:-1], self.before, strict=True)
        around = [(b, max(w - n - b, 0)) for w, n, b in each]
        if any(map(any, around)):
            images = tf.pad(images, [(0, 0), *around, (0, 0)])
        if set(self.strides) == {1}:
            return {(0,) * len(sizes): images}
        count, channels, axes = images.shape[0], images.shape[-1], len(sizes)
        images = tf.slice(images, [0] * (axes + 2), (count, *wanted, channels))
        split = [n for w, s in zip(wanted, self.strides, strict=True) for n in (w // s, s)]
        order = (*range(2, 2 * axes + 1, 2), 0, *range(1, 2 * axes, 2), 2 * axes + 1)
        parts = tf.transpose(tf.reshape(images, (count, *split, channels)), order)
        return {phase: parts[phase] for phase in itertools.product(*map(range, self.strides))}


def _reach(
    outputs: Any, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> list[int]:
    """Return how many of the padded image's entries the outputs look at, along each axis."""
    each = zip(outputs, kernel, strides, dilations, strict=True)
    return [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in each]


@rule_for("Conv2D", "Conv3D")
def _convolution(site: Site) -> Rule | None:
    """`y = x * w`."""
    image, kernel = site.op.inputs
    window = Window.of(site.op, kernel.shape, image.shape, site.op.outputs[0].shape)
    if site.index != 1 or window is None:
        return None
    return Rule("convolution", (image,), _Kernels(window, tuple(kernel.shape)))


@rule_for("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def _transposed_convolution(site: Site) -> Rule | None:
    """The transposed convolution: image and output change places."""
    _, kernel, x = site.op.inputs
    window = Window.of(site.op, kernel.shape, site.op.outputs[0].shape, x.shape)
    if site.index != 1 or window is None:
        return None
    gradients = _Kernels(window, tuple(kernel.shape))
    return Rule("convolution", (x,), lambda cotangents, x: gradients(x, cotangents))


@rule_for("DepthwiseConv2dNative")
def _depthwise(site: Site) -> Rule | None:
    """Each channel by itself: products with the cotangents, summed over the positions."""
    image, kernel = site.op.inputs
    window = Window.of(site.op, kernel.shape, image.shape, site.op.outputs[0].shape)
    if site.index != 1 or window is None:
        return None
    shape = tuple(kernel.shape)

    def contribution(outputs: Any, images: Any) -> Written:
        examples, (images, outputs) = int(images.shape[0]), map(_images, (images, outputs))
        if shape[3] == 1:
            sums = [
                tf.reduce_sum(each * outputs, (1, 2)) for each in window.slices(images, outputs)
            ]
        else:
            slices = window.slices(images, outputs)
            outputs = tf.reshape(outputs, (*outputs.shape[:-1], *shape[2:]))
            sums = [tf.reduce_sum(each[..., None] * outputs, (1, 2)) for each in slices]
        gradients = tf.reshape(tf.stack(sums, 1), (examples, -1, *shape))
        return Written(tf.reduce_sum(gradients, 1))

    return Rule("depthwise", (image,), contribution)


@dataclass(frozen=True)
class _Kernels:
    """Computes every example's kernel gradient from the outputs' cotangents and the images."""

    window: Window
    shape: tuple[int, ...]

    def __call__(self, outputs: Any, images: Any) -> Contribution:
        examples, (images, outputs) = int(images.shape[0]), map(_images, (images, outputs))
        channels, filters = self.shape[-2:]
        groups = int(images.shape[-1]) // channels
        slices = self.window.slices(images, outputs)
        if groups > 1:
            return self._by_group(examples, slices, outputs, groups)
        columns = tf.reshape(outputs, (examples, -1, filters))
        if channels < FEW_CHANNELS or len(slices) == 1:
            patches = slices[0] if len(slices) == 1 else tf.concat(slices, -1)
            size = len(slices) * channels
            rows = tf.reshape(patches, (examples, -1, size))
            return Factored(rows, columns, (size, filters), self.shape)
        gradients = [
            tf.matmul(tf.reshape(each, (examples, -1, channels)), columns, transpose_a=True)
            for each in slices
        ]
        return Written(tf.reshape(tf.stack(gradients, 1), (examples, *self.shape)))

    def _by_group(self, examples: int, slices: list[Any], outputs: Any, groups: int) -> Written:
        channels, filters = self.shape[-2:]
        columns = tf.reshape(outputs, (examples, -1, groups, filters // groups))
        rows = (tf.reshape(each, (examples, -1, groups, channels)) for each in slices)
        gradients = [tf.einsum("btgc,btgn->bcgn", each, columns) for each in rows]
        return Written(tf.reshape(tf.stack(gradients, 1), (examples, *self.shape)))


def _images(batches: Any) -> Any:
    """Put the images of all examples in one axis; an example may have several."""
    return tf.reshape(batches, (-1, *batches.shape[2:]))
