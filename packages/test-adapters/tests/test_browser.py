"""The browser verbs: one file, the same on Selenium and on Playwright."""

import json
import re

import pytest
from maestro_test_adapters.errors import (
    BrowserError,
    ElementNotReady,
    ExpectationFailed,
    NavigationFailed,
    NothingHappened,
    ScriptFailed,
    TestAdaptersError,
)


@pytest.fixture
def page(browser):
    """The home page, freshly opened."""
    browser.open("/index.html")
    return browser


@pytest.fixture
def log(page):
    """The paragraph in which the page says what happened."""
    return page.get(css="#log")


# Finding --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "tag"),
    [
        ({"role": "button", "name": "Send order"}, "BUTTON"),
        ({"role": "button", "name": "send", "exact": False}, "BUTTON"),
        ({"role": "button", "name": "Close window"}, "BUTTON"),
        ({"role": "button", "name": "Submit it"}, "INPUT"),
        ({"role": "heading", "name": "Shop"}, "H1"),
        ({"role": "navigation", "name": "Main"}, "NAV"),
        ({"role": "link", "name": re.compile("^Second")}, "A"),
        ({"role": "checkbox", "name": "I accept"}, "INPUT"),
        ({"role": "radio", "name": "Large"}, "INPUT"),
        ({"role": "combobox", "name": "Colour"}, "SELECT"),
        ({"role": "listbox", "name": "Tags"}, "SELECT"),
        ({"role": "textbox", "name": "Notes"}, "TEXTAREA"),
        ({"role": "img", "name": "Company logo"}, "IMG"),
        ({"role": "table", "name": "Prices"}, "TABLE"),
        ({"role": "columnheader", "name": "Price"}, "TH"),
        ({"role": "cell", "name": "Pie"}, "TD"),
        ({"label": "Name", "exact": True}, "INPUT"),
        ({"label": "E-mail address"}, "INPUT"),
        ({"label": "Editor"}, "DIV"),
        ({"text": "hello world"}, "P"),
        ({"text": "banana", "exact": True}, "LI"),
        ({"text": re.compile("cherry")}, "LI"),
        ({"testid": "total"}, "SPAN"),
        ({"placeholder": "your name"}, "INPUT"),
        ({"title": "mail title"}, "INPUT"),
        ({"alt": "logo"}, "IMG"),
        ({"css": "#list > li:first-child"}, "LI"),
        ({"xpath": "//ul[@id='list']/li[2]"}, "LI"),
        ({"css": "li", "has_text": "pie"}, "LI"),
        ({"css": "li", "nth": -1}, "LI"),
        ({"css": "#inner"}, "BUTTON"),
        ({"role": "button", "name": "In shadow"}, "BUTTON"),
    ],
    ids=str,
)
def test_each_kind_of_locator_finds_its_element(page, how, tag):
    assert page.get(**how).evaluate("(el) => el.tagName") == tag


def test_a_hidden_button_has_no_role_for_a_reader(page):
    page.evaluate("document.getElementById('send').style.display = 'none'")
    assert page.get(role="button", name="Send order").count() == 0


def test_locators_nest_and_narrow(page):
    items = page.get(css="#list").get(css="li")
    assert items.count() == 3
    assert items.texts() == ["apple", "banana", "cherry pie"]
    assert items.first.text() == "apple"
    assert items.last.text() == "cherry pie"
    assert items.nth(1).text() == "banana"
    assert items.filter(has_text="an").text() == "banana"
    assert page.get(css="p").filter(visible=False).count() == 4  # the empty log too


def test_two_matches_are_refused(page):
    with pytest.raises(
        ElementNotReady, match=r"strict: 3 elements match: <li>"
    ) as caught:
        page.get(css="#list li").click(timeout=0.2)
    assert caught.value.locator == "get(css='#list li')"


def test_a_wrong_name_shows_the_names_that_there_are(page):
    with pytest.raises(ElementNotReady, match="the page has radio 'Small', 'Large'"):
        page.get(role="radio", name="Huge").click(timeout=0.2)


def test_a_wrong_test_id_shows_those_that_there_are(page):
    with pytest.raises(ElementNotReady, match="the page has test id 'total'"):
        page.get(testid="totl").text(timeout=0.2)


def test_get_takes_one_kind(page):
    with pytest.raises(TypeError, match="exactly one of"):
        page.get(css="a", text="b")
    with pytest.raises(TypeError, match="goes with role"):
        page.get(css="a", name="b")


def test_a_bad_selector_says_so(page):
    with pytest.raises(TestAdaptersError, match="not a valid selector"):
        page.get(css="a[").click(timeout=0.2)


# Acting ------------------------------------------------------------------------------


def test_click(page, log):
    page.get(label="Name", exact=True).fill("Ada")
    page.get(role="button", name="Send order").click()
    log.should(text="sent by Ada")


def test_a_click_that_opens_a_slow_page_is_done_once(page):
    page.evaluate(
        "() => { const a = document.createElement('a'); a.href = '/slow?3';"
        " a.textContent = 'Slow page'; document.body.append(a); }"
    )
    page.get(text="Slow page").click()
    page.should_be_at(re.compile("/slow"), timeout=20)
    page.get(css="body").should(text="slow")
    assert [one.url[-7:] for one in page.requests].count("/slow?3") == 1


def test_click_far_below_scrolls_there(page, log):
    page.get(text="Far away").click()
    log.should(text="far")


def test_double_click(page, log):
    page.get(css="#dbl").dblclick()
    log.should(text="double")


def test_right_click(page, log):
    page.get(css="#ctx").click(button="right")
    log.should(text="context")


def test_an_unknown_mouse_button_is_refused(page):
    with pytest.raises(ValueError, match="left, right or middle"):
        page.get(css="#ctx").click(button="up")


def test_hover_opens_a_menu(page, log):
    page.get(css="#menu").hover()
    page.get(role="button", name="Choose").click()
    log.should(text="chosen")


def test_fill_replaces_and_tells_the_page(page):
    name = page.get(css="#name")
    name.fill("one")
    name.fill("two")
    name.should(value="two")
    assert page.evaluate("events") == ["input", "change", "input", "change"]


def test_fill_works_for_textarea_date_and_editable(page):
    page.get(css="#notes").fill("line\nbreak")
    page.get(css="#notes").should(value="line\nbreak")
    page.get(css="#day").fill("2026-02-03")
    page.get(css="#day").should(value="2026-02-03")
    page.get(css="#edit").fill("new text")
    page.get(css="#edit").should(text="new text")


def test_fill_refuses_what_the_input_cannot_take(page):
    with pytest.raises(ElementNotReady, match="no value for an input of type date"):
        page.get(css="#day").fill("tomorrow", timeout=3)
    with pytest.raises(ElementNotReady, match="cannot be filled"):
        page.get(css="#colour").fill("x", timeout=3)


def test_clear(page):
    page.get(css="#notes").clear()
    page.get(css="#notes").should(value="")


def test_type_appends_key_by_key(page):
    page.get(css="#notes").type(" and new")
    page.get(css="#notes").should(value="old and new")


def test_press_keys_and_chords(page, log):
    keys = page.get(css="#keys")
    keys.press("Enter")
    log.should(text="Enter")
    keys.press("ArrowDown")
    log.should(text="ArrowDown")
    keys.press("Control+b")
    log.should(text="Control+b")
    page.press("Escape")
    log.should(text="Escape")


def test_select_all_and_delete(page):
    notes = page.get(css="#notes")
    notes.press("Control+a")
    page.press("Delete")
    notes.should(value="")


def test_an_unknown_key_is_refused(page):
    with pytest.raises(ValueError, match="no key named"):
        page.get(css="#keys").press("Entr")


def test_check_and_uncheck(page):
    box = page.get(label="I accept")
    box.check()
    box.check()
    box.should(checked=True)
    box.uncheck()
    assert box.is_checked() is False


def test_radio_buttons(page):
    page.get(label="Large").check()
    assert page.get(label="Large").is_checked()
    assert not page.get(label="Small").is_checked()


def test_select_by_value_or_label(page):
    assert page.get(css="#colour").select("Green") == ["g"]
    page.get(css="#colour").should(value="g")
    assert page.get(css="#colour").select("r") == ["r"]
    assert page.get(css="#tags").select("a", "c") == ["a", "c"]


def test_select_names_the_options_that_there_are(page):
    with pytest.raises(
        ElementNotReady, match="no option 'Blue'; it has 'Red', 'Green'"
    ):
        page.get(css="#colour").select("Blue", timeout=0.2)


def test_upload(page, log, tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("1", encoding="utf-8")
    two.write_text("22", encoding="utf-8")
    page.get(label="File").upload(one, two)
    log.should(text="one.txt:1 two.txt:2")


def test_upload_of_a_missing_file_is_refused(page):
    with pytest.raises(FileNotFoundError):
        page.get(label="File").upload("nowhere.txt")


def test_drag_and_drop(page, log):
    page.get(css="#source").drag_to(page.get(css="#target"))
    log.should(text="dropped dragged")


def test_focus_and_blur(page):
    name = page.get(css="#name")
    name.focus()
    name.should(focused=True)
    name.blur()
    assert name.is_focused() is False


def test_scrolling(page):
    page.get(css="#far").scroll_into_view()
    assert page.evaluate("scrollY") > 500
    page.evaluate("scrollTo(0, 0)")
    page.scroll(y=300)
    assert page.evaluate("scrollY") == 300


# Waiting, and its reasons --------------------------------------------------------------


def test_a_late_element_is_waited_for(page, log):
    page.get(text="Make late").click()
    page.get(role="button", name="Late", exact=True).click()
    log.should(text="late clicked")


def test_a_covered_element_is_waited_for(page, log):
    page.get(text="Cover shortly").click()
    page.get(css="#send").click()
    log.should(contains="sent by")


def test_a_moving_element_is_waited_for(page, log):
    page.get(css="#moving").click()
    log.should(text="caught")


def test_a_disabled_element_is_waited_for(page):
    page.get(text="Enable").click()
    page.get(css="#off").click()


def test_a_replaced_element_is_found_again(page, log):
    page.get(text="Replace").click()
    page.get(css="#send").should(visible=True)
    page.get(css="#send").click()
    log.should(contains="sent by")


@pytest.mark.parametrize(
    ("css", "reason"),
    [
        ("#nothing", "no element matches"),
        ("#hidden", "hidden by display: none"),
        ("#invisible", "hidden by visibility: hidden"),
        ("#flat", "hidden: its size is"),
        ("#off", "disabled"),
    ],
)
def test_each_reason_is_told(page, css, reason):
    with pytest.raises(ElementNotReady) as caught:
        page.get(css=css).click(timeout=0.2)
    assert caught.value.reason.startswith(reason)
    assert caught.value.verb == "click"
    assert 0.1 < caught.value.waited < 5


def test_covered_names_what_covers(page):
    page.get(role="button", name="Cover", exact=True).click()
    with pytest.raises(
        ElementNotReady,
        match=r"cannot click get\(css='#send'\): covered by <div#overlay> \(waited \d+\.\d s\)",
    ):
        page.get(css="#send").click(timeout=0.3)


def test_read_only_is_told_for_fill(page):
    with pytest.raises(ElementNotReady, match="read-only"):
        page.get(css="#locked").fill("x", timeout=0.2)
    assert page.get(css="#locked").is_editable() is False
    assert page.get(css="#locked").is_enabled() is True


# Reading and asserting -----------------------------------------------------------------


def test_reading(page):
    assert page.get(testid="total").text() == "42"
    assert page.get(css="#locked").value() == "fixed"
    assert page.get(css="#name").attribute("placeholder") == "Your name"
    assert page.get(css="#name").attribute("nothing") is None
    assert page.get(css="#edit").html() == "text"
    assert page.get(css="#tall").style("height") == "2000px"
    assert page.get(css=".box").nth(0).box()["width"] == 80
    assert page.get(css="#hidden").is_visible() is False
    assert page.get(css="h1").is_visible() is True
    assert page.get(css="#nothing").count() == 0


def test_should_holds_for_many_things_at_once(page):
    page.get(css="#name").should(
        visible=True, enabled=True, value="", attribute={"id": "name", "x": None}
    )
    page.get(css="#list li").should(
        count=3, texts=["apple", "banana", re.compile("pie")]
    )
    page.get(css="#nothing").should(visible=False)
    page.get(css="#hidden").should(visible=False)
    page.get(css="#tall").should(style={"height": "2000px"})


def test_should_fails_with_what_is_the_case(page):
    with pytest.raises(ExpectationFailed) as caught:
        page.get(testid="total").should(text="43", visible=True, timeout=0.2)
    assert isinstance(caught.value, AssertionError)
    assert caught.value.failures == ["text '43', but it is '42'"]
    with pytest.raises(ExpectationFailed, match="count 2, but it is 3"):
        page.get(css="#list li").should(count=2, timeout=0.1)


def test_should_needs_an_expectation(page):
    with pytest.raises(TypeError, match="at least one"):
        page.get(css="h1").should()


# Pages, frames, tabs -------------------------------------------------------------------


def test_history_and_addresses(page, site):
    page.get(role="link", name="Second page").click()
    page.should_be_at("/second.html")
    assert page.title == "Second"
    page.back()
    page.should_be_at(f"{site}/index.html")
    page.forward()
    page.reload()
    assert page.url == f"{site}/second.html"
    with pytest.raises(ExpectationFailed, match="but it is"):
        page.should_be_at("/third.html", timeout=0.1)


def test_nobody_at_an_address(browser, free_port):
    with pytest.raises(NavigationFailed, match="ERR_CONNECTION_REFUSED") as caught:
        browser.open(f"http://127.0.0.1:{free_port}/")
    assert caught.value.url == f"http://127.0.0.1:{free_port}/"


def test_what_follows_a_failed_open_is_not_cut_off(browser, site, free_port):
    for _ in range(2):
        with pytest.raises(NavigationFailed, match="ERR_CONNECTION_REFUSED"):
            browser.open(f"http://127.0.0.1:{free_port}/")
        browser.open("/second.html")
        assert browser.title == "Second"
        with pytest.raises(NavigationFailed, match="ERR_CONNECTION_REFUSED"):
            browser.open(f"http://127.0.0.1:{free_port}/")
        assert browser.evaluate("document.title") == "127.0.0.1"
        with pytest.raises(NavigationFailed, match="reload.*ERR_CONNECTION_REFUSED"):
            browser.reload()
        browser.open("/index.html")
        assert browser.url == f"{site}/index.html"


def test_a_page_that_takes_too_long(browser):
    with pytest.raises(NavigationFailed, match=r"did not load in 0\.5 s"):
        browser.open("/slow", timeout=0.5)


def test_a_page_that_took_too_long_does_not_come_later(page, site):
    with pytest.raises(NavigationFailed, match="did not load"):
        page.open("/slow?1", timeout=0.3)
    assert page.evaluate("() => new Promise(done => setTimeout(done, 1500, 1))") == 1
    assert page.url == f"{site}/index.html"


def test_a_script_that_loses_its_page_is_a_browser_error(page):
    with pytest.raises(BrowserError):
        page.evaluate("() => new Promise(() => location.reload())")
    page.should_be_at("/index.html")


@pytest.mark.parametrize(
    "leaving",
    [
        "() => { location.reload(); return 1; }",
        "() => { location.href = '/slow?0.3'; return 1; }",
    ],
)
def test_open_is_not_cut_off_by_what_the_last_page_began(page, site, leaving):
    for turn in range(5):
        page.evaluate(leaving)
        page.open(f"/second.html?{turn}")
        page.should_be_at(f"{site}/second.html?{turn}")


def test_frames(page):
    frame = page.get(title="Outer frame").frame()
    frame.get(role="button", name="In frame").click()
    frame.get(css="button").should(text="pressed")
    frame.get(label="Inner").fill("x")
    deep = frame.get(css="#inner").frame()
    deep.get(text="Deepest").click()
    deep.get(css="button").should(text="deep")
    assert deep.evaluate("document.querySelectorAll('button').length") == 1
    page.get(css="h1").should(text="Shop")
    with pytest.raises(ElementNotReady, match="no frame: no element matches"):
        page.get(css="#none").frame().get(css="b").click(timeout=0.2)


def test_tabs(page):
    page.get(text="New tab").click()
    page.wait_for_tab()
    page.get(css="h1").should(text="Second page")
    assert sorted(tab.title for tab in page.tabs) == ["Home", "Second"]
    page.use_tab("Home")
    page.get(css="h1").should(text="Shop")
    page.use_tab("Second")
    page.close_tab()
    assert [tab.title for tab in page.tabs] == ["Home"]
    page.new_tab("/second.html")
    assert page.title == "Second"
    page.close_tab()
    with pytest.raises(BrowserError, match="0 tabs are 'Third'"):
        page.use_tab("Third")
    with pytest.raises(NothingHappened, match="no tab came"):
        page.wait_for_tab(timeout=0.1)


# Dialogs, downloads, network, state ------------------------------------------------------


def test_dialogs_are_answered(page, log):
    with page.dialog(accept=True) as dialog:
        page.get(text="Confirm").click()
    assert dialog.message == "Sure?"
    log.should(text="said true")
    with page.dialog(accept=False):
        page.get(text="Confirm").click()
    log.should(text="said false")
    with page.dialog(text="Ada") as dialog:
        page.get(text="Prompt").click()
    assert dialog.message == "Who?"
    log.should(text="got Ada")


def test_an_unexpected_dialog_is_dismissed(page, log):
    page.get(text="Confirm").click()
    log.should(text="said false")


def test_a_dialog_that_does_not_come(page):
    with pytest.raises(NothingHappened, match="no dialog came"):
        with page.dialog(timeout=0.1):
            pass


def test_an_error_in_the_block_is_not_hidden(page):
    with pytest.raises(ZeroDivisionError):
        with page.dialog(timeout=0.1):
            raise ZeroDivisionError


def test_after_an_error_in_the_block_dialogs_are_dismissed_again(page, log):
    with pytest.raises(ZeroDivisionError):
        with page.dialog(accept=True):
            raise ZeroDivisionError
    page.get(text="Confirm").click()
    log.should(text="said false")


def test_download(page):
    with page.download() as download:
        page.get(text="Download").click()
    assert download.name == "report.csv"
    assert download.path.read_text(encoding="utf-8") == "a,b\n1,2\n"
    with pytest.raises(NothingHappened, match="no download came"):
        with page.download(timeout=0.1):
            pass


def test_console_and_errors(page):
    page.get(text="Log", exact=True).click()
    page.get(text="Warn").click()
    page.get(text="Throw").click()
    for part in ("hello console", "careful", "boom"):  # Selenium tells in any order
        page.wait_for_console(part)
    kinds = {message.text: message.kind for message in page.console}
    assert kinds["hello console"] == "log"
    assert kinds["careful"] == "warning"
    assert [kind for text, kind in kinds.items() if "boom" in text] == ["exception"]


def test_requests_are_kept(page, site):
    page.get(text="Fetch").click()
    request = page.wait_for_request("/api/items")
    assert (request.method, request.url, request.status) == (
        "GET",
        f"{site}/api/items",
        200,
    )


def test_routes_answer_instead_of_the_server(page, log):
    with page.route("**/api/*", json=["mocked"]):
        page.get(text="Fetch").click()
        log.should(text="mocked")
        with page.route("/api/items", abort=True):
            page.get(text="Fetch").click()
            log.should(text="network down")
    page.get(text="Fetch").click()
    log.should(text="one,two")


def test_cookies(page, site):
    page.clear_cookies()
    page.open("/set-cookie")
    assert {c["name"]: c["value"] for c in page.cookies} == {"from": "server"}
    page.set_cookies([{"name": "mine", "value": "1", "url": site}])
    assert {c["name"] for c in page.cookies} == {"from", "mine"}
    page.clear_cookies()
    assert page.cookies == []
    with pytest.raises(ValueError, match="needs url or domain"):
        page.set_cookies([{"name": "a", "value": "b"}])


def test_storage_state_moves_to_a_new_context(page, site, tmp_path):
    page.get(text="Store", exact=True).click()
    page.storage_state(tmp_path / "state.json")
    state = json.loads((tmp_path / "state.json").read_text(encoding="utf-8"))
    assert state["origins"] == [
        {"origin": site, "localStorage": [{"name": "k", "value": "v"}]}
    ]
    with page.new_context() as other:
        other.open("/index.html")
        assert other.evaluate("localStorage.getItem('k')") is None
        assert other.cookies == []
        other.load_storage_state(tmp_path / "state.json")
        other.open("/index.html")
        assert other.evaluate("localStorage.getItem('k')") == "v"
        assert "c" in [cookie["name"] for cookie in other.cookies]
    page.get(css="h1").should(text="Shop")
    page.clear_cookies()


def test_evaluate(page):
    assert page.evaluate("1 + 1") == 2
    assert page.evaluate("({a}) => a * 2", {"a": 4}) == 8
    assert page.evaluate("async () => 'later'") == "later"
    assert page.evaluate("undefined") is None
    assert page.get(css="h1").evaluate("(el, x) => el.tagName + x", "!") == "H1!"
    with pytest.raises(ScriptFailed, match="ReferenceError: nope is not defined"):
        page.evaluate("nope")


def test_pictures_and_print(page, tmp_path):
    assert page.screenshot(tmp_path / "a" / "view.png").startswith(b"\x89PNG")
    whole = page.screenshot(full_page=True)
    assert _size(whole)[1] > 2000 > _size((tmp_path / "a/view.png").read_bytes())[1]
    assert 80 <= _size(page.get(css="#source").screenshot())[0] <= 82
    assert page.pdf(tmp_path / "page.pdf").startswith(b"%PDF")


def _size(png):
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
