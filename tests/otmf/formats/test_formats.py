"""Checkpoints from elsewhere: the same features as the libraries that define them, and nothing of a file is run."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from otmf import backbones, checkpoints, formats
from otmf.formats import hugging_face, pickles, sharded
from tests import makers

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT's
VISION = {"hidden_size": 16, "intermediate_size": 64, "projection_dim": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 16, "patch_size": 8}  # fmt: skip


@pytest.fixture(scope="module")
def tower() -> backbones.Backbone:
    """An encoder of the shape of VISION, with CLIP's own activation."""
    return backbones.build({**makers.BACKBONE, "quick_gelu": True})


@pytest.fixture(scope="module")
def base(tower) -> dict[str, torch.Tensor]:
    return tower.initial_state(seed=0)


def other(base: dict[str, torch.Tensor], seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in base.items()}


def same(one, two) -> bool:
    return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture(scope="module")
def theirs() -> CLIPVisionModelWithProjection:
    torch.manual_seed(3)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).eval()


def test_hugging_face_towers_give_the_features_that_transformers_gives(tower, base, theirs, tmp_path) -> None:
    theirs.save_pretrained(tmp_path / "whole")
    found = formats.read(tmp_path / "whole", base=base)
    assert found.form == "safetensors, names of Hugging Face"
    inputs = tower.prepare(makers.pictures(4, seed=0)[0])
    torch.testing.assert_close(
        tower.features(found.state, inputs), theirs(pixel_values=inputs).image_embeds, atol=1e-5, rtol=1e-5
    )


def test_tower_without_projection_has_the_bases(tower, base, theirs, tmp_path) -> None:
    alone = CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()
    alone.save_pretrained(tmp_path)
    found = formats.read(tmp_path, base=base).state
    inputs = tower.prepare(makers.pictures(4, seed=0)[0])
    pooled = alone(pixel_values=inputs).pooler_output
    torch.testing.assert_close(tower.features(found, inputs), pooled @ base["proj"], atol=1e-5, rtol=1e-5)


def test_shards_with_an_index_are_one_checkpoint(base, theirs, tmp_path) -> None:
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="8KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert same(formats.read(tmp_path / "one", base=base).state, formats.read(tmp_path / "many", base=base).state)


def test_whole_clip_model_is_its_vision_tower(base, theirs, tmp_path) -> None:
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 30,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
    model.vision_model.load_state_dict(theirs.vision_model.state_dict())
    model.visual_projection.load_state_dict(theirs.visual_projection.state_dict())
    model.save_pretrained(tmp_path)
    assert same(formats.read(tmp_path, base=base).state, hugging_face.to_open_clip(theirs.state_dict(), base=base))


def test_names_go_to_hugging_face_and_back(base) -> None:
    there = hugging_face.from_open_clip(base)
    assert same(hugging_face.to_open_clip(there, base={}), base)
    CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).load_state_dict(there)


def clip() -> open_clip.CLIP:
    text = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}
    torch.manual_seed(4)
    return open_clip.CLIP(embed_dim=8, vision_cfg=makers.BACKBONE["vision_cfg"], text_cfg=text, quick_gelu=True)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "image_encoder.model."])
def test_open_clip_models_are_their_vision_tower_under_any_wrapper(base, tmp_path, prefix) -> None:
    model = clip()
    save_file(
        {f"{prefix}{key}": value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "m.safetensors"
    )
    found = formats.read(tmp_path / "m.safetensors", base=base)
    assert same(found.state, dict(sorted(model.visual.state_dict().items())))
    assert any("token_embedding" in key for key in found.left_out)


class ImageEncoder(torch.nn.Module):
    """As task arithmetic saves it: a whole object, with transforms and functions in it."""

    def __init__(self, model: open_clip.CLIP) -> None:
        super().__init__()
        self.model = model
        self.train_preprocess = open_clip.image_transform(16, is_train=True)
        self.val_preprocess = open_clip.image_transform(16, is_train=False)
        self.cache_dir = Path("/somewhere")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickled_image_encoders_are_read_without_their_code(base, tmp_path, protocol, monkeypatch) -> None:
    encoder = ImageEncoder(clip())
    torch.save(encoder, tmp_path / "finetuned.pt", pickle_protocol=protocol)
    monkeypatch.delattr(f"{__name__}.ImageEncoder")
    found = formats.read(tmp_path / "finetuned.pt", base=base)
    assert found.form == "pickled model"
    assert same(found.state, dict(sorted(encoder.model.visual.state_dict().items())))


def test_everything_that_a_state_dict_has_is_found_in_a_pickled_model(tmp_path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2).half())
    model.register_buffer("passing", torch.ones(2), persistent=False)
    model[2].tied = model[2].weight
    torch.save(model, tmp_path / "m.pt")
    assert same(pickles.read(tmp_path / "m.pt"), dict(sorted(model.state_dict().items())))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("hidden", [False, True])
def test_code_in_a_pickle_is_not_run(base, tmp_path, hidden) -> None:
    encoder = ImageEncoder(clip())
    encoder.cache_dir = Evil(tmp_path / "ran")
    torch.save(encoder if hidden else Evil(tmp_path / "ran"), tmp_path / "evil.pt")
    if hidden:
        formats.read(tmp_path / "evil.pt", base=base)
    else:
        with pytest.raises(
            checkpoints.CheckpointError,
            match=r"expected a model with parameters in evil.pt; received an object without",
        ):
            formats.read(tmp_path / "evil.pt", base=base)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "ran").exists(), "it would have run"


def rewritten(path: Path, content: bytes) -> None:
    """The archive of torch.save with another data.pkl."""
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, part in parts.items():
            archive.writestr(name, content if name.endswith("data.pkl") else part)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", pickle.dumps(range(3))[:-4], b"\x80\x02" + b"(" * 100_000 + b".", b"\x80\x04\x8d" + (2**60).to_bytes(8, "little"),
     b"\x80\x02cbuiltins\neval\n(V1/0\ntR."],
)  # fmt: skip
def test_damaged_pickles_are_refused_in_one_sentence(base, tmp_path, content) -> None:
    torch.save(ImageEncoder(clip()), tmp_path / "m.pt")
    rewritten(tmp_path / "m.pt", content)
    with pytest.raises(checkpoints.CheckpointError, match="expected a model") as caught:
        formats.read(tmp_path / "m.pt", base=base)
    assert "\n" not in str(caught.value)


def test_tensor_that_reaches_beyond_its_storage_is_refused() -> None:
    storage = pickles._Storage(torch.arange(6.0))
    assert pickles._tensor(storage, 2, (2, 2), (2, 1)).tolist() == [[2, 3], [4, 5]]
    for offset, size, stride in (
        (3, (2, 2), (2, 1)),
        (0, (2**60,), (1,)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (7, (), ()),
        (0, (2**20, 2**20), (0, 0)),
    ):
        with pytest.raises(pickle.UnpicklingError):
            pickles._tensor(storage, offset, size, stride)


def test_modules_that_name_each_other_without_end_are_refused_at_once() -> None:
    inner = pickles.Inert()
    inner._parameters = {"weight": torch.ones(1)}
    for _ in range(40):
        outer = pickles.Inert()
        outer._modules = {"a": inner, "b": inner}
        inner = outer
    with pytest.raises(ValueError, match="expected modules in modules; received them nested without end"):
        list(pickles._tensors(inner, "", 0, iter(range(1000))))


def test_what_does_not_fit_is_refused_before_a_tensor_is_loaded(base, tmp_path, monkeypatch) -> None:
    def loaded(path: Path) -> None:
        raise AssertionError(f"{path} was loaded")

    monkeypatch.setattr(checkpoints, "load", loaded)
    state = {**other(base), "more": torch.ones(1)}
    save_file(state, tmp_path / "x.safetensors")
    many = index(tmp_path, {key: "one.safetensors" for key in state}, one=state)
    for path in (tmp_path / "x.safetensors", many):
        with pytest.raises(checkpoints.CheckpointError, match=r"and 1 extra \(more\)"):
            formats.read(path, base=base)


def test_precision_that_is_not_known_is_refused(base, tmp_path) -> None:
    save_file({**other(base), "proj": base["proj"].to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="received F8_E4M3; convert the checkpoint"):
        formats.read(tmp_path / "x.safetensors", base=base)


@pytest.mark.parametrize("change", [{"lora_alpha": "much"}, {"lora_alpha": None}, {"alpha_pattern": {"query": []}}])
def test_adapter_with_an_alpha_that_is_no_number_is_refused(tmp_path, change) -> None:
    model, base = bert(tmp_path)
    get_peft_model(model, LoraConfig(r=2, target_modules=["query"])).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}), encoding="utf-8")
    with pytest.raises(checkpoints.CheckpointError, match="as a number in adapter_config.json"):
        formats.read(tmp_path / "adapter", base=base)
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(checkpoints.CheckpointError, match="expected PEFT's configuration"):
        formats.read(tmp_path / "adapter", base=base)


def bert(tmp_path: Path):
    makers.tokeniser(tmp_path / "tokens")
    torch.manual_seed(0)
    model = BertModel(BertConfig(**makers.BERT)).eval()
    return model, dict(sorted(model.state_dict().items()))


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"alpha_pattern": {"query": 3}, "rank_pattern": {"query": 2}}]
)
def test_adapters_expand_to_what_peft_computes(tmp_path, options) -> None:
    model, base = bert(tmp_path)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=["query", "dense"], **options))
    for key, value in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    found = formats.read(tmp_path / "adapter", base=base)
    expected = dict(sorted(adapted.merge_and_unload().state_dict().items()))
    assert found.factors is not None
    assert min(min(one.up.shape[1], one.down.shape[0]) for one in found.factors.values()) >= 2
    for key in expected:
        torch.testing.assert_close(found.state[key], expected[key])
    assert not torch.equal(
        found.state["encoder.layer.0.attention.self.query.weight"], base["encoder.layer.0.attention.self.query.weight"]
    )


def test_adapter_of_hugging_faces_clip_comes_under_open_clips_names(tower, base, tmp_path) -> None:
    state = hugging_face.from_open_clip(base)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).eval()
    model.load_state_dict(state)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj", "fc1"]))
    for key, value in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.2)
    adapted.save_pretrained(tmp_path)
    found = formats.read(tmp_path, base=base).state
    inputs = tower.prepare(makers.pictures(4, seed=0)[0])
    torch.testing.assert_close(
        tower.features(found, inputs), adapted(pixel_values=inputs).image_embeds, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("options", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["pooler"]}])
def test_adapters_that_change_more_than_factors_hold_are_refused(tmp_path, options) -> None:
    model, base = bert(tmp_path)
    get_peft_model(model, LoraConfig(r=2, target_modules=["query"], **options)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(
        checkpoints.CheckpointError, match=r"expected an adapter of factors alone \(LoRA\); received one with"
    ):
        formats.read(tmp_path / "adapter", base=base)


def test_classification_head_of_its_own_is_refused_and_can_be_left_out(tmp_path) -> None:
    _, base = bert(tmp_path)
    whole = BertForSequenceClassification(BertConfig(**makers.BERT, num_labels=3))
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(checkpoints.CheckpointError, match="received one with a classification head"):
        formats.read(tmp_path / "whole", base=base)
    found = formats.read(tmp_path / "whole", base=base, ignored=["classifier.*"])
    assert same(found.state, dict(sorted(whole.bert.state_dict().items())))
    assert found.left_out == ("classifier.bias", "classifier.weight")


def test_added_tokens_are_named_as_the_reason(tmp_path) -> None:
    _, base = bert(tmp_path)
    BertModel(BertConfig(**{**makers.BERT, "vocab_size": 203})).save_pretrained(tmp_path / "more")
    with pytest.raises(
        checkpoints.CheckpointError,
        match="an expert with added tokens; bring a checkpoint of the same encoder and vocabulary",
    ):
        formats.read(tmp_path / "more", base=base)


def test_part_of_an_encoder_is_refused_unless_a_pattern_says_otherwise(base, tmp_path) -> None:
    state = other(base)
    part = {key: value for key, value in state.items() if not key.startswith("ln_")}
    save_file(part, tmp_path / "part.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match=r"received 4 missing \(ln_post.bias"):
        formats.read(tmp_path / "part.safetensors", base=base)
    found = formats.read(tmp_path / "part.safetensors", base=base, missing=["ln_*"]).state
    assert torch.equal(found["ln_pre.weight"], base["ln_pre.weight"])
    assert torch.equal(found["proj"], state["proj"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_in_the_bases(base, tmp_path, dtype) -> None:
    state = {key: value.to(dtype) for key, value in other(base).items()}
    save_file(state, tmp_path / "half.safetensors")
    found = formats.read(tmp_path / "half.safetensors", base=base)
    assert found.form == f"safetensors, {str(dtype).removeprefix('torch.')}"
    assert all(value.dtype == torch.float32 for value in found.state.values())
    assert torch.equal(found.state["proj"], state["proj"].float())


def test_tensors_of_another_shape_are_refused(base, tmp_path) -> None:
    save_file({**other(base), "conv1.weight": torch.ones(16, 3, 4, 4)}, tmp_path / "x.safetensors")
    message = r"expected conv1.weight of shape \(16, 3, 8, 8\); received \(16, 3, 4, 4\); bring"
    with pytest.raises(checkpoints.CheckpointError, match=message):
        formats.read(tmp_path / "x.safetensors", base=base)


def index(folder: Path, weight_map: object, **files: dict[str, torch.Tensor]) -> Path:
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(
        weight_map if isinstance(weight_map, str) else json.dumps({"weight_map": weight_map}), encoding="utf-8"
    )
    return path


def test_indices_that_do_not_hold_are_refused(tmp_path) -> None:
    one = {"a": torch.ones(2)}
    cases = [
        ({"a": "one.safetensors", "b": "two.safetensors"}, "expected the shard two.safetensors beside"),
        ({"a": "../one.safetensors"}, "received '../one.safetensors', which leads elsewhere"),
        ({"b": "one.safetensors"}, "expected b in one.safetensors, as model.safetensors.index.json says"),
        ('{"weight_map": {"a": "one.safetensors", "a": "one.safetensors"}}', "a key that occurs twice"),
        ('{"weight_map": 1}', "expected an index of shards"),
        ("[" * 100_000, "expected an index of shards"),
        ({"a": "one.safetensors", "c": "three.safetensors"}, "expected each tensor in one shard; received a in"),
    ]
    for content, message in cases:
        path = index(tmp_path, content, one=one, three={**one, "c": torch.ones(1)})
        with pytest.raises(checkpoints.CheckpointError, match=message):
            sharded.shards(path)
    (tmp_path / "elsewhere").mkdir()
    save_file(one, tmp_path / "elsewhere/x.safetensors")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "elsewhere/x.safetensors")
    assert sharded.shards(index(tmp_path, {"a": "link.safetensors"})), "a link within the folder is fine"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/out.safetensors").symlink_to(tmp_path / "elsewhere/x.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="which leads elsewhere"):
        sharded.shards(index(tmp_path / "sub", {"a": "out.safetensors"}))


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, (2**60).to_bytes(8, "little") + b"{}", b"\x08" + bytes(7) + b'{"a":1}']
)
def test_files_that_are_not_safetensors_are_refused(base, tmp_path, content) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(checkpoints.CheckpointError, match="expected a whole safetensors file"):
        formats.read(tmp_path / "m.safetensors", base=base)


@pytest.mark.parametrize("most", [1_000_000, 2_000])
def test_transformers_reads_what_is_written_for_it(tower, base, tmp_path, most) -> None:
    foreign = tower.hugging_face(other(base))
    written = sharded.write(foreign.weights["model.safetensors"], tmp_path, most=most)
    assert (sharded.INDEX in written, len(written) > 2) == (most < 10_000, most < 10_000)
    for name, content in foreign.documents.items():
        (tmp_path / name).write_text(json.dumps(content))
    model = CLIPVisionModelWithProjection.from_pretrained(tmp_path).eval()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(pixel_values=images).image_embeds, tower.features(other(base), images), atol=1e-5)
    assert same(formats.read(tmp_path, base=base).state, other(base)), "and it is read back as it was"


def test_tower_that_transformers_has_not_is_refused_by_name() -> None:
    pooled = {**makers.BACKBONE, "vision_cfg": {**makers.BACKBONE["vision_cfg"], "attentional_pool": True}}
    backbone = backbones.build(pooled)
    with pytest.raises(ValueError, match="received one with attentional_pool; export it for open_clip"):
        backbone.hugging_face(backbone.initial_state(seed=0))


def test_nothing_is_read_of_a_file_that_does_not_fit(base, tmp_path, monkeypatch) -> None:
    save_file({key: value for key, value in other(base).items() if key != "proj"}, tmp_path / "x.safetensors")
    found = checkpoints.deferred(tmp_path / "x.safetensors")
    for value in found.values():
        value.make = lambda: pytest.fail("a tensor was read")
    with pytest.raises(checkpoints.CheckpointError, match="received 1 missing"):
        formats.named(found, base=base, form="")
