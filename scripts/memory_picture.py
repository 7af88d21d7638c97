"""The picture of docs/memory.md: what the memory goes to, method by method, as `inlay plan` has it.

python scripts/memory_picture.py > docs/memory.svg

The model is a Llama of 8 billion parameters, by its configuration alone; 4 rows of 1,024 tokens in bfloat16.
"""

import tempfile
from collections.abc import Mapping, Sequence

from transformers import LlamaConfig

import inlay
from inlay.show.memory_parts import PARTS, bar_pieces
from inlay.show.units import bytes_text
from inlay.training.planning import Planned

METHODS = ("full", "last-layers", "pfeiffer", "lora", "qlora", "dora", "prefix")
AGAIN = ("lora", "qlora")  # with every block computed again as well
COLOURS = {  # those of the pages
    "part-weights": "#57616c",
    "part-adapter": "#00795a",
    "part-gradients": "#8a5a00",
    "part-optimizer": "#a3417a",
    "part-activations": "#0072b2",
    "part-loss": "#a8321d",
    "part-temporaries": "#c44f00",
}
LEFT, RIGHT, ROW = 150, 90, 26
WIDTH = 760
LIMIT = 24 * 10**9


def main() -> None:
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        rows = {name: row.memory for name, row in planned(folder, METHODS, None).items()}
        again = {f"{name}, recompute": row.memory for name, row in planned(folder, AGAIN, "all").items()}
    order = [*METHODS, *(f"{name}, recompute" for name in AGAIN)]
    print(picture({name: (rows | again)[name] for name in order}))


def planned(folder: str, methods: Sequence[str], recompute: str | None) -> dict[str, Planned]:
    found = inlay.plan(
        folder, methods=methods, tokens=1024, batch_size=4, device="cuda", memory="24GB", recompute=recompute
    )
    return {row.label: row for row in found.planned}


def picture(rows: Mapping[str, Mapping[str, int]]) -> str:
    whole = 1.02 * max(sum(memory.values()) for memory in rows.values())
    across = WIDTH - LEFT - RIGHT
    height = 46 + ROW * len(rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    x = 8
    for part in PARTS:
        lines.append(f'<rect x="{x}" y="8" width="12" height="12" fill="{COLOURS[part.kind]}"/>')
        lines.append(f'<text x="{x + 17}" y="18" fill="#57616c">{part.name}</text>')
        x += 30 + round(7.1 * len(part.name))
    for i, (name, memory) in enumerate(rows.items()):
        y = 38 + ROW * i
        lines.append(f'<text x="8" y="{y + 14}" fill="#1a1f25">{name}</text>')
        for part, start, length in bar_pieces(memory, whole):
            lines.append(
                f'<rect x="{LEFT + across * start:.1f}" y="{y}" width="{across * length:.1f}" height="18" '
                f'fill="{COLOURS[part.kind]}"><title>{part.name} {bytes_text(part.size(memory))}</title></rect>'
            )
        total = bytes_text(sum(memory.values()))
        lines.append(f'<text x="{WIDTH - 8}" y="{y + 14}" fill="#1a1f25" text-anchor="end">{total}</text>')
    at = LEFT + across * LIMIT / whole
    lines.append(f'<path d="M{at:.1f} 34V{height - 6}" stroke="#a8321d" stroke-width="1.5" stroke-dasharray="4 3"/>')
    lines.append("</svg>")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
