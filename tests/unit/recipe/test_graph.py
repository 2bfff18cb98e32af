import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.recipe.graph import ancestors, cycles, descendants, order, ordered_part

DIAMOND = {"d": ["b", "c"], "b": ["a"], "a": [], "c": ["a"]}


def test_order_is_stable():
    assert order(DIAMOND) == ["a", "b", "c", "d"]
    assert order({"z": [], "y": [], "x": ["y"]}) == ["z", "y", "x"]


def test_ancestors_and_descendants():
    assert ancestors(DIAMOND, "d") == {"a", "b", "c"}
    assert descendants(DIAMOND, "a") == {"b", "c", "d"}
    assert ancestors(DIAMOND, "a") == descendants(DIAMOND, "d") == set()


def test_each_knot_gives_its_cycle():
    tangled = {"a": ["a"], "b": ["a", "c"], "c": ["b"], "d": ["c"], "e": []}
    assert cycles(tangled) == [["a"], ["b", "c"]]
    assert ordered_part(tangled) == ["e"]
    with pytest.raises(ValueError, match="cycles"):
        order(tangled)


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"))))
def test_an_order_exists_exactly_where_there_is_no_cycle(graph):
    graph = {name: [need for need in needs if need in graph] for name, needs in graph.items()}
    found = cycles(graph)
    if not found:
        place = {name: number for number, name in enumerate(order(graph))}
        assert all(place[need] < place[name] for name, needs in graph.items() for need in needs)
    for cycle in found:
        assert all(
            after in graph[before] for before, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True)
        )
    assert bool(found) == (len(ordered_part(graph)) < len(graph))
