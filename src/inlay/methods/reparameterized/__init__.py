"""Methods that write the change of a weight in fewer numbers: low rank, and what is like it.

A linear layer with I inputs and O outputs has a weight W of O times I numbers. Training it adds a change D of that
size: W' = W + D. The rank of a matrix is the number of directions that it really uses: D has rank R if all its rows are
mixtures of the same R rows, and then it is the product of two thin matrices B and A.

             I                   R            I
       ┌───────────┐            ┌─┐     ┌───────────┐
       │           │            │ │     │     A     │ R
     O │     D     │     =    O │B│  ·  └───────────┘
       │           │            │ │
       └───────────┘            └─┘
    I = O = 4096, R = 16:    16,777,216 numbers = 131,072 numbers

That few directions can be enough is a finding, not a law. Training only 200 numbers, spread over all weights by a fixed
random projection, took a RoBERTa to 90 % of full fine-tuning's score on MRPC: the intrinsic dimension of such tasks is
small, and tends to be smaller for larger models (https://arxiv.org/abs/2012.13255; how it is measured:
https://arxiv.org/abs/1804.08838). LoRA (https://arxiv.org/abs/2106.09685) takes the changes of weights to have a low
rank as well, and trains A and B instead of D. Much new material can need far more: in long training on code and
mathematics, full fine-tuning's changes had 10 to 100 times the ranks that are usual for LoRA
(https://arxiv.org/abs/2405.09673).

Rank, alpha and the learning rate. The product is multiplied by s = alpha / rank. B A is a sum of R parts, and dividing
by R keeps the first steps equally large whatever R is, so that alpha and the learning rate can stay when the rank
changes. alpha is the strength of the change; doubling it acts much like a higher learning rate. Divided by the root of
the rank instead (rank_stabilized), a higher rank also takes larger steps (https://arxiv.org/abs/2312.03732).

Choosing a rank. More rank is more room, not more speed: with all linear layers adapted, small ranks learn as large ones
do until there is more in the data than they can hold, and then fall behind (https://thinkingmachines.ai/blog/lora/). So
start with the default on all linear layers, and double it when that still lowers the loss on data that is not trained
on; adapting only the attention, at a higher rank, was worse there for the same number of parameters. adalora and
dynamic-rank choose while they train: all layers start with more components than there will be at the end, and those
that matter least, whatever layer they are in, are dropped, judged by how much the loss depends on them or by how large
a part of their layer's change they are. lora with initialization eva chooses before, by how much the layers' inputs
vary in each direction.

Merging. D has W's shape, so it can be added to W once and for all: the merged model has the base's size and speed, and
no trace of a method. Left unmerged, an adapter costs two thin products in each layer, but a base can carry many and
switch, even from row to row of a batch. Here unmerging gives the base's bits back exactly.
"""
