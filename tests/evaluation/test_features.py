"""Features of pictures: from files and from an evaluation's folder, kept, and extracted again where they must be."""

from typing import ClassVar

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.core.files import write_png
from ditq.evaluation.features import Extracted, OwnFeatures, extract, folder_batches, pictures_in
from ditq.evaluation.features.networks import softmax
from ditq.models import load


class Means:
    """Three means of each picture; counts what it looks at."""

    name = title = "means"
    metrics: ClassVar = {"frechet": "distance of means"}

    def __init__(self, fingerprint="one"):
        self.fingerprint, self.seen = fingerprint, 0

    def __call__(self, pictures):
        self.seen += len(pictures)
        rows = np.stack([one.mean((0, 1)) for one in pictures]).astype(np.float32)
        return Extracted(rows, np.zeros((len(rows), 0), np.float32))


@pytest.fixture
def folder(tmp_path):
    """Seven pictures of different sizes, and a file that is none."""
    rng, own = np.random.default_rng(0), tmp_path / "pictures"
    for number in range(7):
        write_png(own / f"{number}.png", rng.integers(0, 256, (8 + number, 9, 3), np.uint8), {})
    (own / "notes.txt").write_text("none")
    return own


def test_features_are_those_of_each_picture_and_are_kept(folder, tmp_path):
    files, network, steps = pictures_in(folder, 7), Means(), []
    assert [path.name for path in files] == [f"{number}.png" for number in range(7)]
    found = extract(network, folder_batches(files, 3), tmp_path / "kept", steps.append)
    assert found.features.shape == (7, 3) and steps == [3, 3, 1] and network.seen == 7
    again = extract(network, folder_batches(files, 3), tmp_path / "kept")
    np.testing.assert_array_equal(found.features, again.features)
    assert network.seen == 7


def test_a_run_that_was_interrupted_goes_on_behind_its_last_batch(folder, tmp_path):
    class Interrupted(Means):
        def __call__(self, pictures):
            if self.seen == 6:
                raise KeyboardInterrupt
            return super().__call__(pictures)

    files, network = pictures_in(folder, 7), Means()
    with pytest.raises(KeyboardInterrupt):
        extract(Interrupted(), folder_batches(files, 3), tmp_path / "kept")
    found = extract(network, folder_batches(files, 3), tmp_path / "kept")
    whole = extract(Means(), folder_batches(files, 3), tmp_path / "unbroken")
    np.testing.assert_array_equal(found.features, whole.features)
    assert network.seen == 1


def test_a_batch_is_looked_at_again_when_its_file_pictures_or_network_change(folder, tmp_path):
    files, network, kept = pictures_in(folder, 7), Means(), tmp_path / "kept"
    extract(network, folder_batches(files, 3), kept)
    (kept / "000000.npz").write_bytes((kept / "000000.npz").read_bytes()[:100])  # cut off
    extract(network, folder_batches(files, 3), kept)
    assert network.seen == 7 + 3
    write_png(files[6], np.zeros((30, 30, 3), np.uint8), {})
    found = extract(network, folder_batches(files, 3), kept)
    assert network.seen == 7 + 3 + 1 and not found.features[6].any()
    other = Means("two")
    extract(other, folder_batches(files, 3), kept)
    assert other.seen == 7


def test_folders_without_enough_pictures_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="got 7 pictures; expected 8 or more files .png"):
        pictures_in(folder, 8)
    with pytest.raises(UserError, match="got no such folder"):
        pictures_in(tmp_path / "nowhere", 1)
    with pytest.raises(UserError, match="no pictures"):
        extract(Means(), [], tmp_path / "kept")


def test_minis_classifier_describes_each_picture_by_itself():
    judge = load("mini").judge
    network = OwnFeatures(judge, "mini")
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 256, (3, 128, 128, 3), np.uint8))
    whole = network(pictures)
    assert whole.features.shape == (3, 320) and whole.probabilities.shape == (3, 24)
    np.testing.assert_array_equal(whole.features[1:2], network(pictures[1:2]).features)
    np.testing.assert_allclose(whole.probabilities.sum(1), 1, rtol=1e-6)
    labels = judge.see(np.stack(pictures)).labels[:, 0]
    assert whole.probabilities.argmax(1).tolist() == labels.tolist()
    with pytest.raises(UserError, match="128 x 128"):
        network([pictures[0][:64]])


def test_softmax_is_its_definition():
    logits = np.array([[0.0, 1.0, 2.0], [1000.0, 0.0, -1000.0]], np.float32)
    wanted = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    np.testing.assert_allclose(softmax(logits), [wanted, [1, 0, 0]], rtol=1e-6)
