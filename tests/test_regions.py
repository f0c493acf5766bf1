import io
import os
import pickle

import numpy as np
import pytest
import torch

from kddcup.data.batch import RegionBatch, scale_boxes
from kddcup.data.store import STORE_FILES, GrowingArray, RegionStore, open_array, write_array
from kddcup.io.errors import UserError
from kddcup.io.files import write_json
from kddcup.io.folders import MARKER, write_marker

DIM = 3
LENGTHS = (2, 1, 4, 3, 1)
IDS = (50, 7, 900, 8, 51)


def batch(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return RegionBatch.from_images(
        (rng.random((n, DIM), np.float32), rng.random((n, 5), np.float32)) for n in lengths
    )


def assert_same(one, other):
    for name in ("features", "boxes", "lengths"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def write_store(folder, dtype=np.float32):
    """A store of five products; gives (features, boxes) of each by its id."""
    rng = np.random.default_rng(1)
    images = {
        product: (rng.standard_normal((n, DIM)).astype(dtype), rng.random((n, 5), np.float32))
        for product, n in zip(IDS, LENGTHS, strict=True)
    }
    write_array(folder / "features.npy", np.concatenate([features for features, _ in images.values()]))
    write_array(folder / "boxes.npy", np.concatenate([boxes for _, boxes in images.values()]))
    write_array(folder / "offsets.npy", np.cumsum([0, *LENGTHS]))
    write_array(folder / "product_ids.npy", np.array(IDS))
    write_marker(folder, STORE_FILES, {})
    return images


def test_boxes_are_scaled_by_height_and_width_and_followed_by_their_area():
    boxes = np.array([[10, 40, 60, 200], [0, 0, 100, 400], [-10, 0, 50, 440]], np.float32)
    scaled = scale_boxes(boxes, height=100, width=400)
    expected = [[0.1, 0.1, 0.6, 0.5, 0.2], [0, 0, 1, 1, 1], [-0.1, 0, 0.5, 1.1, 0.66]]
    np.testing.assert_allclose(scaled, expected, atol=1e-6)
    assert scaled.dtype == np.float32


def test_a_batch_holds_image_after_image():
    first = (np.full((2, DIM), 1, np.float32), np.full((2, 5), 2, np.float32))
    second = (np.full((1, DIM), 3, np.float32), np.full((1, 5), 4, np.float32))
    made = RegionBatch.from_images([first, second])
    assert len(made) == 2
    assert made.lengths.tolist() == [2, 1]
    assert made.features[:, 0].tolist() == [1, 1, 3]
    assert made.boxes[:, 0].tolist() == [2, 2, 4]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_growing_array_is_a_plain_npy_file(tmp_path, dtype):
    rng = np.random.default_rng(0)
    parts = [rng.random((n, DIM)).astype(dtype) for n in (1, 5, 2, 1000)]
    with open(tmp_path / "a.npy", "wb") as file:
        growing = GrowingArray(file, DIM, dtype)
        for part in parts:
            growing.append(part)
        assert growing.rows == 1008
        growing.close()
    for mode in (None, "r"):
        loaded = np.load(tmp_path / "a.npy", mmap_mode=mode)
        assert loaded.dtype == dtype
        np.testing.assert_array_equal(loaded, np.concatenate(parts))


def test_a_growing_array_goes_on_after_the_rows_that_count(tmp_path):
    rows = np.random.default_rng(0).random((9, DIM), np.float32)
    with open(tmp_path / "a.npy", "wb") as file:
        growing = GrowingArray(file, DIM, np.float32)
        growing.append(rows[:6])
        assert growing.flush() == (tmp_path / "a.npy").stat().st_size
    with open(tmp_path / "a.npy", "r+b") as file:
        growing = GrowingArray(file, DIM, np.float32, rows=4)
        growing.append(rows[4:])
        growing.close()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), rows)
    np.save(tmp_path / "plain.npy", rows)
    assert (tmp_path / "a.npy").stat().st_size == (tmp_path / "plain.npy").stat().st_size


def test_a_growing_arrays_header_has_room_for_any_number_of_rows(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        growing = GrowingArray(file, DIM, np.float32)
        start = file.tell()
        growing.rows = 10**15
        growing.close()
        assert file.tell() == start


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("positions", [[0, 1, 2, 3, 4], [4, 2, 0], [3], [2, 2, 0, 2], [1, 4, 1, 3, 3]])
def test_gather_gives_the_regions_of_each_product_in_the_order_asked(tmp_path, dtype, positions):
    images = list(write_store(tmp_path, dtype).values())
    found = RegionStore(tmp_path).gather(np.array(positions))
    assert_same(
        found, RegionBatch.from_images((images[i][0].astype(np.float32), images[i][1]) for i in positions)
    )
    assert (found.features.dtype, found.boxes.dtype, found.lengths.dtype) == (
        torch.float32,
        torch.float32,
        torch.int64,
    )


def test_products_are_found_by_id_in_any_order(tmp_path):
    images = write_store(tmp_path)
    store = RegionStore(tmp_path)
    assert (len(store), store.dim) == (5, DIM)
    wanted = [900, 7, 7, 51, 50, 8]
    assert [IDS[i] for i in store.positions(np.array(wanted))] == wanted
    found = store.gather(store.positions(np.array(wanted)))
    assert_same(found, RegionBatch.from_images(images[product] for product in wanted))


@pytest.mark.parametrize("stranger", [1, 9, 10**12])
def test_a_product_without_regions_is_named(tmp_path, stranger):
    write_store(tmp_path)
    with pytest.raises(UserError, match=rf"product {stranger} has no regions.*preprocess\.py --force"):
        RegionStore(tmp_path).positions(np.array([7, stranger]))


@pytest.mark.parametrize("name", ["features.npy", "boxes.npy", "offsets.npy", "product_ids.npy"])
def test_an_absent_file_is_named_with_the_command_that_makes_it(tmp_path, name):
    write_store(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=rf"{name} does not exist.*preprocess\.py"):
        RegionStore(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 100, -4])
def test_a_torn_file_is_refused(tmp_path, kept):
    write_store(tmp_path)
    content = (tmp_path / "features.npy").read_bytes()
    (tmp_path / "features.npy").write_bytes(content[:kept])
    with pytest.raises(UserError, match=r"features\.npy has .* bytes and had .*preprocess\.py .*--force"):
        RegionStore(tmp_path)
    write_marker(tmp_path, STORE_FILES, {})
    with pytest.raises(UserError, match=r"features\.npy cannot be read \(.*preprocess\.py --force"):
        RegionStore(tmp_path)


def test_a_store_without_its_marker_is_unfinished(tmp_path):
    write_store(tmp_path)
    (tmp_path / "complete.json").unlink()
    with pytest.raises(UserError, match=r"complete\.json does not exist: run 'python preprocess\.py"):
        RegionStore(tmp_path)


def npy(header):
    """A ``.npy`` file of 96 bytes under a header that need not fit them."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(96)


def saved(save, *args, **options):
    """The bytes that a function of numpy saves."""
    buffer = io.BytesIO()
    save(buffer, *args, **options)
    return buffer.getvalue()


PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (8, 3)}\n"


@pytest.mark.parametrize(
    "content",
    [
        saved(np.save, np.array([[print, 2]], object), allow_pickle=True),
        saved(np.savez, features=np.zeros((8, 3), np.float32)),
        pickle.dumps(np.zeros((8, 3), np.float32)),
        npy(PLAIN.replace("8", "9")),
        npy(PLAIN.replace("8", "1" + 11 * "0")),
        npy(PLAIN.replace("8", str(2**62))),
        npy(PLAIN.replace("8", str(2**70))),
        npy(PLAIN.replace("8, 3", "-8, -3")),
        npy(PLAIN.replace("8, 3", "24,")),
        npy(PLAIN.replace("8, 3", "4, 2, 3")),
        npy(PLAIN.replace("<f4", ">f4")),
        npy(PLAIN.replace("<f4", "|V0")),
        npy(PLAIN.replace("<f4", "<i4")),
        npy(PLAIN.replace("'<f4'", "[('a', '<f4')]")),
        npy(PLAIN.replace("(8, 3)", "print('run')")),
        npy(60_000 * "("),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    ],
)
def test_a_file_that_is_no_array_of_its_size_and_type_is_refused(tmp_path, content, capsys):
    write_store(tmp_path)
    (tmp_path / "features.npy").write_bytes(content)
    write_marker(tmp_path, STORE_FILES, {})
    with pytest.raises(
        UserError, match=r"features\.npy (cannot be read|is an array) .*preprocess\.py --force"
    ) as caught:
        RegionStore(tmp_path)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_header_that_fits_is_read(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(PLAIN))
    assert open_array(tmp_path / "a.npy", 2, "float32").shape == (8, 3)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("features.npy", np.zeros((10, DIM), np.float32)),
        ("boxes.npy", np.zeros((12, 5), np.float32)),
        ("offsets.npy", np.array([0, 2, 3, 7, 10, 12])),
        ("boxes.npy", np.zeros((11, 4), np.float32)),
        ("offsets.npy", np.array([0, 3, 7, 10, 11])),
        ("offsets.npy", np.array([1, 2, 3, 7, 10, 11])),
        ("offsets.npy", np.array([0, 2, 1 << 40, 7, 10, 11])),
        ("offsets.npy", np.array([0, 2, 2, 7, 10, 11])),
        ("product_ids.npy", np.arange(6)),
    ],
)
def test_arrays_of_different_runs_are_refused(tmp_path, name, other):
    write_store(tmp_path)
    np.save(tmp_path / name, other)
    write_marker(tmp_path, STORE_FILES, {})
    with pytest.raises(UserError, match=r"different runs.*preprocess\.py --force"):
        RegionStore(tmp_path)


def test_a_store_larger_than_the_memory_is_opened_and_read(tmp_path):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    dim = 1 << 15
    products = 2 * memory // (2 * dim)  # of one region each; the files have holes for bytes
    for name, columns, dtype in (("features", dim, "float16"), ("boxes", 5, "float32")):
        np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", dtype, (products, columns))
    write_array(tmp_path / "offsets.npy", np.arange(products + 1))
    write_array(tmp_path / "product_ids.npy", np.arange(products))
    write_json(tmp_path / MARKER, {"files": {}})
    gathered = RegionStore(tmp_path).gather(np.array([products - 1, 0]))
    assert gathered.features.shape == (2, dim)


def test_an_empty_store_is_refused(tmp_path):
    for name, array in {
        "features": np.zeros((0, DIM), np.float32),
        "boxes": np.zeros((0, 5), np.float32),
        "offsets": np.zeros(1, np.int64),
        "product_ids": np.zeros(0, np.int64),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
    write_marker(tmp_path, STORE_FILES, {})
    with pytest.raises(UserError, match=r"preprocess\.py --force"):
        RegionStore(tmp_path)
