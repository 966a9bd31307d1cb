"""What the compiled pieces of an update hold: collectives between devices, and shapes."""

import re

import numpy as np

from keras_dp import backend

KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
COLLECTIVE = re.compile(rf" = (?P<shape>.+?) (?P<kind>{KINDS})(?:-start)?\(.*")
PAIRS = re.compile(r"source_target_pairs=\{(.*?)\}\}")
LISTED = re.compile(r"replica_groups=\{(\{.*?\})\}")
COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(
    r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}"
)


def compiled_texts(monkeypatch, train):
    """Return the optimised HLO of every function that training compiles, by name."""
    texts, original = {}, backend.compile_function

    def spied(function, **settings):
        made = original(function, **settings)
        name = getattr(function, "func", function).__name__

        def called(*arguments):
            if name not in texts:
                texts[name] = made.lower(*arguments).compile().as_text()
            return made(*arguments)

        return called

    monkeypatch.setattr(backend, "compile_function", spied)
    train()
    return texts


def collectives(text):
    """Return (kind, shape, groups of devices that talk) for every collective."""
    return [
        (found["kind"], found["shape"], groups(found[0]))
        for found in map(COLLECTIVE.search, text.splitlines())
        if found
    ]


def groups(line):
    """Return the groups of devices that a collective joins, however HLO writes them."""
    if found := PAIRS.search(line):
        return [tuple(numbers(pair)) for pair in (found[1] + "}").split("},{")]
    if found := LISTED.search(line):
        return [tuple(numbers(group)) for group in found[1].split("},{")]
    if found := COUNTED.search(line):
        shape, order = numbers(found[1]), numbers(found[2])
        devices = np.arange(np.prod(order)).reshape(order)
        if found[3]:
            devices = devices.transpose(numbers(found[3]))
        return [tuple(group) for group in devices.reshape(shape).tolist()]
    found = NAMED.search(line)
    axes = dict(pair.split("=") for pair in found[1].replace("'", "").split(","))
    sizes = [int(size) for size in axes.values()]
    devices = np.arange(np.prod(sizes))
    if found[2]:
        devices = devices.reshape(numbers(found[2]))
    if found[3]:
        devices = devices.transpose(numbers(found[3]))
    devices = devices.reshape(sizes)
    joined = [list(axes).index(name.strip(" '")) for name in found[4].split(",")]
    devices = np.moveaxis(devices, joined, range(-len(joined), 0))
    size = int(np.prod([sizes[axis] for axis in joined]))
    return [tuple(group) for group in devices.reshape(-1, size).tolist()]


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]
