from labkit.ui.markup import Html, join, tag, unbroken


def test_text_is_escaped_as_child_and_as_attribute():
    hostile = "<script>alert('x')</script>"
    element = tag("td", hostile, attributes={"title": '"><img src=x>'})
    assert "<script" not in element
    assert "<img" not in element


def test_markup_is_not_escaped_again():
    assert tag("p", tag("b", "a & b")) == "<p><b>a &amp; b</b></p>"
    assert join([Html("<br>"), "<"]) == "<br>&lt;"


def test_void_elements_have_no_end_tag_and_absent_attributes_are_left_out():
    assert tag("img", attributes={"alt": "", "width": None}) == '<img alt="">'


def test_no_line_ends_between_a_number_and_its_unit_or_within_an_interval():
    told = unbroken("1.27\u00d7 its rate [1.19, 1.33]; 33.6 % of the limit, 8 blocks, 5.04 ms, 1,551 tok/s, 2 more")
    assert told.split(" ") == [
        "1.27\u00d7", "its", "rate", "[1.19,\xa01.33];", "33.6\xa0%", "of", "the", "limit,", "8\xa0blocks,",
        "5.04\xa0ms,", "1,551\xa0tok/s,", "2", "more",
    ]  # fmt: skip
