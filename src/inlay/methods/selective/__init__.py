"""Methods that train a part of the base's own parameters and add nothing to it.

Not all of a model has to move for a task. The part can be a kind of parameter (bitfit: the biases, norm: the
normalizations), a place (last-layers: the last blocks, pattern: what your patterns name), or single entries of the
weights (sparse: those that training data says most about). What is left out is frozen: it needs no gradient and no
optimizer's memory, and below the lowest trained parameter the backward pass does not run at all.

    base's parameters        ■ trained    · frozen
    bitfit        norm          last-layers     sparse
    W · · · ·     W · · · ·     · · · ·         · · ■ ·
      · · · ·       · · · ·     · · · ·         ■ · · ·
    b ■ ■ ■ ■     g ■ ■ ■ ■     ■ ■ ■ ■         · · · ■

A model tuned so has the base's shape, so it runs as fast as the base, and an adapter is a list of new values. Here
these are trained in float32 beside the base, which keeps its bits: a small step from a weight of 1 is lost in 16 bits.
Ding et al. (https://arxiv.org/abs/2203.06904) survey these methods, among others, and call them specification-based.
"""
