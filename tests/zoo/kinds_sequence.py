"""Kinds for sequences: convolution in time, recurrence, attention, embeddings, positions."""

from tests.zoo import custom
from tests.zoo.convolutions import convolution, resize, separable, transposed
from tests.zoo.drawing import join, like, limit

HERE = ("sequence",)
TOKENS = ()


def conv1d(d, x):
    return convolution(d, x, "Conv1D")


def causal_conv1d(d, x):
    return convolution(d, x, "Conv1D", padding="causal")


def depthwise1d(d, x):
    return separable(d, x, "DepthwiseConv1D")


def separable1d(d, x):
    return separable(d, x, "SeparableConv1D", d.units())


def transpose1d(d, x):
    return transposed(d, x, "Conv1DTranspose")


def _recurrent(d):
    return {
        "activation": d.pick("tanh", "softsign"),
        "use_bias": d.maybe(0.8),
        "return_sequences": d.maybe(0.6),
        "dropout": d.pick(0.0, 0.0, 0.3),
        "recurrent_dropout": d.pick(0.0, 0.0, 0.3),
    }


def _loop(d):
    return {"go_backwards": d.maybe(0.3), "unroll": d.maybe(0.3)}


def _without_clash(settings):
    """Avoid what Keras cannot compile: masks of implementation 1 are one trace's, kept for all."""
    if settings["dropout"] or settings["recurrent_dropout"]:
        settings["implementation"] = 2
    return settings


def simple_rnn(d, x):
    return d.layer("SimpleRNN", d.units(), **_recurrent(d), **_loop(d))(x)


def lstm(d, x):
    settings = {"implementation": d.pick(1, 2), **_recurrent(d), **_loop(d)}
    return d.layer("LSTM", d.units(), **_without_clash(settings))(x)


def gru(d, x):
    settings = {"implementation": d.pick(1, 2), "reset_after": d.maybe()}
    settings |= {**_recurrent(d), **_loop(d)}
    return d.layer("GRU", d.units(), **_without_clash(settings))(x)


def bidirectional(d, x):
    inner = d.layer(d.pick("SimpleRNN", "LSTM", "GRU"), 3, **_recurrent(d))
    return d.layer("Bidirectional", inner, merge_mode=d.pick("concat", "sum", "mul", "ave"))(x)


def stacked_cells(d, x):
    names = [d.pick("SimpleRNNCell", "LSTMCell", "GRUCell") for _ in range(2)]
    cells = d.layer("StackedRNNCells", [d.layer(name, d.units()) for name in names])
    return d.layer("RNN", cells, return_sequences=d.maybe())(x)


def custom_cell(d, x):
    cell = d.layer(custom.MinimalCell, d.units())
    return d.layer("RNN", cell, return_sequences=d.maybe())(x)


def time_distributed(d, x):
    return d.layer("TimeDistributed", d.layer("Dense", d.units(), activation="tanh"))(x)


def multi_head_attention(d, x):
    # Keras' fused attention, which runs without dropout, needs values as wide as keys.
    value_dim, dropout = d.pick((None, 0.0), (None, 0.2), (4, 0.2))
    settings = {"use_bias": d.maybe(0.7), "dropout": dropout, "output_shape": d.pick(None, 4)}
    heads, key_dim = d.pick(1, 2), d.pick(2, 3)
    layer = d.layer("MultiHeadAttention", heads, key_dim, value_dim=value_dim, **settings)
    causal = d.maybe()
    d.say(f"use_causal_mask={causal}")
    return layer(x, x, use_causal_mask=causal)


def cross_attention(d, x):
    memory = d.start("sequence")
    layer = d.layer("MultiHeadAttention", d.pick(1, 2), d.pick(2, 3))
    return d.layer("Add")([x, layer(x, memory)])


def image_attention(d, x):
    layer = d.layer("MultiHeadAttention", 2, 2, attention_axes=d.pick((1,), (2,), (1, 2)))
    return layer(x, x)


def group_query_attention(d, x):
    groups = d.pick(1, 2)
    settings = {"use_bias": d.maybe(), "use_gate": d.maybe(0.4)}
    layer = d.layer("GroupQueryAttention", d.pick(2, 3), 2 * groups, groups, **settings)
    return layer(x, x, use_causal_mask=d.maybe())


def attention(d, x):
    query, key = d.layer("Dense", 4)(x), d.layer("Dense", 4)(x)
    layer = d.layer("Attention", use_scale=True, score_mode=d.pick("dot", "concat"))
    return layer([query, x, key])


def additive_attention(d, x):
    return d.layer("AdditiveAttention", use_scale=True)([d.layer("Dense", x.shape[-1])(x), x])


def _tokens(d):
    vocabulary = int(d.rng.integers(5, 9))
    return d.tokens(int(d.rng.integers(3, 7)), vocabulary), vocabulary


def embedding(d, x):
    tokens, vocabulary = _tokens(d)
    return join(d, x, d.layer("Embedding", vocabulary, d.units(), mask_zero=d.maybe(0.6))(tokens))


def embedding_lora(d, x):
    tokens, vocabulary = _tokens(d)
    layer = d.layer("Embedding", vocabulary, d.units())
    embedded = layer(tokens)
    layer.enable_lora(rank=2)
    d.say("enable_lora()")
    return join(d, x, embedded)


def shared_embedding(d, x):
    """Read one table by two inputs of different lengths."""
    layer = d.layer("Embedding", 7, d.units())
    first, second = layer(d.tokens(3, 7)), layer(d.tokens(5, 7))
    return join(d, x, d.layer("Concatenate", axis=1)([first, second]))


def tied_embedding(d, x):
    tokens, vocabulary = _tokens(d)
    channels = d.units()
    if d.maybe():
        table = d.layer("ReversibleEmbedding", vocabulary, channels, tie_weights=d.maybe(0.8))
    else:
        table = d.layer(custom.TiedTable, vocabulary, channels)
    hidden = table(tokens)
    hidden = d.layer("Add")([hidden, d.layer("Dense", channels, activation="gelu")(hidden)])
    return join(d, x, table(hidden, reverse=True))


def class_token(d, x):
    return d.layer(custom.ClassToken)(x)


def shared_positions(d, x):
    """Call one Dense on two inputs with different numbers of positions."""
    layer = d.layer("Dense", d.units(), activation=d.activation())
    shorter = d.layer("AveragePooling1D", 2, padding="same")(x)
    return d.layer("Concatenate", axis=1)([layer(x), layer(shorter)])


def shared_ranks(d, x):
    """Call one Dense on a sequence and on a vector."""
    layer = d.layer("Dense", d.units(), activation=d.activation())
    once = layer(d.layer("GlobalAveragePooling1D")(x))
    return d.layer("Add")([layer(x), d.layer("RepeatVector", x.shape[1])(once)])


def transformer_block(d, x):
    layer = d.layer("MultiHeadAttention", 2, 2)
    normed = d.layer("LayerNormalization", epsilon=0.1)(x)
    x = d.layer("Add")([x, layer(normed, normed)])
    inner = d.layer("Dense", 8, activation="gelu")(d.layer("RMSNormalization", epsilon=0.1)(x))
    return d.layer("Add")([x, like(d, inner, x)])


def pool1d(d, x):
    return limit(d, resize(d, d.layer("Dense", d.units())(x), "pool"))


def resize1d(d, x):
    return resize(d, d.layer("Dense", d.units())(x), d.pick("up", "pad", "crop"))


def permute(d, x):
    return d.layer("Dense", d.units())(d.layer("Permute", (2, 1))(d.layer("Dense", 5)(x)))


def repeat_vector(d, x):
    summary = d.layer("GlobalAveragePooling1D")(x)
    return d.layer("Concatenate")([x, d.layer("RepeatVector", x.shape[1])(summary)])


def masking(d, x):
    return d.layer("LSTM", d.units(), return_sequences=True)(d.layer("Masking", 0.0)(x))


KINDS = {
    "conv1d": (HERE, conv1d),
    "causal_conv1d": (HERE, causal_conv1d),
    "depthwise1d": (HERE, depthwise1d),
    "separable1d": (HERE, separable1d),
    "transpose1d": (HERE, transpose1d),
    "simple_rnn": (HERE, simple_rnn),
    "lstm": (HERE, lstm),
    "gru": (HERE, gru),
    "bidirectional": (HERE, bidirectional),
    "stacked_cells": (HERE, stacked_cells),
    "custom_cell": (HERE, custom_cell),
    "time_distributed": (HERE, time_distributed),
    "multi_head_attention": (HERE, multi_head_attention),
    "cross_attention": (HERE, cross_attention),
    "image_attention": (("image",), image_attention),
    "group_query_attention": (HERE, group_query_attention),
    "attention": (HERE, attention),
    "additive_attention": (HERE, additive_attention),
    "embedding": (TOKENS, embedding),
    "embedding_lora": (TOKENS, embedding_lora),
    "shared_embedding": (TOKENS, shared_embedding),
    "tied_embedding": (TOKENS, tied_embedding),
    "class_token": (HERE, class_token),
    "shared_positions": (HERE, shared_positions),
    "shared_ranks": (HERE, shared_ranks),
    "transformer_block": (HERE, transformer_block),
    "pool1d": (HERE, pool1d),
    "resize1d": (HERE, resize1d),
    "permute": (HERE, permute),
    "repeat_vector": (HERE, repeat_vector),
    "masking": (HERE, masking),
}
