import socket

import numpy as np
import pytest

from tl_jax.data import tfds as ours
from tl_jax.data.documents import read_documents
from tl_jax.data.readers import read_labelled, read_table
from tl_jax.files.errors import DataError, SourceError

tfds = pytest.importorskip("tensorflow_datasets")
epath = pytest.importorskip("etils.epath")


class Reviews(tfds.core.GeneratorBasedBuilder):
    """Three reviews, as a data set of TFDS that needs no download."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=["neg", "pos"]),
                    "stars": np.float32,
                    "scores": tfds.features.Sequence(np.int32),
                }
            )
        )

    def _split_generators(self, manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for i, text in enumerate(["좋아요 \ufeff", "bad", "é"]):
            yield i, {"text": text, "label": i % 2, "stars": i / 2, "scores": [i]}

    @property
    def url_infos(self):
        return {}


@pytest.fixture
def prepared(tmp_path):
    Reviews(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    return tmp_path


def test_prepared_data_are_read_without_tensorflow(prepared):
    data = read_labelled("tfds:reviews:train", data_dir=prepared)
    # TFDS keeps the examples in hash order, so compare them as a set.
    assert set(zip(data.texts, data.labels or [], strict=True)) == {
        ("좋아요 \ufeff", "neg"),
        ("bad", "pos"),
        ("é", "neg"),
    }
    assert data.places[2] == "tfds:reviews:train example 2"
    table = read_table("tfds:reviews:1.0.0:test", data_dir=prepared)
    assert set(table.columns) == {"text", "label", "stars"}
    assert set(table.columns["stars"]) == {"0.0", "0.5", "1.0"}
    assert len(read_table("tfds:reviews:train[:2]", data_dir=prepared)) == 2
    assert len(read_table("tfds:reviews:train+test[1:]", data_dir=prepared)) == 5


def test_what_is_not_there_is_told(prepared):
    with pytest.raises(SourceError, match="no such data set"):
        read_table("tfds:reviewz_of_nothing", data_dir=prepared)
    with pytest.raises(SourceError, match="Did you mean 'glue'"):
        read_table("tfds:gleu/qnli", data_dir=prepared)
    with pytest.raises(DataError, match=r"no split 'dev' among \['test', 'train'\]"):
        read_table("tfds:reviews:dev", data_dir=prepared)
    with pytest.raises(SourceError, match="not of the form"):
        read_table("tfds:", data_dir=prepared)
    with pytest.raises(SourceError, match="glue/nothing"):
        read_table("tfds:glue/nothing", data_dir=prepared)


def test_a_set_that_cannot_be_prepared_fails_fast(tmp_path, monkeypatch, caplog):
    asked = []
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def refuse(address, timeout):
        asked.append((address, timeout))
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(SourceError) as caught:
        read_table("tfds:glue/qnli", data_dir=tmp_path)
    assert "dl.fbaipublicfiles.com" in str(caught.value)
    assert "pip install 'tl-jax[tfds]'" in str(caught.value)
    assert asked
    assert all(timeout <= 3 for _, timeout in asked)
    assert not caplog.records  # the error is all that is said
    asked.clear()
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    with pytest.raises(SourceError, match=r"proxy\.example, the proxy to dl\.fbai"):
        read_table("tfds:glue/qnli", data_dir=tmp_path)
    assert {address for address, _ in asked} == {("proxy.example", 3128)}


def test_preparing_says_when_tensorflow_is_needed(tmp_path, monkeypatch):
    builder = Reviews(data_dir=tmp_path, file_format="array_record")

    def fail():
        raise ModuleNotFoundError("No module named 'tensorflow'")

    monkeypatch.setattr(builder, "download_and_prepare", fail)
    with pytest.raises(SourceError, match="preparing it needs TensorFlow"):
        ours._prepare(builder, "reviews")


def test_preparing_works_where_nothing_stands_in_the_way(tmp_path):
    builder = Reviews(data_dir=tmp_path, file_format="array_record")
    ours._prepare(builder, "reviews")
    assert len(read_table("tfds:reviews", data_dir=tmp_path)) == 3


def test_broken_files_are_a_typed_error(prepared):
    for file in prepared.rglob("*array_record*"):
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(SourceError, match=r"broken|cannot be read"):
        read_table("tfds:reviews", data_dir=prepared)


def test_a_prepared_folder_needs_no_builder_code(prepared, monkeypatch):
    # The code that made the folder may be elsewhere: its files say all there is to say.
    (prepared / "reviews").rename(prepared / "reviews_from_elsewhere")
    for info in prepared.rglob("dataset_info.json"):
        info.write_text(
            info.read_text().replace('"reviews"', '"reviews_from_elsewhere"')
        )
    for file in [*prepared.rglob("reviews-*")]:
        file.rename(
            file.with_name(file.name.replace("reviews-", "reviews_from_elsewhere-"))
        )
    name = "tfds:reviews_from_elsewhere:train"
    data = read_labelled(name, data_dir=prepared)
    assert sorted(data.labels or []) == ["neg", "neg", "pos"]
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert read_labelled(name).texts == data.texts


def test_texts_are_documents_of_pre_training(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    name = "tfds:reviews:train"
    both = list(read_documents([name], [name]))
    assert {d.segments[0].rstrip("\ufeff ") for d in both[:3]} == {"좋아요", "bad", "é"}
    assert [d.connected for d in both] == [True] * 3 + [False] * 3
    assert len(list(read_documents(["tfds:reviews:train[:2]"]))) == 2
    before = ours.tfds_hash(name)
    with pytest.raises(DataError, match="no split 'dev'"):
        list(read_documents(["tfds:reviews:dev"]))
    monkeypatch.setattr(ours, "TEXT", "stories")
    with pytest.raises(DataError, match=r"no text feature 'stories' among \['label'"):
        list(read_documents([name]))
    file = next(f for f in prepared.rglob("*array_record*") if f.is_file())
    file.write_bytes(file.read_bytes() + b"x")
    assert ours.tfds_hash(name) != before
