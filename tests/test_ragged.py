import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kddcup.io.ragged import Ragged, find_rows

lists_of_numbers = st.lists(st.lists(st.integers(-3, 3), max_size=5), max_size=8)


def unpacked(ragged):
    return [ragged[i].tolist() for i in range(len(ragged))]


@st.composite
def lists_and_indices(draw):
    lists = draw(st.lists(st.lists(st.integers(-3, 3), max_size=5), min_size=1, max_size=8))
    return lists, draw(st.lists(st.integers(0, len(lists) - 1), max_size=12))


def test_flat_rows_are_the_positions_of_each_list_in_turn():
    rows, lengths = find_rows(np.array([0, 2, 2, 5]), np.array([2, 0, 1, 2]))
    assert rows.tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert lengths.tolist() == [3, 2, 0, 3]


@settings(deadline=None)
@given(lists_of_numbers)
def test_lists_come_back_as_they_were_packed(lists):
    ragged = Ragged.from_lists((one for one in lists), np.int32)
    assert len(ragged) == len(lists)
    assert unpacked(ragged) == lists
    assert ragged.lengths.tolist() == [len(one) for one in lists]
    assert (ragged.values.dtype, ragged.offsets.dtype) == (np.int32, np.int64)


def test_the_distinct_values_of_each_key_are_collected_in_ascending_order():
    found = Ragged.collect(np.array([2, 0, 2, 2, 0]), np.array([7, 5, 3, 7, 5]), 4)
    assert unpacked(found) == [[5], [], [3, 7], []]


def test_many_numbers_are_packed_in_chunks_without_loss():
    ragged = Ragged.from_lists((range(i, i + 400_000) for i in range(6)), np.int64)
    assert [(one[0], one[-1], len(one)) for one in (ragged[i] for i in range(6))] == [
        (i, i + 399_999, 400_000) for i in range(6)
    ]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=6))
def test_texts_come_back_as_they_were_packed(texts):
    ragged = Ragged.from_texts(texts)
    assert [ragged[i].tobytes().decode() for i in range(len(ragged))] == texts
    assert ragged.values.dtype == np.uint8


@settings(deadline=None)
@given(lists_and_indices())
def test_take_gives_lists_in_any_order_and_repeated(case):
    lists, indices = case
    taken = Ragged.from_lists(lists, np.int64).take(np.array(indices, np.int64))
    assert unpacked(taken) == [lists[i] for i in indices]


@settings(deadline=None)
@given(lists_of_numbers, st.integers(-3, 3))
def test_without_takes_every_occurrence_out(lists, value):
    ragged = Ragged.from_lists(lists, np.int64)
    assert unpacked(ragged.drop(value)) == [[one for one in some if one != value] for some in lists]
    assert unpacked(ragged) == lists


@settings(deadline=None)
@given(st.lists(st.integers(-2, 4), max_size=12))
def test_group_lists_the_positions_of_each_key_and_none_of_negative_ones(keys):
    grouped = Ragged.group(np.array(keys, np.int32), 6)
    assert unpacked(grouped) == [[i for i, key in enumerate(keys) if key == group] for group in range(6)]


def test_a_list_is_a_view():
    ragged = Ragged.from_lists([[1, 2], [3]], np.int64)
    assert ragged[1].base is ragged.values
