"""The end of an error's sentence: the nearest valid name, or all of them."""

from posttrain.runtime.errors import nearest


def test_a_typing_mistake_gets_the_one_name_that_was_meant():
    assert nearest("rnak", ["rank", "beta", "data"]) == "did you mean 'rank'?"


def test_a_word_like_no_name_gets_the_names_in_their_order():
    assert nearest("xyz", ["rank", "beta"]) == "valid are rank, beta"
    assert nearest("xyz", {"rank", "beta"}) == "valid are beta, rank"


def test_a_long_list_is_cut_and_counted():
    assert nearest("?", [f"name{i:02}" for i in range(15)]).endswith("name11 and 3 more")


def test_no_valid_name_is_said():
    assert nearest("rank", []) == "none is configured"
