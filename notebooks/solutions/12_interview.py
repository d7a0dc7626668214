"""Solutions to the exercises of 12_interview."""

from labkit.interview.formulas import solve

kv_bits = 16


def token(reader):
    """Bytes of a token's keys and values, from the sizes of the reader's own model. In the lesson: `token(reader)`."""
    return f"{solve('kv_token_bytes', {**reader.figures, 'kv_bits': kv_bits}):.0f} B"


inside = 12 * (0.4 + 99 * 0.02)

mine = {
    "id": "stage_of_mine",
    "level": 1,
    "question": {
        "en": "{num_cores} cores share a step of which {serial_share} is serial. How many times faster is it at best?",
        "zh": "{num_cores} 个核分担一步，其中 {serial_share} 是串行的。最多快几倍？",
    },
    "formula": "amdahl_factor",
    "given": {"serial_share": 0.3},
    "tolerance": 0.02,
    "solution": {
        "en": "1 / ({serial_share} + (1 − {serial_share}) / {num_cores}) = {answer}",
        "zh": "阿姆达尔定律：1 /（{serial_share} +（1 − {serial_share}）/ {num_cores}）= {answer}",
    },
}
