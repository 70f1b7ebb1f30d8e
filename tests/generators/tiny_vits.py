"""A text-to-waveform model small enough for tests: VITS with random weights, which babbles."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

from augmill.tasks.generators.lm.models import quiet


@cache
def babbling_voice() -> Path:
    """Its directory: two speakers, 16 kHz; made once a process."""
    import torch
    from transformers import VitsConfig, VitsModel, VitsTokenizer

    folder = Path(tempfile.mkdtemp(prefix="augmill-vits-"))
    signs = ["<pad>", *"abcdefghijklmnopqrstuvwxyz '-"]
    (folder / "vocab.json").write_text(json.dumps({sign: at for at, sign in enumerate(signs)}))
    tokenizer = VitsTokenizer(
        str(folder / "vocab.json"), pad_token="<pad>", unk_token="<pad>", phonemize=False, is_uroman=False
    )
    config = VitsConfig(
        vocab_size=len(signs),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=16,
        flow_size=16,
        spectrogram_bins=9,
        num_speakers=2,
        speaker_embedding_size=8,
        upsample_initial_channel=16,
        upsample_rates=[8, 8],
        upsample_kernel_sizes=[16, 16],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        prior_encoder_num_flows=1,
        prior_encoder_num_wavenet_layers=1,
        posterior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=1,
        duration_predictor_filter_channels=16,
        wavenet_dilation_rate=1,
        sampling_rate=16_000,
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        VitsModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
