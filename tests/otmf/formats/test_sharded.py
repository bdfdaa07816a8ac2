"""Checkpoints in several files: one model, and what their index may not name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionModelWithProjection

from otmf import checkpoints, formats
from otmf.formats import sharded
from tests.otmf.formats.examples import index, other, same


def test_shards_with_an_index_are_one_checkpoint(base, theirs, tmp_path) -> None:
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="8KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert same(formats.read(tmp_path / "one", base=base).state, formats.read(tmp_path / "many", base=base).state)


def test_indices_that_do_not_hold_are_refused(tmp_path) -> None:
    one = {"a": torch.ones(2)}
    cases = [
        ({"a": "one.safetensors", "b": "two.safetensors"}, "expected the shard two.safetensors beside"),
        ({"a": "../one.safetensors"}, "received '../one.safetensors', which leads elsewhere"),
        ({"b": "one.safetensors"}, "expected b in one.safetensors, as model.safetensors.index.json says"),
        ('{"weight_map": {"a": "one.safetensors", "a": "one.safetensors"}}', "'a' named twice"),
        ('{"weight_map": 1}', "expected an index of shards"),
        ("[" * 100_000, "expected an index of shards"),
        ({"a": "one\0.safetensors"}, "which leads elsewhere"),
        ({"a": "\ud800.safetensors"}, "which leads elsewhere|received none"),
        ({"a": f"{'x' * 5000}.safetensors"}, "which leads elsewhere"),
        ({"c": "three.safetensors"}, "to name every tensor; received three.safetensors with a, which it does not"),
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
    with pytest.raises(checkpoints.CheckpointError, match="out.safetensors, a link that leads elsewhere"):
        sharded.shards(index(tmp_path / "sub", {"a": "out.safetensors"}))


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
