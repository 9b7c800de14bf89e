"""What differs, in words, and names of folders made of it."""

from taemi_lib.support.differences import changes, differences, flat
from taemi_lib.support.naming import mark, named, nearest, safe

ONE = {"training": {"epochs": 2, "rates": [1, 2]}, "seed": 0}


def test_nested_settings_become_dotted_names():
    assert flat(ONE) == {"training.epochs": 2, "training.rates": [1, 2], "seed": 0}


def test_each_leaf_that_differs_is_a_line_with_both_values():
    two = {"training": {"epochs": 3, "rates": (1, 2)}, "extra": None}
    assert differences(ONE, two) == [
        "extra is absent there, None now",
        "seed is 0 there, absent now",
        "training.epochs is 2 there, 3 now",
    ]
    assert differences(ONE, ONE) == []
    assert changes(ONE, two) == {"training.epochs": 3, "extra": None}


def test_a_name_says_what_differs_from_the_nearest_known_settings():
    known = {"small": {"width": 8, "heads": 2}, "large": {"width": 64, "heads": 2}}
    near = nearest(known, {"width": 64, "heads": 4})
    assert near == ("large", {"heads": 4}) and named(*near) == "large+heads=4"
    assert nearest(known, {"width": 9, "heads": 2})[0] == "small"  # the first of equally near ones


def test_names_are_safe_for_every_file_system_and_stay_apart():
    values = ["a b", "a_b", "a/b", "../b", "", "ü", None, False, 0.006, [1, 2], "x" * 300]
    found = [named("demo", {"text": value}) for value in values]
    assert len(set(found)) == len(values)
    assert all(len(name) <= 110 and "/" not in name and " " not in name for name in found)
    assert found[-3:-1] == ["demo+text=0.006", "demo+text=1,2"]
    assert safe("plain-1.2_x") == "plain-1.2_x" and mark("a") != mark("b")
