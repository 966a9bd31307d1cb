"""A page about the last run of the zoo."""

import platform

import jax
import keras

from tests.zoo.backbones_hub import LEFT_OUT

MODELS = "models"
BACKBONES = "backbones"


def note(record_property, group, name, kinds=()):
    """Record that a test began; fill the returned entry once there are errors to tell."""
    entry = {"group": group, "name": name, "kinds": list(kinds)}
    record_property("zoo", entry)
    return entry


def _number(entry, key, form):
    return format(entry[key], form) if key in entry else "−"


def _largest(entries, key):
    values = [entry[key] for entry in entries if key in entry]
    return f"{max(values):.1e}" if values else "−"


def _models(entries):
    kinds = sorted({kind for entry in entries for kind in entry["kinds"]})
    failed = [entry["name"] for entry in entries if not entry["passed"]]
    return [
        f"- {len(entries)} random models, of which {len(failed)} failed"
        + (f": {', '.join(failed)}" if failed else ""),
        f"- largest relative error of a norm: {_largest(entries, 'norms')}",
        f"- largest error of a gradient, relative to the largest entry: "
        f"{_largest(entries, 'grads')}",
        f"- {len(kinds)} kinds of layer: {', '.join(kinds)}",
        "",
    ]


def _backbones(entries):
    rows = [
        f"| {entry['name']} | {'equal' if entry['passed'] else '**failed**'} "
        f"| {_number(entry, 'norms', '.1e')} | {_number(entry, 'grads', '.1e')} "
        f"| {_number(entry, 'seconds', '.1f')} |"
        for entry in sorted(entries, key=lambda entry: entry["name"])
    ]
    head = (
        "| backbone | result | error of norms | error of gradients | seconds to compile and run |"
    )
    return [head, "|---|---|---:|---:|---:|", *rows, ""] if rows else []


def _left_out():
    lines = [f"- {name}: {reason}" for name, reason in LEFT_OUT.items()]
    return ["Left out, with the reason:", "", *lines, ""] if lines else []


def markdown(results):
    """Return the page for a list of entries, each with whether its test passed."""
    groups = {
        group: [entry for entry in results if entry["group"] == group]
        for group in (MODELS, BACKBONES)
    }
    return "\n".join(
        [
            "# The zoo: the clipped sum against the loop over examples",
            "",
            f"JAX {jax.__version__}, Keras {keras.__version__}, "
            f"Python {platform.python_version()}.",
            "",
            *_models(groups[MODELS]),
            *_backbones(groups[BACKBONES]),
            *_left_out(),
        ]
    )
