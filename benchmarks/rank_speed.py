"""How long the rank analysis of a large adapter takes, from its thin factors: no weight and no update is ever formed.

    python benchmarks/rank_speed.py [--layers 224] [--size 4096] [--rank 16] [--threads 2]

By default the size of a LoRA on every linear layer of a 7B model. The singular values, all ranks and the overlap of
each layer's directions with those of a second adapter are computed.
"""

import argparse
import resource
import time

import torch

from inlay.lab.rank import spectrum
from inlay.lab.rank.directions import cosine, overlap
from inlay.lab.rank.ranks import ranks


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--layers", type=int, default=224)
    options.add_argument("--size", type=int, default=4096)
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--threads", type=int, default=2)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)

    size, rank = chosen.size, chosen.rank
    of_adapters = [
        [(torch.randn(size, rank), torch.randn(rank, size)) for _ in range(chosen.layers)] for _ in ("own", "other")
    ]
    began = time.perf_counter()
    own, other = ([spectrum.of_thin(*factors) for factors in adapter] for adapter in of_adapters)
    decomposed = time.perf_counter()
    for first, second in zip(own, other, strict=True):
        ranks(first.values, first.shape)
        overlap(first, second, rank)
        cosine(first, second)
    compared = time.perf_counter()

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{chosen.layers} layers of {size} x {size} at rank {rank}, {chosen.threads} threads")
    print(f"two adapters decomposed   {decomposed - began:6.1f} s, so one in {(decomposed - began) / 2:.1f} s")
    print(f"ranks and overlaps        {compared - decomposed:6.1f} s")
    print(f"peak memory               {peak:6.2f} GiB (one dense update in float64 has {size**2 / 2**27:.3f})")


if __name__ == "__main__":
    main()
