from labkit.ui.markup import Html, join, tag


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
