"""Make pylm from this machine's Python sources, in stages: corpus, tokenizer, train, export, evaluate.

Examples, from the repository's root:

    python data/models/pylm/train.py --budget-minutes 80     # every stage; most of the time goes into the training
    python data/models/pylm/train.py train export --resume   # go on after an interruption
    python data/models/pylm/train.py evaluate                # bits per byte of the exported model, beside xz

What is left between stages lies in the work folder, so each stage can be run alone.
"""

import argparse
import itertools
import json
import os
from pathlib import Path

import numpy as np
import torch
from corpus import HeldOutFilter, package_documents, select, stdlib_documents
from evaluation import bits_per_byte, sample_bits_per_byte, xz_bits_per_byte
from export import export_model
from tokenization import END_OF_TEXT, train_tokenizer
from tokenizers import Tokenizer
from training import TrainConfig, Trainer, initialise

from labkit.core import stdlib
from labkit.core.paths import cache_folder
from labkit.model.config import ModelConfig
from labkit.model.transformer import Transformer
from labkit.model.weights import Checkpoint

STAGES = ("corpus", "tokenizer", "train", "export", "evaluate")
POOLS = ("packages", "stdlib")
VOCAB_SIZE = 8192
CAP_BYTES = 4_000_000
"""Most that one package may contribute; the standard library's own tests count as a package."""
CONFIG: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 384,
    "initializer_range": 0.02,
    "intermediate_size": 1024,
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 6,
    "num_hidden_layers": 8,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": VOCAB_SIZE,
}
"""config.json of the checkpoint: a Llama of 15.7 million parameters."""


def make_corpus(work: Path, seed: int) -> None:
    """Write the selected documents of both pools as JSON lines [origin, path, text], and their counts."""
    held_out = HeldOutFilter(text for _, text in stdlib.held_out_sources())
    documents = itertools.chain(stdlib_documents(), package_documents())
    kept, dropped = select(documents, held_out, cap_bytes=CAP_BYTES, uncapped="stdlib", seed=seed)
    work.mkdir(parents=True, exist_ok=True)
    for pool in POOLS:
        with (work / f"{pool}.jsonl").open("w", encoding="utf-8") as file:
            for document in kept:
                if (document.origin == "stdlib") == (pool == "stdlib"):
                    file.write(json.dumps([document.origin, document.path, document.text]) + "\n")
    facts = {"documents": len(kept), "bytes": sum(len(document.text.encode()) for document in kept), "dropped": dropped}
    (work / "corpus.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts))


def make_tokens(work: Path) -> None:
    """Train the tokenizer and write each pool as a flat uint16 file, every document led by the end-of-text token."""
    texts: dict[str, list[str]] = {}
    for pool in POOLS:
        with (work / f"{pool}.jsonl").open(encoding="utf-8") as file:
            texts[pool] = [json.loads(line)[2] for line in file]
    # A fifth of the packages leaves the standard library a third of the text that shapes the vocabulary.
    tokenizer = train_tokenizer(texts["stdlib"] + texts["packages"][::5], VOCAB_SIZE)
    tokenizer.save(str(work / "tokenizer.json"))
    end = tokenizer.token_to_id(END_OF_TEXT)
    for pool in POOLS:
        encodings = tokenizer.encode_batch(texts[pool])
        tokens = np.concatenate([np.array([end, *encoding.ids], np.uint16) for encoding in encodings])
        tokens.tofile(work / f"{pool}.bin")
        print(f"{pool}: {len(texts[pool])} documents, {len(tokens):,} tokens")


def train(work: Path, config: TrainConfig, *, is_resumed: bool) -> None:
    """Train on the token files of `work` and leave the checkpoint there."""
    packages, library = (np.memmap(work / f"{pool}.bin", np.uint16, mode="r") for pool in POOLS)
    model = Transformer(ModelConfig.from_dict(CONFIG))
    initialise(model, config.seed)
    trainer = Trainer(model, (packages, library), config, work)
    if is_resumed:
        trainer.resume()
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    trainer.run(lambda model: sample_bits_per_byte(model, tokenizer))


def evaluate(folder: Path) -> None:
    """Print bits per byte of the checkpoint in `folder` on all held-out modules, beside xz on the same bytes."""
    model = Transformer(ModelConfig.from_dict(CONFIG), device="meta")
    Checkpoint.open(folder).load(model, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = stdlib.held_out_text()
    print(f"{len(stdlib.HELD_OUT)} held-out modules, {len(text.encode()):,} bytes; bits per byte:")
    print(f"pylm    {bits_per_byte(model, tokenizer, text):.4f}")
    print(f"xz -9   {xz_bits_per_byte(text):.4f}")
    print(f"xz -9e  {xz_bits_per_byte(text, is_extreme=True):.4f}")


def parse_arguments() -> argparse.Namespace:
    """The command line, with the training configuration it describes as `config`."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"some of {', '.join(STAGES)} (all of them)")
    parser.add_argument("--work", type=Path, help="folder of corpus, tokens and checkpoint (in labkit's cache)")
    parser.add_argument("--out", type=Path, default=here, help="folder of the exported model (the script's own)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--budget-minutes", type=float, default=80.0, help="training time (%(default)s)")
    budget.add_argument("--budget-steps", type=int, help="steps instead of minutes: reproducible")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the work folder")
    parser.add_argument("--seed", type=int, default=0, help="of the selection, the weights and the batches (0)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of matrix products")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which needs a C++ compiler")
    arguments = parser.parse_args()
    if unknown := [stage for stage in arguments.stages if stage not in STAGES]:
        parser.error(f"unknown stage {', '.join(unknown)}; allowed: {', '.join(STAGES)}")
    arguments.config = TrainConfig(
        budget=arguments.budget_steps or arguments.budget_minutes,
        budget_unit="steps" if arguments.budget_steps else "minutes",
        seed=arguments.seed,
        device=arguments.device,
        dtype=arguments.dtype,
        is_compiled=not arguments.no_compile,
    )
    return arguments


def main() -> None:
    """Run the named stages in their order."""
    arguments = parse_arguments()
    work: Path = arguments.work or cache_folder() / "pylm"
    torch.set_num_threads(arguments.threads)
    stages = arguments.stages or STAGES
    if "corpus" in stages:
        make_corpus(work, arguments.seed)
    if "tokenizer" in stages:
        make_tokens(work)
    if "train" in stages:
        train(work, arguments.config, is_resumed=arguments.resume)
    if "export" in stages:
        export_model(work / "checkpoint.safetensors", work / "tokenizer.json", CONFIG, arguments.out)
    if "evaluate" in stages:
        evaluate(arguments.out)


if __name__ == "__main__":
    main()
