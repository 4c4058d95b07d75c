"""What a node of a cluster does, without a cluster: it checks the model, and answers as this machine does."""

import dataclasses
import json
import shutil

import pytest

pytest.importorskip("msgspec")
pytest.importorskip("ray")  # the module of the nodes is written on it

from test_batch import chat_row, many  # noqa: E402

from rwkv_np import demo  # noqa: E402
from rwkv_np.batch.on_ray import open_desk  # noqa: E402
from rwkv_np.batch.row import Form, read_row  # noqa: E402
from rwkv_np.batch.source import Line  # noqa: E402
from rwkv_np.cluster import node as node_module  # noqa: E402
from rwkv_np.cluster.node import VARIABLE, Node  # noqa: E402
from rwkv_np.cluster.parcel import pack  # noqa: E402
from rwkv_np.errors import FileError, InputError, RwkvError  # noqa: E402

OPTIONS = dict.fromkeys(("system", "opening", "state", "name", "template", "tokenizer", "head_q8_0", "head_epsilon"))
OPTIONS |= {"think": "auto", "max_tokens": None, "max_prompt": 1000, "seed": 0, "max_running": 4, "cache_mb": 1}
OPTIONS |= {"threads": 1}


@pytest.fixture
def parcel():
    return pack(str(demo.MODEL), OPTIONS, open_desk)


def rows(found):
    return [read_row(Line(i, json.dumps(row).encode()), Form()) for i, row in enumerate(found, 1)]


def answers(node, given):
    node.submit(given)
    found = []
    while len(found) < len(given):
        found += node.take()
    node._work.stop()
    return sorted(found)


def test_a_node_answers_as_this_machine(parcel):
    given = rows([*many(6), chat_row("bad", top_p=2)])
    node = Node("n")
    assert node.about(parcel).has_model
    assert node.open(parcel) == 12  # running, and some that wait
    desk = open_desk(str(demo.MODEL), OPTIONS)
    for row in given:
        desk.submit(row)
    here = sorted(desk.take() for _ in given)
    desk.stop()
    there = answers(node, given)
    assert [row.data for row in there] == [row.data for row in here] and there[6].is_error


def test_another_model_or_version_is_refused_by_the_nodes_name(parcel, model_fp16, monkeypatch):
    with pytest.raises(InputError, match="node n7 has rwkv_np .*install the same version"):
        Node("n7").about(dataclasses.replace(parcel, version="0.0"))
    monkeypatch.setenv(VARIABLE, str(model_fp16))
    with pytest.raises(FileError, match="is another model on node n7"):
        Node("n7").about(parcel)


def test_a_node_without_the_model_fetches_it_once(parcel, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere.bin"))
    monkeypatch.setattr(node_module.cache, "place", lambda name: tmp_path)
    calls = []

    def copy(read, write):
        calls.append(read)
        write(demo.MODEL.read_bytes())

    monkeypatch.setattr(node_module, "_copy", copy)
    assert not Node("n").about(parcel).has_model
    for _ in range(2):
        node = Node("n")
        node.open(parcel, "read")
        assert not answers(node, rows(many(1)))[0].is_error  # with the tokenizer that came in the parcel
    assert calls == ["read"]
    assert (tmp_path / parcel.fingerprint / "demo-FP16.bin").read_bytes() == demo.MODEL.read_bytes()


def test_a_model_that_arrives_damaged_is_not_kept(parcel, tmp_path, monkeypatch, model_fp16):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere.bin"))
    monkeypatch.setattr(node_module.cache, "place", lambda name: tmp_path)
    monkeypatch.setattr(node_module, "_copy", lambda read, write: write(model_fp16.read_bytes()))
    with pytest.raises(RwkvError, match="node n: .*arrived damaged"):
        Node("n").open(parcel, "read")
    assert not list((tmp_path / parcel.fingerprint).iterdir())


def test_the_files_that_options_name_travel_with_the_parcel(tmp_path):
    model, opening = tmp_path / "demo.bin", tmp_path / "opening.json"
    shutil.copy(demo.MODEL, model)
    shutil.copy(demo.TOKENIZER, tmp_path / "demo.tokenizer.json")
    opening.write_text(json.dumps({"text": "Alice is kind."}))
    parcel = pack(str(model), OPTIONS | {"opening": str(opening)}, open_desk)
    assert {name: file for name, (file, _) in parcel.files.items()} == {
        "opening": "opening.json",
        "tokenizer": "demo.tokenizer.json",
    }
    named = pack(str(model), OPTIONS | {"opening": "none", "tokenizer": str(demo.TOKENIZER)}, open_desk)
    assert set(named.files) == {"tokenizer"} and named.options["opening"] == "none"
