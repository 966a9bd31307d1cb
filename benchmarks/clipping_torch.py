"""Opacus against ordinary PyTorch: the part of the clipping benchmark for its own environment.

Started by `clipping.py --torch-python`; needs torch and opacus. Prints JSON on the last line.
Steps compute a gradient of the mean loss, or a clipped sum of gradients; nothing is updated.
"""

from itertools import pairwise

import clipping_timing
import opacus
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.layers import DPLSTM
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn

CLIP_NORM = 1.0
TOLERANCE = 1e-3  # Opacus' norms of millions of entries lose digits in float32
SEED = 20


class WideBlock(nn.Module):
    """A residual block: activation, normalisation, convolution, twice."""

    def __init__(self, inputs, filters, strides, first):
        super().__init__()
        self.body = nn.Sequential(
            *_before(inputs, filters, 3, strides), *_before(filters, filters, 3, 1)
        )
        shortcut = _before(inputs, filters, 1, strides) if first else [nn.Identity()]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x):
        return self.shortcut(x) + self.body(x)


def _before(inputs, filters, kernel, strides):
    convolution = nn.Conv2d(inputs, filters, kernel, strides, padding=kernel // 2)
    return [nn.ReLU(), nn.GroupNorm(16, inputs), convolution]


class Recurrent(nn.Module):
    """An LSTM and a dense layer on its last state."""

    def __init__(self, layer):
        super().__init__()
        self.lstm = layer(128, 128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def mlp():
    """As `clipping_models.mlp`."""
    sizes = (784, 1024, 1024, 1024)
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(1024, 10))


def wrn16_2():
    """As `clipping_models.wide_resnet(16, 2)`."""
    parts, inputs = [nn.Conv2d(3, 16, 3, padding=1)], 16
    for stage, filters in enumerate((32, 64, 128)):
        parts.append(WideBlock(inputs, filters, 2 if stage else 1, first=True))
        parts.append(WideBlock(filters, filters, 1, first=False))
        inputs = filters
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*parts, nn.ReLU(), nn.GroupNorm(16, 128), pool, nn.Linear(128, 10))


def section_d():
    """As `keras_dp.applications.TanhCNN`."""
    first = [nn.ZeroPad2d(2), nn.Conv2d(1, 16, 8, 2), nn.Tanh(), nn.MaxPool2d(2, 1)]
    second = [nn.Conv2d(16, 32, 4, 2), nn.Tanh(), nn.MaxPool2d(2, 1), nn.Flatten()]
    return nn.Sequential(*first, *second, nn.Linear(512, 32), nn.Tanh(), nn.Linear(32, 10))


MODELS = {  # name: ordinary model, the model for Opacus, shape of a batch, classes
    "mlp": (mlp, mlp, (256, 784), 10),
    "wrn16_2": (wrn16_2, wrn16_2, (64, 3, 32, 32), 10),
    "lstm": (lambda: Recurrent(nn.LSTM), lambda: Recurrent(DPLSTM), (64, 64, 128), 10),
    "head": (lambda: nn.Linear(2048, 1000), lambda: nn.Linear(2048, 1000), (1024, 2048), 1000),
    "section_d": (section_d, section_d, (256, 1, 28, 28), 10),
}


def ordinary_step(model, x, y):
    """Gradient of the mean loss."""
    loss = nn.CrossEntropyLoss()

    def step():
        model.zero_grad()
        loss(model(x), y).backward()

    return step


def hooks_step(model, x, y):
    """Per-example gradients by hooks, clipped and summed."""
    private = GradSampleModule(model)
    optimizer = DPOptimizer(_plain(model), expected_batch_size=len(x), **_settings())
    loss = nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad()
        loss(private(x), y).backward()
        optimizer.clip_and_accumulate()
        return [p.summed_grad for p in model.parameters()]

    return step


def ghost_step(model, x, y):
    """Per-example norms without the gradients, then a second backward pass."""
    private = GradSampleModuleFastGradientClipping(
        model, max_grad_norm=CLIP_NORM, use_ghost_clipping=True
    )
    optimizer = DPOptimizerFastGradientClipping(
        _plain(model), expected_batch_size=len(x), **_settings()
    )
    loss = DPLossFastGradientClipping(private, optimizer, nn.CrossEntropyLoss())

    def step():
        optimizer.zero_grad()
        loss(private(x), y).backward()
        optimizer.accumulate()
        return [p.summed_grad for p in model.parameters()]

    return step


def _plain(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def _settings():
    return {"noise_multiplier": 0.0, "max_grad_norm": CLIP_NORM}


METHODS = {"ordinary": ordinary_step, "opacus_hooks": hooks_step, "opacus_ghost": ghost_step}


def difference(result, reference):
    """Relative difference of two clipped sums, all leaves together."""
    pairs = list(zip(result, reference, strict=True))
    error = sum(float((a - b).square().sum()) for a, b in pairs)
    return (error / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5


def make_steps(name):
    """The steps of a model, warmed up, and the status of those that do not work."""
    ordinary, private, shape, classes = MODELS[name]
    steps, failed, reference = {}, {}, None
    for method, make in METHODS.items():
        torch.manual_seed(SEED)
        model = ordinary() if method == "ordinary" else private()
        x, y = torch.randn(shape), torch.randint(classes, shape[:1])
        try:
            step = make(model, x, y)
            result = step()
        except (NotImplementedError, RuntimeError, ValueError, AttributeError) as error:
            failed[method] = {"status": "failed", "message": str(error)[:300]}
            continue
        reference = reference or result
        error = difference(result, reference) if result else 0.0
        if not error <= TOLERANCE:
            failed[method] = {"status": "disagrees", "difference": error}
            continue
        steps[method] = step
    return steps, failed


def main(argv=None):
    """Measure the chosen models and print JSON."""
    versions = {"torch": torch.__version__, "opacus": opacus.__version__}
    description = __doc__.splitlines()[0]
    clipping_timing.run(
        argv, description, MODELS, make_steps, lambda name: MODELS[name][2][0], versions
    )


if __name__ == "__main__":
    main()
