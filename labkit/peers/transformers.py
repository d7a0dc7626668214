"""Hugging Face transformers' `generate`, as it comes: its own cache, its default attention (SDPA), no compilation.

Source: Wolf et al., "Transformers: State-of-the-Art Natural Language Processing" (2020).
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from labkit.core.errors import Unavailable
from labkit.model.dtypes import DTYPES
from labkit.peers.base import Peer, Settings, TokenIds, import_package


class StampingStreamer:
    """The streamer that `generate` calls with the ids of each step, once they are on the host: keeps when that was.

    `generate` is unchanged by it. On CPU a call takes well under 1 µs; on CUDA it waits for the step's ids, as any
    server must before it can send them.
    """

    def __init__(self, stamps: list[int]) -> None:
        self._stamps = stamps
        self._has_prompt = False

    def put(self, ids: object) -> None:
        """Called with the prompt first, then with the ids `[B]` of each step."""
        if self._has_prompt:
            self._stamps.append(time.perf_counter_ns())
        self._has_prompt = True

    def end(self) -> None:
        """Called after the last step."""


class TransformersPeer(Peer):
    """`AutoModelForCausalLM.generate` on the same checkpoint folder."""

    name: ClassVar[str] = "transformers"
    dtypes: ClassVar[tuple[str, ...]] = ("bf16", "fp32", "fp16")
    devices = ("cpu", "cuda")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._library = import_package("transformers", peer=self.name, remedy='pip install "labkit[peers]"')
        import torch

        if settings.device == "cuda" and not torch.cuda.is_available():
            raise Unavailable(f"peer {self.name!r} was asked to run on 'cuda'; this machine has none; use device cpu")
        self._library.utils.logging.disable_progress_bar()
        torch.set_num_threads(settings.threads)
        self._model = self._library.AutoModelForCausalLM.from_pretrained(
            settings.source.folder,
            dtype=DTYPES[self._loaded_dtype],
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
        self._model = self._model.to(settings.device).eval()
        # A checkpoint may bring its own sampling, repetition penalty or end-of-sequence ids; equal work admits none.
        self._model.generation_config = self._library.GenerationConfig(pad_token_id=0)

    def generate(self, prompts: Sequence[TokenIds], num_tokens: int, stamps: list[int]) -> list[TokenIds]:
        """One call of `generate` for the whole batch; shorter prompts are padded on the left and masked."""
        import torch

        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])  # [B, T]
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])  # [B, T]
        settings = self._library.GenerationConfig(
            do_sample=False, max_new_tokens=num_tokens, eos_token_id=None, pad_token_id=0
        )
        with torch.inference_mode():
            out = self._model.generate(
                ids.to(self.settings.device),
                attention_mask=mask.to(self.settings.device),
                generation_config=settings,
                streamer=StampingStreamer(stamps),
            )
        return [tuple(row) for row in out[:, longest:].tolist()]

    def relocate(self) -> None:
        """See System."""
        from labkit.model.pages import copied

        if self.settings.device == "cpu":
            for tensor in self._tensors():
                tensor.data = copied(tensor.data)

    def facts(self) -> Mapping[str, Any]:
        """Weights as loaded (a tied head counted once), threads as torch reports them, and what was run."""
        import torch

        return {
            "weights_bytes": sum(tensor.nbytes for tensor in self._tensors()),
            "threads": torch.get_num_threads(),
            "version": f"transformers {self._library.__version__}, torch {torch.__version__}",
            "kernels": {"linear": f"torch {self.settings.dtype}", "attention": self._model.config._attn_implementation},
            "notes": ["generate(), greedy, dynamic cache, eager"],
        }

    def close(self) -> None:
        """Give the weights back."""
        del self._model

    @property
    def _loaded_dtype(self) -> str:
        """Of the weights as the checkpoint is read, by its short name."""
        return self.settings.dtype

    def _tensors(self) -> list[Tensor]:
        """What the weights are kept in; a tied one is listed once."""
        return list(self._model.parameters())
