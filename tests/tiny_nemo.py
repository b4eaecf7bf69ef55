"""Writes random NeMo models of every supported kind, with a BPE tokenizer trained on the sample texts.

NeMo itself builds them. NeMo is imported only inside functions, so that this module can be imported without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from asr_lightning.adapters.nemo.loading import quiet

ROOT = Path(__file__).parents[1]
PHRASES = ROOT / "examples" / "german_accent" / "phrases.txt"
KINDS = ("ctc", "rnnt", "tdt", "hybrid", "hybrid-tdt")
EVERY_KIND = (*KINDS, "ctc-characters", "rnnt-characters")
DURATIONS = [0, 1, 2, 3, 4]


def tiny_nemo(path: Path, kind: str, vocab_size: int = 64, width: int = 32, layers: int = 2, **changes: Any) -> Path:
    """Write a two-layer FastConformer of ``kind`` to ``path``, a ``.nemo`` file that NeMo's own ``save_to`` makes.

    Args:
        path: Path of the file.
        kind: One of ``KINDS``, or ``ctc-characters`` and ``rnnt-characters`` for models without a tokenizer.
        vocab_size: Size of the BPE tokenizer's vocabulary.
        width: Width of the encoder; 512 in a large FastConformer.
        layers: Layers of the encoder; 17 in a large FastConformer.
        changes: Configuration values by dotted path with ``__`` for each dot, such as ``joint__fuse_loss_wer=True``.
    """
    from omegaconf import OmegaConf

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = OmegaConf.create(nemo_config(kind, path.parent / f"{path.stem}-tokenizer", vocab_size, width, layers))
    for name, value in changes.items():
        OmegaConf.update(config, name.replace("__", "."), value, force_add=True)
    with quiet():
        model = nemo_class(kind)(cfg=config)
    with torch.no_grad():  # so that an untrained model writes text, and a different text for each clip
        for name, parameter in model.named_parameters():
            if name.endswith("decoder_layers.0.weight") or "joint_net" in name:
                parameter.mul_(3)
    with quiet():
        model.save_to(str(path))
    return path


def nemo_class(kind: str) -> Any:
    """Return NeMo's class for ``kind``."""
    from nemo.collections.asr import models

    return {
        "ctc": models.EncDecCTCModelBPE,
        "rnnt": models.EncDecRNNTBPEModel,
        "tdt": models.EncDecRNNTBPEModel,
        "hybrid": models.EncDecHybridRNNTCTCBPEModel,
        "hybrid-tdt": models.EncDecHybridRNNTCTCBPEModel,
        "ctc-characters": models.EncDecCTCModel,
        "rnnt-characters": models.EncDecRNNTModel,
    }[kind]


def nemo_config(kind: str, tokenizer: Path, vocab_size: int = 64, width: int = 32, layers: int = 2) -> dict[str, Any]:
    """Return the configuration of a FastConformer of ``kind`` at any size, with the layout of NeMo's examples."""
    characters = kind.endswith("-characters")
    labels = list(" 'abcdefghijklmnopqrstuvwxyz") if characters else []
    head, _, _ = kind.partition("-")
    config: dict[str, Any] = {
        "sample_rate": 16_000,
        "preprocessor": _preprocessor(),
        "encoder": _encoder(width, layers),
        "spec_augment": {"_target_": "nemo.collections.asr.modules.SpectrogramAugmentation", "freq_masks": 2,
                         "time_masks": 2, "freq_width": 27, "time_width": 0.05},
        "log_prediction": False,
    }  # fmt: skip
    if characters:
        config["labels"] = labels
    else:
        write_tokenizer(tokenizer, vocab_size)
        config["tokenizer"] = {"dir": str(tokenizer), "type": "bpe"}
    if head == "ctc":
        return config | {"decoder": _ctc_decoder(width, labels), "decoding": {"strategy": "greedy_batch"}}
    return config | _transducer(kind, width) | ({"aux_ctc": _aux_ctc(width)} if head == "hybrid" else {})


def write_tokenizer(folder: Path, vocab_size: int, texts: Path = PHRASES) -> None:
    """Write a lower-case SentencePiece BPE tokenizer in the three files that NeMo's tokenizer script writes."""
    import sentencepiece

    if (folder / "tokenizer.model").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    letters = "".join(char for char in texts.read_text(encoding="utf-8").lower() if char.isalpha() or char in " '\n")
    (folder / "texts.txt").write_text(letters, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts.txt"), model_prefix=str(folder / "tokenizer"), model_type="bpe",
        vocab_size=vocab_size, character_coverage=1.0, bos_id=-1, eos_id=-1, minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    pieces = [processor.id_to_piece(number) for number in range(1, processor.get_piece_size())]
    (folder / "vocab.txt").write_text("\n".join(f"##{p}" for p in pieces) + "\n", encoding="utf-8")


def _preprocessor() -> dict[str, Any]:
    return {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": 16_000, "normalize": "per_feature", "window_size": 0.025, "window_stride": 0.01,
        "window": "hann", "features": 80, "n_fft": 512, "log": True, "frame_splicing": 1, "dither": 1e-5,
        "pad_to": 0, "pad_value": 0.0,
    }  # fmt: skip


def _encoder(width: int, layers: int) -> dict[str, Any]:
    return {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": 80, "feat_out": -1, "n_layers": layers, "d_model": width, "subsampling": "dw_striding",
        "subsampling_factor": 8, "subsampling_conv_channels": width, "causal_downsampling": False,
        "ff_expansion_factor": 2, "self_attention_model": "rel_pos", "n_heads": 2, "att_context_size": [-1, -1],
        "xscaling": True, "untie_biases": True, "pos_emb_max_len": 5000, "conv_kernel_size": 9,
        "conv_norm_type": "batch_norm", "conv_context_size": None, "dropout": 0.1, "dropout_pre_encoder": 0.1,
        "dropout_emb": 0.0, "dropout_att": 0.1, "stochastic_depth_drop_prob": 0.0,
    }  # fmt: skip


def _ctc_decoder(width: int, labels: list[str]) -> dict[str, Any]:
    return {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": width, "num_classes": len(labels) or -1, "vocabulary": labels,
    }  # fmt: skip


def _transducer(kind: str, width: int) -> dict[str, Any]:
    tdt = kind.endswith("tdt")
    extra = {"num_extra_outputs": len(DURATIONS)} if tdt else {}
    loss = {"loss_name": "tdt", "tdt_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0, "durations": DURATIONS,
                                               "sigma": 0.02, "omega": 0.0}}  # fmt: skip
    return {
        "model_defaults": {"enc_hidden": width, "pred_hidden": width, "joint_hidden": width},
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None, "random_state_sampling": False, "blank_as_pad": True,
            "prednet": {"pred_hidden": width, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.0},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None, "preserve_memory": False, "fuse_loss_wer": False, "fused_batch_size": 4,
            "jointnet": {"joint_hidden": width, "activation": "relu", "dropout": 0.1, "encoder_hidden": width,
                         "pred_hidden": width},
            **extra,
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10},
                     **({"model_type": "tdt", "durations": DURATIONS} if tdt else {})},
        "loss": loss if tdt else {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0,
                                                                                    "clamp": -1.0}},
    }  # fmt: skip


def _aux_ctc(width: int) -> dict[str, Any]:
    return {"ctc_loss_weight": 0.3, "use_cer": False, "ctc_reduction": "mean_batch",
            "decoder": _ctc_decoder(width, []), "decoding": {"strategy": "greedy_batch"}}  # fmt: skip
