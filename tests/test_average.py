import pytest
import torch

from kddcup.train.average import WeightAverage


def test_the_average_follows_its_formula_and_leaves_the_parameters_alone():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    average = WeightAverage([weight], 0.75)
    for value in ([3.0, 2.0], [5.0, -2.0]):
        weight.data = torch.tensor(value)
        average.update()
    # 1 → 0.75·1 + 0.25·3 = 1.5 → 0.75·1.5 + 0.25·5 = 2.375; 2 → 2 → 0.75·2 − 0.25·2 = 1
    with average.applied() as raw:
        assert weight.tolist() == [2.375, 1.0]
        assert raw[0].tolist() == [5.0, -2.0]
    assert weight.tolist() == [5.0, -2.0]


def test_the_parameters_come_back_after_an_error():
    weight = torch.nn.Parameter(torch.ones(1))
    average = WeightAverage([weight], 0.5)
    weight.data = torch.zeros(1)
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert weight.item() == 0
