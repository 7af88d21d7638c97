"""Methods that add small modules to the base, called adapters, and train only those.

An adapter is a bottleneck: a thin layer takes the D features of a token down to a few, a function makes it more than a
matrix, and a second thin layer takes it up to D features again. Its result is added to what it read, so that an adapter
that gives zero leaves the model as it was; it starts there, and learns what to add.

    in line (houlsby, pfeiffer)              beside (parallel)
            ┌───────┐                               ┌───────┐
    x ─────▶│ layer │─ y ─┬───────▶ + ──▶     x ─┬─▶│ layer │───▶ + ──▶
            └───────┘     │ ╔═════╗ ▲            │  └───────┘     ▲
                          └▶║ ada ║─┘            │  ╔═════╗       │
                            ╚═════╝              └─▶║ ada ║───────┘
                                                    ╚═════╝

He et al. (https://arxiv.org/abs/2110.04366) describe all such methods by four choices: the function, what it reads (the
layer's input or its output), which layer it changes, and how the change is joined to the result. The function between
the thin layers keeps an adapter from being merged into a weight: it is there at inference, and costs a little time at
every token. One that stands beside a layer need not wait for it. ia3 belongs here too, though it has no layers, only
factors that are multiplied into the activations; these can be merged.
"""
