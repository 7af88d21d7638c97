"""Methods that add trained positions to the input and leave every weight as it is: soft prompts.

A transformer does not read words. Every token of the text is looked up in a table of embeddings, vectors of D numbers,
and the layers see those. A written prompt steers a model by choosing tokens; a virtual token is a vector in the place
of a token's that belongs to no token. Since the loss can be differentiated by whatever the layers read, such a vector
can be trained directly, as a weight is, and need not be a word that someone could write. P of them are a soft prompt.

      input level (prompt, p-tuning, multitask-prompt)     every layer (prefix)
                ┌───────────────────────┐                  ╔═══╗┌────────────┐
      layer 2   │        frozen         │                  ║ P ║│   frozen   │
                ├───────────────────────┤                  ╠═══╣├────────────┤
      layer 1   │        frozen         │                  ║ P ║│   frozen   │
                └─┬─────┬─────┬─────┬───┘                  ╚═══╝└─┬──────┬───┘
                ╔═╧══╗╔═╧══╗┌─┴──┐┌─┴──┐                        ┌─┴──┐ ┌─┴──┐
                ║ p1 ║║ p2 ║│ e1 ││ e2 │                        │ e1 │ │ e2 │
                ╚════╝╚════╝└────┘└────┘                        └────┘ └────┘

At the input level the prompt is trained before the first layer only, and what the deeper layers make of it is up to
them. That is enough for models of billions of parameters, where it comes up to full fine-tuning; on smaller ones it
falls behind (https://arxiv.org/abs/2104.08691). With keys and values of its own in every layer's attention
(https://arxiv.org/abs/2101.00190) the prompt steers each layer by itself: more numbers, and good results on smaller
models and harder tasks too (https://arxiv.org/abs/2110.07602).

Length. More virtual tokens hold more, but take positions from the text and time at every call. In Lester et al.'s study
more than 20 helped little; harder tasks, such as labels for every token, want more than classification does.

The start matters, since few vectors have to find their way alone. Embeddings of tokens from the vocabulary lie where
the model has learned to read, and noise need not; in the same study starting from them, or from the names of the
labels, was better than noise on all but the largest models.

High learning rates. Adam moves a number by about the learning rate in each step, whatever the size of its gradient.
Where millions of weights move together small steps add up; a prompt is a few vectors that must go far, so it needs
larger steps than weights do, and more of them.

Cost. There is next to nothing to store or to keep for the optimizer. But the gradient comes back through all frozen
layers, so a step takes about as long as another method's, and the activations have to be kept. Nothing can be merged:
at inference each sequence is P positions longer, or its attention has P more keys to look at. In return the weights are
not touched.
"""
