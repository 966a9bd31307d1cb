"""A model built anew without BatchNormalization, layer by layer, with its weights."""

import tempfile
from typing import Any

import keras

from keras_dp.applications.batch_norm import fresh, slots
from keras_dp.applications.batch_norm.kinds import KINDS, value_of
from keras_dp.applications.batch_norm.rebuilt import RebuiltLayer, RebuiltModel, RebuiltNetwork
from keras_dp.applications.batch_norm.report import ReplacedLayer
from keras_dp.applications.batch_norm.settings import Settings
from keras_dp.model import DPModel, Functional

BatchNorm = keras.layers.BatchNormalization


class Conversion:
    """Converts the layers of one model; shared layers are converted once.

    Graphs (functional models, stacks) are put together again from converted layers. Any other layer
    that holds BatchNormalization is made again from its configuration, and the ones in its
    attributes are exchanged. Nothing of the original is changed.

    Args:
        settings: How to replace.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._kind = KINDS[settings.by]
        self._made: dict[int, Any] = {}
        self._spare: list[Any] = []  # made by the classes of networks
        self._pairs: list[tuple[Any, Any, str]] = []  # a layer comes after those it holds
        self._exchanged: list[tuple[Any, Any, str]] = []

    def run(self, model: Any) -> Any:
        """Return the new model, with the weights and `trainable` flags of the original."""
        new = self._converted(model, "")
        self._carry_weights()
        self._carry_flags()
        return new

    def rows(self) -> list[ReplacedLayer]:
        """Return what became of each BatchNormalization."""
        return [self._row(*exchange) for exchange in self._exchanged]

    def _converted(self, old: Any, path: str) -> Any:
        """Return what takes the place of a layer, the same one each time."""
        if id(old) not in self._made:
            self._made[id(old)] = self._convert(old, path)
        return self._made[id(old)]

    def _convert(self, old: Any, path: str) -> Any:
        if not isinstance(old, keras.layers.Layer):
            return self._again(old, path)
        if isinstance(old, BatchNorm):
            return self._replacement(old, path)
        if _is_stack(old) and (has_batch_norm(old) or type(old) is keras.Sequential):
            return self._own(old, self._paired(old, self._stack(old, path), path), path)
        if fresh.is_graph(old) and (has_batch_norm(old) or fresh.is_plain_graph(old)):
            return self._paired(old, self._network(old, path), path)
        return self._object(old, path)

    def _replacement(self, old: Any, path: str) -> Any:
        if type(old).call is not BatchNorm.call:
            raise ValueError(
                f"Layer {_place(path, old)} cannot be replaced: its class {type(old).__name__} "
                "derives from BatchNormalization with a `call` of its own. Replace it by hand."
            )
        try:
            new = self._kind.make(old, self.settings.groups)
            if self.settings.trainable is not None:
                new.trainable = self.settings.trainable
            if old.built:
                new.build(old.get_build_config()["input_shape"])
        except ValueError as error:
            raise ValueError(f"Layer {_place(path, old)} cannot be replaced. {error}") from error
        self._exchanged.append((old, new, path))
        return new

    def _stack(self, old: Any, path: str) -> Any:
        layers = [self._converted(layer, _join(path, layer.name)) for layer in old.layers]
        first = old._layers[:1]
        starts = isinstance(first[0], keras.layers.InputLayer) if first else False
        inputs = [_input_like(first[0].output)] if starts else []
        return keras.Sequential([*inputs, *layers], name=old.name)

    def _network(self, old: Any, path: str) -> Any:
        plain, remade = fresh.is_plain_graph(old), None
        if not plain:
            _refuse_private(old, path)
            remade = fresh.remade(old, path)
        if remade is not None:
            self._spare.extend(fresh.operations(remade))
        graph = keras.Model(old.input, old.output, name=old.name)
        graph = keras.models.clone_model(
            graph,
            input_tensors=keras.tree.map_structure(_input_like, graph.input),
            clone_function=lambda layer: self._converted(layer, _join(path, layer.name)),
        )
        if remade is not None:
            return RebuiltNetwork(graph.input, graph.output, original=old, settings=self.settings)
        if plain and type(old) is not Functional:
            return type(old)(graph.input, graph.output, name=old.name)
        return graph  # also where the class cannot make its own model again

    def _again(self, old: Any, path: str) -> Any:
        """Return a layer or operation made again, by the class of its network if that names it."""
        named = [spare for spare in self._spare if spare.name == old.name]
        like = [spare for spare in named if fresh.is_alike(old, spare)]
        if not like:
            try:
                return fresh.copy(old, path)
            except ValueError:
                like = [s for s in self._spare if fresh.is_alike(old, s, configuration=True)]
                if not like:
                    raise
        new = like[0]
        self._spare = [spare for spare in self._spare if spare is not new]
        new._inbound_nodes.clear()  # it leaves the graph that it was made in
        new._outbound_nodes.clear()
        return new

    def _object(self, old: Any, path: str) -> Any:
        new = self._again(old, path)
        self._pair_parts(old, new, path)
        return self._own(old, new, path) if has_batch_norm(old) else new

    def _own(self, old: Any, new: Any, path: str) -> Any:
        """Return `new` in a form whose configuration does not bring BatchNormalization back."""
        if type(old) is keras.Sequential or fresh.remembers(new, BatchNorm):
            return new
        wrapper = RebuiltModel if isinstance(new, keras.Model) else RebuiltLayer
        _refuse_private(old, path)
        return wrapper(new, original=old, settings=self.settings)

    def _pair_parts(self, old: Any, new: Any, path: str) -> None:
        """Pair the layers that two layers of one class hold, and exchange those to be replaced."""
        if isinstance(old, Functional) and has_batch_norm(old):
            raise ValueError(
                f"Layer {_place(path, old)} cannot be replaced: {type(old).__name__} is a "
                "functional model with a `call` of its own. Replace the BatchNormalization in the "
                "model that it is made of."
            )
        if fresh.builds_itself(old):
            fresh.build(old, new)
        olds, news = slots.parts(old), slots.parts(new)
        if [type(o) for _, o in olds] != [type(n) for _, n in news]:
            raise ValueError(
                f"Layer {_place(path, old)} ({type(old).__name__}) cannot be copied: made again "
                f"from its configuration it holds {[n.name for _, n in news]} instead of "
                f"{[o.name for _, o in olds]}."
            )
        exchange = {}
        with keras.name_scope(old.name):
            for (name, o), (_, n) in zip(olds, news, strict=True):
                if id(o) in self._made or (has_batch_norm(o) and _is_unit(o)):
                    made = self._converted(o, _join(path, name))
                    if made is not n:
                        exchange[id(n)] = (n, made)
                else:
                    self._made[id(o)] = n
                    self._pair_parts(o, n, _join(path, name))
        slots.exchange(new, exchange)
        fresh.build(old, new)  # its parts are
        self._paired(old, new, path)

    def _paired(self, old: Any, new: Any, path: str) -> Any:
        self._pairs.append((old, new, path))
        return new

    def _carry_weights(self) -> None:
        for old, new, path in self._pairs:
            if old.built:
                try:
                    _carry_own(old, new)
                except Exception as error:
                    raise ValueError(
                        f"The weights of layer {_place(path, old)} ({type(old).__name__}) "
                        f"cannot be carried over. {error}"
                    ) from error
        for old, new, _ in self._exchanged:
            if old.built:
                self._kind.carry(old, new)

    def _carry_flags(self) -> None:
        flags = [(new, new.trainable) for _, new, _ in self._exchanged]
        for old, new, _ in reversed(self._pairs):  # from the outside in: the setter goes down
            if new.trainable != old.trainable:
                new.trainable = old.trainable
        for new, flag in flags:
            if new.trainable != flag:
                new.trainable = flag

    def _row(self, old: Any, new: Any, path: str) -> ReplacedLayer:
        groups = getattr(new, "num_groups", None)
        weights = [weight.name for weight in old.weights]
        carried = [n for n in weights if n in self._kind.carried]
        dropped = [n for n in weights if n not in carried]
        return ReplacedLayer(
            path=path,
            channels=old.moving_mean.shape[0] if old.built else None,
            became=type(new).__name__ + (f", groups: {groups}" if groups else ""),
            carried=", ".join(carried),
            dropped=", ".join(dropped),
            trainable=new.trainable,
        )


def flat(layer: Any) -> list[Any]:
    """Return a layer and all that it holds, at any depth."""
    return list(layer._flatten_layers())


def has_batch_norm(layer: Any) -> bool:
    """Whether a layer is or holds a BatchNormalization."""
    return isinstance(layer, keras.layers.Layer) and any(
        isinstance(part, BatchNorm) for part in flat(layer)
    )


def _refuse_private(old: Any, path: str) -> None:
    if isinstance(old, DPModel):  # in another class its ledger would be lost
        raise ValueError(
            f"Layer {_place(path, old)} ({type(old).__name__}) cannot be replaced: it is a "
            "private model of a class of its own, which counts its updates, and the copy could "
            "not be one of that class. Replace the BatchNormalization in what it is made from."
        )


def _is_stack(layer: Any) -> bool:
    return isinstance(layer, keras.Sequential) and type(layer).call is keras.Sequential.call


def _is_unit(layer: Any) -> bool:
    """Whether a layer that holds BatchNormalization is replaced as a whole."""
    return isinstance(layer, BatchNorm) or _is_stack(layer) or fresh.is_graph(layer)


def _carry_own(old: Any, new: Any) -> None:
    """Carry over a built layer's own state, without that of the layers that it holds.

    Not by Keras' methods for files: some layers convert their weights there.
    """
    theirs, ours = _own(old), _own(new)
    if [v.shape for v in theirs] != [v.shape for v in ours]:
        raise ValueError(
            f"Made again from its configuration it has {_shapes(ours)} instead of "
            f"{_shapes(theirs)}."
        )
    for source, target in zip(theirs, ours, strict=True):
        target.assign(value_of(source))
    if isinstance(old, keras.layers.Normalization):
        new.finalize_state()  # it computes with values that come from its weights
    if isinstance(old, DPModel):
        new.ledger.merge(old.ledger)
    if hasattr(old, "save_assets"):  # lookup tables
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)


def _own(layer: Any) -> list[Any]:
    seeds = [generator.state for generator in layer._seed_generators]
    return [*layer._trainable_variables, *layer._non_trainable_variables, *seeds]


def _shapes(variables: list[Any]) -> str:
    return ", ".join(f"{v.name} {tuple(v.shape)}" for v in variables) or "no weights"


def _input_like(tensor: Any) -> Any:
    layer = tensor._keras_history.operation
    return keras.Input(
        batch_shape=tensor.shape,
        dtype=tensor.dtype,
        sparse=tensor.sparse,
        name=layer.name,
        optional=getattr(layer, "optional", False),
    )


def _place(path: str, layer: Any) -> str:
    return repr(path or layer.name)


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
