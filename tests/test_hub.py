"""Networks of Hugging Face's transformers, from folders that `save_pretrained` writes. No download."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import workbench as wb

transformers = pytest.importorskip("transformers")
SIDE, FRAMES = 32, 8
LABELS = {0: "open", 1: "close", 2: "stir"}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": SIDE,
    "num_frames": FRAMES,
    "id2label": LABELS,
    "label2id": {name: number for number, name in LABELS.items()},
}


def videomae(**options):
    config = transformers.VideoMAEConfig(**SMALL, patch_size=8, **options)
    return transformers.VideoMAEForVideoClassification(config)


def timesformer(**options):
    config = transformers.TimesformerConfig(**SMALL, patch_size=8, **options)
    return transformers.TimesformerForVideoClassification(config)


def vivit():
    config = transformers.VivitConfig(**SMALL, tubelet_size=[2, 8, 8])
    return transformers.VivitForVideoClassification(config)


def vjepa2():
    config = transformers.VJEPA2Config(
        **{**SMALL, "hidden_size": 48},
        patch_size=8,
        crop_size=SIDE,
        frames_per_clip=FRAMES,
        num_pooler_layers=1,
        pred_hidden_size=12,
        pred_num_attention_heads=1,
        pred_num_hidden_layers=1,
    )
    return transformers.VJEPA2ForVideoClassification(config)


def videoprism():
    options = {name: value for name, value in SMALL.items() if name != "num_hidden_layers"}
    config = transformers.VideoPrismVisionConfig(
        **options,
        tubelet_size=[1, 8, 8],
        num_spatial_layers=1,
        num_temporal_layers=1,
        num_auxiliary_layers=1,
    )
    return transformers.VideoPrismForVideoClassification(config)


def video_processor(kind, **options):
    """Return a processor that makes clips of SIDE×SIDE pixels, without sampling frames."""
    crop = {"height": SIDE, "width": SIDE}
    return getattr(transformers, kind)(size=crop, crop_size=crop, do_sample_frames=False, **options)


def saved(folder, module, **processor):
    """Write a network with a processor, as published models are."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    module.save_pretrained(folder)
    options = {
        "size": {"height": SIDE, "width": SIDE},
        "do_center_crop": False,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.25, 0.3],
        **processor,
    }
    transformers.VideoMAEImageProcessor(**options).save_pretrained(folder)
    return folder


@pytest.fixture
def clip():
    rng = np.random.default_rng(0)
    return wb.Clip(rng.integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8), 25.0)


@pytest.mark.parametrize("build", [videomae, timesformer, vivit])
def test_a_saved_folder_gives_the_logits_that_transformers_gives(tmp_path, clip, build):
    folder = saved(tmp_path / "model", build())
    model = wb.load_model(f"hf/{folder}", device="cpu")
    assert (model.input.frames, model.classes) == (FRAMES, list(LABELS.values()))
    own = getattr(transformers, type(model.module).__name__).from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    batch = processor(list(clip.frames), return_tensors="pt")
    with torch.no_grad():
        expected = own(**batch).logits[0]
    ex = wb.explain(model, clip)
    torch.testing.assert_close(ex.logits, expected, rtol=1e-3, atol=1e-3)
    tube = ex.tube("stir")
    assert tube.volume.shape == (FRAMES, SIDE, SIDE)
    assert np.ptp(tube.map) > 0


@pytest.mark.parametrize(
    ("build", "kind"),
    [(vjepa2, "VJEPA2VideoProcessor"), (videoprism, "LlavaOnevisionVideoProcessor")],
)
def test_networks_with_a_video_processor(tmp_path, clip, build, kind):
    folder = saved(tmp_path / "model", build())
    (folder / "preprocessor_config.json").unlink()
    processor = video_processor(kind, do_normalize=kind.startswith("V"))
    processor.save_pretrained(folder)
    model = wb.load_model(f"hf/{folder}", device="cpu")
    assert (model.input.frames, model.classes) == (FRAMES, list(LABELS.values()))
    assert model.input.keyword == "pixel_values_videos"
    own = type(model.module).from_pretrained(folder).eval()
    with torch.no_grad():
        expected = own(**processor(list(clip.frames), return_tensors="pt")).logits.flatten()
    ex = wb.explain(model, clip)
    torch.testing.assert_close(ex.logits, expected, rtol=1e-3, atol=1e-3)
    assert ex.how == "relevance weights, place proved"
    assert np.ptp(ex.tube("stir").map) > 0


def test_mean_and_deviation_are_measured(tmp_path):
    folder = saved(tmp_path / "model", videomae())
    spec = wb.load_model(f"hf/{folder}", device="cpu").input
    np.testing.assert_allclose(spec.mean, (0.4, 0.5, 0.6), atol=1e-4)
    np.testing.assert_allclose(spec.std, (0.2, 0.25, 0.3), atol=1e-4)
    assert spec.time_first
    assert spec.keyword == "pixel_values"


def test_mean_pooled_videomae_is_exact_with_its_norm_held(tmp_path, clip):
    folder = saved(tmp_path / "model", videomae(use_mean_pooling=True))
    ex = wb.explain(wb.load_model(f"hf/{folder}", device="cpu"), clip)
    assert ex.exact
    assert ex.residual < 1e-5
    assert tuple(ex.activations.shape) == (32, 4, 4, 4)
    assert "LayerNorm held fixed" in ex.how


def test_an_image_classifier_becomes_a_tsn(tmp_path, clip):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label=LABELS, layer_type="basic"
    )
    module = transformers.ResNetForImageClassification(config)
    folder = tmp_path / "model"
    module.save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=1.0).save_pretrained(
        folder
    )
    model = wb.load_model(f"hf/{folder}", device="cpu")
    assert isinstance(model.module, wb.TSN)
    assert wb.explain(model, clip).exact


def xclip(folder):
    """Write a small X-CLIP with a tokenizer of single letters."""
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{each}</w>" for each in letters)]
    tower = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    config = transformers.XCLIPConfig(
        text_config={
            **tower,
            "vocab_size": len(words),
            "max_position_embeddings": 16,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={
            **tower,
            "image_size": SIDE,
            "patch_size": 8,
            "num_frames": FRAMES,
            "mit_hidden_size": 32,
            "mit_intermediate_size": 64,
            "mit_num_hidden_layers": 1,
            "mit_num_attention_heads": 4,
        },
        projection_dim=32,
        prompt_num_attention_heads=4,
    )
    saved(folder, transformers.XCLIPModel(config), size={"shortest_edge": SIDE})
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({word: number for number, word in enumerate(words)}))
    merges = folder / "merges.txt"
    merges.write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(vocabulary), str(merges)).save_pretrained(folder)
    return folder


def test_x_clip_compares_the_clip_with_class_texts(tmp_path, clip):
    texts = ["open", "close a box", "stir"]
    folder = xclip(tmp_path / "model")
    model = wb.load_model(f"hf/{folder}", classes=texts, device="cpu")
    assert (model.classes, model.input.frames) == (texts, FRAMES)
    own = transformers.XCLIPModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, return_tensors="pt"
    )
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(list(clip.frames), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = own(pixel_values=pixels, **tokens).logits_per_video[0]
    ex = wb.explain(model, clip)
    torch.testing.assert_close(ex.logits, expected, rtol=1e-3, atol=1e-3)
    # The map is that of the pictures, a voxel a patch, and not of the three texts (S6).
    assert "text" not in ex.layer
    assert "prompt" not in ex.layer
    assert ex.maps[0].shape[1:] == (FRAMES, SIDE // 8, SIDE // 8)
    assert ex.place > 0.85
    one, other = (ex.tube(name).map for name in texts[:2])
    assert not np.allclose(one, other)


def test_x_clip_without_class_texts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give the class texts"):
        wb.load_model(f"hf/{xclip(tmp_path / 'model')}", device="cpu")


def test_mistakes_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        wb.load_model(f"hf/{tmp_path / 'nothing'}")
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="bert network: expected a video or image classifier"):
        wb.load_model(f"hf/{tmp_path / 'bert'}")
    saved(tmp_path / "cut", videomae())
    (tmp_path / "cut" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="not complete"):
        wb.load_model(f"hf/{tmp_path / 'cut'}")
