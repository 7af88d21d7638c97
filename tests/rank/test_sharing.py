from inlay.lab.rank.sharing import share_out


def test_the_most_worth_for_the_cost_comes_first() -> None:
    gains = {"a": [8.0, 4.0, 0.5], "b": [6.0, 3.0], "c": [1.0, 1.0]}
    assert share_out(gains, {"a": 1, "b": 1, "c": 1}, 4) == {"a": 2, "b": 2, "c": 0}
    assert share_out(gains, {"a": 4, "b": 1, "c": 1}, 4) == {"a": 0, "b": 2, "c": 2}


def test_the_budget_is_never_overdrawn_and_what_is_left_goes_to_who_fits() -> None:
    gains = {"wide": [9.0, 9.0], "narrow": [1.0, 1.0, 1.0]}
    costs = {"wide": 5, "narrow": 2}
    taken = share_out(gains, costs, 9)
    assert taken == {"wide": 1, "narrow": 2}
    assert sum(taken[layer] * costs[layer] for layer in taken) == 9


def test_a_layer_takes_its_directions_in_their_order() -> None:
    """After one that does not fit, none of the layer's later ones is taken in its place."""
    assert share_out({"a": [4.0, 3.0], "b": [9.0]}, {"a": 3, "b": 1}, 3) == {"a": 0, "b": 1}


def test_every_layer_gets_its_least_first() -> None:
    assert share_out({"a": [9.0, 9.0, 9.0], "b": [0.1, 0.1]}, {"a": 1, "b": 1}, 3, at_least=1) == {"a": 2, "b": 1}


def test_what_is_worth_nothing_is_spread_evenly() -> None:
    assert share_out({"a": [1.0, 0.0, 0.0], "b": [0.0, 0.0, 0.0]}, {"a": 1, "b": 1}, 4, at_least=1) == {"a": 2, "b": 2}
