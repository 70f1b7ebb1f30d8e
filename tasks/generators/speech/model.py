"""A text-to-waveform model of transformers (VITS, MMS): one row at a time, its noise by its own seed, in one thread, so that

a row is the same alone and in any batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from augmill.tasks.rows.kinds.audio import Samples

if TYPE_CHECKING:
    import torch

RATES = (0.8, 1.25)  # how much slower and faster than it was made, where a model can (VITS)


class ModelVoice:
    """``model`` and ``tokenizer``: as transformers loads them."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.rate = int(getattr(model.config, "sampling_rate", 0) or 0)
        self.speakers = int(getattr(model.config, "num_speakers", 1) or 1)

    def speak(self, text: str, seed: int, pace: float, speaker: float) -> tuple[Samples, int] | None:
        """``pace`` and ``speaker``: what the row drew, 0 to 1. None where the model has no sign for what the text holds."""
        import torch

        tokens = self.tokenizer(text, return_tensors="pt")
        if tokens["input_ids"].shape[-1] == 0:
            return None
        if self.speakers > 1:
            tokens["speaker_id"] = int(speaker * self.speakers)
        if hasattr(self.model, "speaking_rate"):
            self.model.speaking_rate = RATES[0] * (RATES[1] / RATES[0]) ** pace
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            with torch.random.fork_rng(devices=[]), torch.inference_mode():
                torch.manual_seed(seed)
                wave = self._wave(tokens)
        finally:
            torch.set_num_threads(before)
        mono = np.asarray(wave.float().cpu().numpy(), np.float32).reshape(-1)
        return (mono, self.rate) if len(mono) and np.isfinite(mono).all() else None

    def _wave(self, tokens: Any) -> torch.Tensor:
        if self.model.can_generate():
            return self.model.generate(**tokens)  # type: ignore[no-any-return]
        return self.model(**tokens).waveform  # type: ignore[no-any-return]
